package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/catalog/openapi"
	"github.com/tollway/tollway/services/catalog/store"
	"github.com/tollway/tollway/services/platform/ledger"
)

// maxDocument bounds an OpenAPI document.
const maxDocument = 4 << 20

// ImportOpenApi makes the operations of an API from a document. What the document
// does not say, such as labels, stays as it is.
func (s *Service) ImportOpenApi(ctx context.Context, r *catalogv1.ImportOpenApiRequest) (*catalogv1.ApplyResponse, error) {
	if err := kind.API.CheckName(r.GetName()); err != nil {
		return nil, s.status(wrong("name", "%v", err))
	}
	if len(r.GetDocument()) > maxDocument {
		return nil, s.status(wrong("document", "is larger than %d bytes", maxDocument))
	}
	api, operations, err := openapi.Import(r.GetDocument())
	if err != nil {
		return nil, s.status(wrong("document", "%v", err))
	}
	if len(operations) >= maxResources {
		return nil, s.status(wrong("document", "has %d operations, fewer than %d are allowed", len(operations), maxResources))
	}
	var answer *catalogv1.ApplyResponse
	err = s.write(ctx, r.GetValidateOnly(), func(u *unit) error {
		resources, leaving, err := u.described(ctx, r.GetName(), api, operations)
		if err != nil {
			return err
		}
		items, err := readItems(resources)
		if err != nil {
			return documented(err, resources)
		}
		if !r.GetPrune() {
			leaving = nil
		}
		if err := u.applyAll(ctx, items, leaving); err != nil {
			return err
		}
		answer = u.answer(items)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// described are the API and its operations as a document has them, and the names
// of the operations that it does not have.
func (u *unit) described(ctx context.Context, name string, doc openapi.API, operations []openapi.Operation) (resources []*catalogv1.Resource, leaving []string, err error) {
	api := &catalogv1.Api{Name: name}
	before, err := store.Get(ctx, u.tx, name)
	switch {
	case err == nil:
		api = proto.Clone(before.Message).(*catalogv1.Api)
		api.Etag = ""
	case !errors.Is(err, ledger.ErrNotFound):
		return nil, nil, err
	}
	api.DisplayName = cmp.Or(api.GetDisplayName(), cut(doc.Title))
	api.Hosts, api.BasePaths = doc.Hosts, doc.BasePaths
	there := map[string]*catalogv1.Operation{}
	stored, err := store.Below(ctx, u.tx, kind.Operation, name, store.Place{}, 2*maxResources)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range stored {
		there[s.Name] = s.Message.(*catalogv1.Operation)
	}
	resources = append(resources, kind.API.Wrap(api))
	for _, described := range operations {
		op := &catalogv1.Operation{Name: kind.Operation.Name(name, described.ID)}
		if before := there[op.GetName()]; before != nil {
			op.Labels = before.GetLabels()
			delete(there, op.GetName())
		}
		op.DisplayName, op.Method, op.PathTemplate = cut(described.DisplayName), described.Method, described.Template
		resources = append(resources, kind.Operation.Wrap(op))
	}
	for left := range there {
		leaving = append(leaving, left)
	}
	slices.Sort(leaving)
	return resources, leaving, nil
}

// cut makes a title fit: documents have no limit for it.
func cut(title string) string {
	if runes := []rune(title); len(runes) > 200 {
		return string(runes[:199]) + "…"
	}
	return title
}

// documented says in violations which part of the document they are about.
func documented(err error, resources []*catalogv1.Resource) error {
	violations, ok := asViolations(err)
	if !ok {
		return err
	}
	out := kind.Violations{}
	for _, v := range violations.List {
		out.Add("document", "%s: %s", where(v.GetField(), resources), v.GetDescription())
	}
	return &out
}

// where replaces the place in the list of resources by the resource's name.
func where(field string, resources []*catalogv1.Resource) string {
	for i, r := range resources {
		if rest, ok := strings.CutPrefix(field, fmt.Sprintf("resources[%d]", i)); ok {
			_, m, _ := kind.Unwrap(r)
			return m.(kind.Resource).GetName() + rest
		}
	}
	return field
}
