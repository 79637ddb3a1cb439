package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tollway/tollway/cmd/tollway/manifest"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// completionTimeout is how long a shell waits for names.
const completionTimeout = 2 * time.Second

// catalogClient asks for resources of any kind.
type catalogClient struct{ clientFlags }

// do sends a message and reads the answer into another; both may be nil.
func (c *catalogClient) do(ctx context.Context, method, path string, query url.Values, body, into proto.Message) error {
	var payload any
	if body != nil {
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(body)
		if err != nil {
			return fmt.Errorf("write the request: %w", err)
		}
		payload = json.RawMessage(text)
	}
	var answer json.RawMessage
	if err := c.call(ctx, method, path, query, payload, &answer); err != nil || into == nil {
		return err
	}
	return decode(answer, into)
}

// decode reads an answer of this or a newer server.
func decode(text []byte, into proto.Message) error {
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, into); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}

const pageSize = 1000 // the most that the server gives at once

// list reads all resources of a kind below a parent, in which "-" stands for
// any id.
func (c *catalogClient) list(ctx context.Context, kind *manifest.Kind, parent, filter, orderBy string) ([]*catalogv1.Resource, error) {
	path := "/v1/" + kind.Collection()
	if parent != "" {
		path = "/v1/" + parent + "/" + kind.Collection()
	}
	query := url.Values{"page_size": {strconv.Itoa(pageSize)}}
	for key, value := range map[string]string{"filter": filter, "order_by": orderBy} {
		if value != "" {
			query.Set(key, value)
		}
	}
	var resources []*catalogv1.Resource
	for {
		var page map[string]json.RawMessage
		if err := c.call(ctx, http.MethodGet, path, query, nil, &page); err != nil {
			return nil, err
		}
		var items []json.RawMessage
		var next string
		for field, into := range map[string]any{kind.Plural: &items, "next_page_token": &next} {
			if text, ok := page[field]; ok {
				if err := json.Unmarshal(text, into); err != nil {
					return nil, fmt.Errorf("read the answer: %s: %w", field, err)
				}
			}
		}
		for _, item := range items {
			r, m := kind.New()
			if err := decode(item, m); err != nil {
				return nil, err
			}
			resources = append(resources, r)
		}
		if next == "" {
			return resources, nil
		}
		query.Set("page_token", next)
	}
}

func (c *catalogClient) get(ctx context.Context, kind *manifest.Kind, name string) (*catalogv1.Resource, error) {
	r, m := kind.New()
	return r, c.do(ctx, http.MethodGet, "/v1/"+name, nil, nil, m)
}

func (c *catalogClient) delete(ctx context.Context, name string, dryRun bool) error {
	query := url.Values{}
	if dryRun {
		query.Set("validate_only", "true")
	}
	return c.do(ctx, http.MethodDelete, "/v1/"+name, query, nil, nil)
}

// create makes a resource below a parent. An empty id lets the server choose.
func (c *catalogClient) create(ctx context.Context, kind *manifest.Kind, parent, id string, m proto.Message) (*catalogv1.Resource, error) {
	path := "/v1/" + kind.Collection()
	if parent != "" {
		path = "/v1/" + parent + "/" + kind.Collection()
	}
	query := url.Values{}
	if id != "" {
		query.Set(string(kind.Field)+"_id", id)
	}
	r, into := kind.New()
	return r, c.do(ctx, http.MethodPost, path, query, m, into)
}

// kindNamed finds a kind that a command was asked for.
func kindNamed(text string) (*manifest.Kind, error) {
	kind, ok := manifest.KindNamed(text)
	if !ok {
		return nil, usageError("%q is not a kind of resource; there are %s", text, strings.Join(kindWords(), ", "))
	}
	return kind, nil
}

// kindWord is how commands call a kind: "plan-version".
func kindWord(kind *manifest.Kind) string { return strings.ReplaceAll(string(kind.Field), "_", "-") }

// article is the word with its article: "an app".
func article(kind *manifest.Kind) string {
	word := kindWord(kind)
	if strings.ContainsAny(word[:1], "aeiou") {
		return "an " + word
	}
	return "a " + word
}

func kindWords() []string {
	var words []string
	for _, k := range manifest.Kinds() {
		words = append(words, kindWord(k))
	}
	slices.Sort(words)
	return words
}

// anyID stands for any id in a list's parent.
const anyID = "-"

// fullName reads a resource's name as a person writes it: whole, or the ids
// alone, such as acme/web for accounts/acme/apps/web. Ids that are missing at
// the front come from the scope.
func fullName(kind *manifest.Kind, text string, s *scope) (string, error) {
	ids := idsOf(kind, text)
	if missing := kind.Depth() - len(ids); missing > 0 && s != nil {
		around, err := s.ids(kind)
		if err != nil {
			return "", err
		}
		ids = append(around[:missing:missing], ids...)
	}
	if len(ids) != kind.Depth() || slices.Contains(ids, "") || slices.Contains(ids, anyID) {
		return "", usageError("%q is not the name of %s, which is %s", text, article(kind), kind.Pattern)
	}
	return kind.Join(ids), nil
}

// idsOf takes the ids out of a name, or of ids joined by slashes.
func idsOf(kind *manifest.Kind, text string) []string {
	parts := strings.Split(text, "/")
	if !kind.Matches(text) {
		return parts
	}
	var ids []string
	for i := 1; i < len(parts); i += 2 {
		ids = append(ids, parts[i])
	}
	return ids
}

