package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/tollway/tollway/pipelines/attribute/operation"
	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/catalog/store"
)

// moved are the operations that a write has given another place, and the APIs
// that it has put under other hosts or base paths.
type moved struct {
	operations, apis map[string]bool
}

func (u *unit) moved() moved {
	m := moved{map[string]bool{}, map[string]bool{}}
	for _, c := range u.changes {
		created := c.action == catalogv1.ChangeAction_CREATED
		updated := c.action == catalogv1.ChangeAction_UPDATED
		switch c.kind {
		case kind.Operation:
			if created || updated && (contains(c.fields, "method") || contains(c.fields, "path_template")) {
				m.operations[c.name] = true
			}
		case kind.API:
			if updated && (contains(c.fields, "hosts") || contains(c.fields, "base_paths")) {
				m.apis[c.name] = true
			}
		}
	}
	return m
}

// has tells whether the write is to blame for what a target matches.
func (m moved) has(t operation.Target) bool { return m.apis[t.API] || m.operations[t.Operation] }

// touched are the APIs that the write is about.
func (m moved) touched() map[string]bool {
	out := map[string]bool{}
	for name := range m.apis {
		out[name] = true
	}
	for name := range m.operations {
		api, _ := kind.Split(name)
		out[api] = true
	}
	return out
}

// checkMatching refuses a write after which one call would be of two operations.
// Within an API with one base path their unique keys tell; this is for APIs that
// share a host, and for base paths that begin with one another. What was so before
// the write is no reason to refuse it.
func (u *unit) checkMatching(ctx context.Context) error {
	m := u.moved()
	touched := m.touched()
	if len(touched) == 0 {
		return nil
	}
	apis, err := u.all(ctx, kind.API, "")
	if err != nil {
		return err
	}
	var rules []operation.Rule
	for _, api := range meeting(apis, touched) {
		more, err := u.rulesOf(ctx, api)
		if err != nil {
			return err
		}
		rules = append(rules, more...)
	}
	for range maxOldConflicts {
		_, err := operation.New(rules)
		var c *operation.Conflict
		if !errors.As(err, &c) {
			return nil // none, or what is malformed, which was checked before
		}
		if m.has(c.Second) || m.has(c.First) {
			return u.conflicting(m, c)
		}
		rules = slices.DeleteFunc(rules, func(r operation.Rule) bool { return r.Operation == c.Second.Operation })
	}
	return nil
}

// maxOldConflicts bounds how many are set aside to look for new ones. Whoever
// reads the catalog reports them all.
const maxOldConflicts = 100

// meeting are the APIs that may match what one of those touched matches.
func meeting(stored []*store.Stored, touched map[string]bool) []*catalogv1.Api {
	meets := map[string]bool{}
	for _, s := range stored {
		for _, other := range stored {
			if touched[s.Name] && mayMeet(s.Message.(*catalogv1.Api), other.Message.(*catalogv1.Api)) {
				meets[s.Name], meets[other.Name] = true, true
			}
		}
	}
	var out []*catalogv1.Api
	for _, s := range stored {
		if meets[s.Name] {
			out = append(out, s.Message.(*catalogv1.Api))
		}
	}
	return out
}

// all reads every resource of a kind below a parent.
func (u *unit) all(ctx context.Context, k *kind.Kind, parent string) ([]*store.Stored, error) {
	var out []*store.Stored
	var at store.Place
	for {
		batch, err := store.Below(ctx, u.tx, k, parent, at, readAhead)
		out = append(out, batch...)
		if err != nil || len(batch) < readAhead {
			return out, err
		}
		at.Name = out[len(out)-1].Name
	}
}

// basePaths are an API's, with the one that it has if it names none.
func basePaths(api *catalogv1.Api) []string {
	if len(api.GetBasePaths()) == 0 {
		return []string{"/"}
	}
	return api.GetBasePaths()
}

// mayMeet tells whether an operation of one API can match what one of the other
// matches. Hosts count as they are written: one that is named and a pattern that
// covers it do not exclude each other.
func mayMeet(a, b *catalogv1.Api) bool {
	if a.GetName() == b.GetName() {
		return len(basePaths(a)) > 1
	}
	if len(a.GetHosts()) > 0 || len(b.GetHosts()) > 0 {
		if !slices.ContainsFunc(a.GetHosts(), func(h string) bool { return slices.Contains(b.GetHosts(), h) }) {
			return false
		}
	}
	return slices.ContainsFunc(basePaths(a), func(p string) bool {
		return slices.ContainsFunc(basePaths(b), func(q string) bool { return goesInto(p, q) || goesInto(q, p) })
	})
}

// goesInto tells whether a path lies in, or is, a base path. Escapes are left to
// who compares whole rules, so that it says yes too often rather than too rarely.
func goesInto(path, base string) bool {
	base = strings.TrimSuffix(base, "/")
	return strings.Contains(path+base, "%") || path == base || strings.HasPrefix(path+"/", base+"/")
}

// rulesOf says what the operations of an API match, by the names of the resources.
func (u *unit) rulesOf(ctx context.Context, api *catalogv1.Api) ([]operation.Rule, error) {
	operations, err := u.all(ctx, kind.Operation, api.GetName())
	if err != nil {
		return nil, err
	}
	var rules []operation.Rule
	for _, s := range operations {
		o := s.Message.(*catalogv1.Operation)
		for _, base := range basePaths(api) {
			rules = append(rules, operation.Rule{
				API: api.GetName(), Operation: s.Name, Hosts: api.GetHosts(), BasePath: base, Method: o.GetMethod(), Template: o.GetPathTemplate(),
			})
		}
	}
	return rules, nil
}

// conflicting names what the write has moved to the place of another operation.
func (u *unit) conflicting(m moved, c *operation.Conflict) error {
	mine, other := c.Second, c.First
	if !m.has(mine) {
		mine, other = other, mine
	}
	name, field := mine.Operation, "path_template"
	if !m.operations[mine.Operation] {
		name, field = mine.API, "base_paths"
	}
	host := c.Host
	if host == "*" {
		host = "any host"
	}
	text := fmt.Sprintf("%s would match the same calls as %s: %s %s on %s", mine.Operation, other.Operation, c.Method, c.Path, host)
	var v kind.Violations
	v.Add(field, "%s", text)
	err := badRequest(codes.AlreadyExists, field+": "+text, v.List)
	for _, it := range u.items {
		if it.name == name {
			return it.locate(err)
		}
	}
	return err
}