// A scope is where resources are looked for: --account acme.
type scope struct{ flags map[string]*string }

// scopeKinds are the kinds that others belong to.
var scopeKinds = []*manifest.Kind{manifest.Account, manifest.App, manifest.Api, manifest.Product, manifest.Plan}

func (s *scope) add(cmd *cobra.Command, c *catalogClient) {
	s.flags = map[string]*string{}
	for _, kind := range scopeKinds {
		flag := kindWord(kind)
		s.flags[kind.Pattern] = cmd.Flags().String(flag, "", "only what belongs to this "+flag)
		_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
			return c.completeNames(cmd, kind, typed)
		}) // the flag was added above
	}
}

// given is the name or the ids that a flag has for a kind.
func (s *scope) given(kind *manifest.Kind) string {
	if value := s.flags[kind.Pattern]; value != nil {
		return *value
	}
	return ""
}

// covers tells whether a kind can be within the scope.
func (s *scope) covers(kind *manifest.Kind) bool {
	for pattern, value := range s.flags {
		if *value != "" && pattern != kind.Pattern && !strings.HasPrefix(kind.Pattern, pattern+"/") {
			return false
		}
	}
	return true
}

// ids are the ids of the parent of a kind's names; anyID where none was given.
func (s *scope) ids(kind *manifest.Kind) ([]string, error) {
	var ids []string
	for _, k := range manifest.Kinds() { // parents before children
		if !strings.HasPrefix(kind.Pattern, k.Pattern+"/") {
			continue
		}
		ids = append(ids, anyID)
		value := s.given(k)
		if value == "" {
			continue
		}
		given := idsOf(k, value)
		if len(given) > len(ids) || slices.Contains(given, "") {
			return nil, usageError("--%s %q is not a name of one, which is %s", kindWord(k), value, k.Pattern)
		}
		copy(ids[len(ids)-len(given):], given)
	}
	return ids, nil
}

// parent is where a kind is listed within the scope.
func (s *scope) parent(kind *manifest.Kind) (string, error) {
	ids, err := s.ids(kind)
	parent := kind.Parent()
	for _, id := range ids {
		parent = strings.Replace(parent, "*", id, 1)
	}
	return parent, err
}

// find reads the resources of a kind within the scope. Whoever may not look into
// every account is shown its own.
func (c *catalogClient) find(ctx context.Context, kind *manifest.Kind, s *scope, filter, orderBy string) ([]*catalogv1.Resource, error) {
	resources, err := c.findWithin(ctx, kind, s, filter, orderBy)
	accounts := manifest.Account.Pattern
	if statusOf(err) != http.StatusForbidden || s.given(manifest.Account) != "" || kind.Pattern != accounts && !strings.HasPrefix(kind.Pattern, accounts+"/") {
		return resources, err
	}
	me, unknown := c.whoAmI(ctx)
	if unknown != nil || me.GetAccount() == "" {
		return nil, err
	}
	own := &scope{maps.Clone(s.flags)}
	own.flags[accounts] = &me.Account
	return c.findWithin(ctx, kind, own, filter, orderBy)
}

func (c *catalogClient) findWithin(ctx context.Context, kind *manifest.Kind, s *scope, filter, orderBy string) ([]*catalogv1.Resource, error) {
	if value := s.given(kind); value != "" {
		name, err := fullName(kind, value, s)
		if err != nil {
			return nil, err
		}
		one, err := c.get(ctx, kind, name)
		if err != nil {
			return nil, err
		}
		return []*catalogv1.Resource{one}, nil
	}
	parent, err := s.parent(kind)
	if err != nil {
		return nil, err
	}
	return c.list(ctx, kind, parent, filter, orderBy)
}

// target reads the first arguments of a command, KIND NAME… or NAME… alone.
func target(args []string, s *scope) (*manifest.Kind, []string, error) {
	var kind *manifest.Kind
	var err error
	if strings.Contains(args[0], "/") {
		var ok bool
		if kind, ok = manifest.KindOf(args[0]); !ok {
			return nil, nil, usageError("%q is not the name of a resource, such as accounts/acme; or say of which kind it is", args[0])
		}
	} else if kind, err = kindNamed(args[0]); err != nil {
		return nil, nil, err
	} else {
		args = args[1:]
	}
	names := make([]string, len(args))
	for i, text := range args {
		if names[i], err = fullName(kind, text, s); err != nil {
			return nil, nil, err
		}
	}
	return kind, names, nil
}

// completeTarget offers kinds, and then names of the kind.
func (c *catalogClient) completeTarget(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		var offers []string
		for _, word := range kindWords() {
			if strings.HasPrefix(word, typed) {
				offers = append(offers, word)
			}
		}
		return offers, cobra.ShellCompDirectiveNoFileComp
	}
	kind, ok := manifest.KindNamed(args[0])
	if !ok {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.completeNames(cmd, kind, typed)
}

// completeNames offers names of a kind. A server that cannot be asked offers
// none: a shell is no place for an error.
func (c *catalogClient) completeNames(cmd *cobra.Command, kind *manifest.Kind, typed string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	resources, err := c.find(ctx, kind, &scope{map[string]*string{}}, "", "")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var offers []string
	for _, r := range resources {
		if name := manifest.Name(r); strings.HasPrefix(name, typed) {
			offers = append(offers, name)
		}
	}
	return offers, cobra.ShellCompDirectiveNoFileComp
}
