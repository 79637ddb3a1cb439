// Package attribute finds out who made a call and what was called: credential,
// app, account, subscription, plan and product, API and operation.
//
// In: records of the catalog (Builder), and batches of calls with what their
// source said. Out: an immutable Snapshot of the catalog, which fills the
// columns of batches, and answers who a credential belongs to and what it may
// call. The package is pure: what it says follows from the records and the
// call, whose own time counts and never the time of day. A crash loses nothing;
// the records are read again.
//
// # What decides
//
// The catalog wins where it knows better, and what a trusted source sent stays
// where it does not:
//
//   - API and operation are those of the catalog that the call's method, host and
//     path match. Nothing matches: as sent.
//   - A credential that the catalog knows, by its id or by the client, subject or
//     certificate that it stands for, decides about app and account. One that it
//     does not know leaves both as sent; then an app or account that the source
//     named is looked for in the catalog, so that its subscriptions count.
//   - The subscription is one whose period holds the time of the call and whose
//     product contains the operation, in the call's environment: the app's own
//     before the account's, then one whose product names the operation before one
//     that has its whole API, then the oldest. It decides about product and plan;
//     the plan is the version whose phase holds the time of the call. When the
//     catalog does not know the API, the product that was sent stands for it.
//   - Without a subscription, the product is the only one that contains the
//     operation, by name rather than with its whole API; where several do, the one
//     that was sent if it is among them. A known credential without a subscription
//     has no plan.
//
// Whatever was called before a credential was made, or after it was revoked or
// has expired, is attributed to it all the same: who else would it have been?
// Whether it was let through is for whoever checks credentials; that the key of
// an app is used after its end is for the app's owner to see. In the same way a
// suspended subscription keeps its calls.
//
// Attributing what is attributed changes nothing. What cannot be found out is
// empty, "(not set)" in reports.
package attribute

import (
	"github.com/tollway/tollway/pipelines/attribute/operation"
	"github.com/tollway/tollway/pipelines/call"
)

// Snapshot is the catalog at one moment. It never changes, and is read by any
// number of goroutines.
type Snapshot struct {
	version  uint64
	matching *matching

	accounts    map[string]*Account
	apps        map[string]*App
	products    map[string]*Product
	credentials map[string]*Credential // by id and by what a gateway writes
	keys        map[[hashSize]byte]*Credential
	tokens      map[[hashSize]byte]*Token
	holders     map[string][]*Product // by api/operation, and by api for whole APIs
}

// Empty is what is known before anything was read.
func Empty() *Snapshot { return NewBuilder().Snapshot() }

// Version is the highest sequence of a change in the snapshot.
func (s *Snapshot) Version() uint64 { return s.version }

// Problems are operations that calls cannot be matched with, and why.
func (s *Snapshot) Problems() []string { return s.matching.problems }

// Counts is how much the snapshot holds.
type Counts struct{ Accounts, Apps, Credentials, Products, Operations, Tokens int }

// Counts counts.
func (s *Snapshot) Counts() Counts {
	unique := map[*Credential]struct{}{}
	for _, c := range s.credentials {
		unique[c] = struct{}{}
	}
	return Counts{len(s.accounts), len(s.apps), len(unique), len(s.products), len(s.matching.full), len(s.tokens)}
}

// Key finds the credential of an API key by the key's hash.
func (s *Snapshot) Key(hash [hashSize]byte) (*Credential, bool) {
	c, ok := s.keys[hash]
	return c, ok
}

// Credential finds a credential by its id, or by what the column of a call says
// of what the gateway verified (call.AppendClient and its like).
func (s *Snapshot) Credential(column []byte) (*Credential, bool) {
	c, ok := s.credentials[string(column)]
	return c, ok
}

// Token finds an access token by its hash.
func (s *Snapshot) Token(hash [hashSize]byte) (*Token, bool) {
	t, ok := s.tokens[hash]
	return t, ok
}

// Grant is what a credential stands for when it calls something.
type Grant struct {
	API, Operation string
	Product        string
	Subscription   *Subscription // nil: none
	Plan           string
}

// Grant finds what a call with a credential, or with none, would be attributed
// to at a time.
func (s *Snapshot) Grant(c *Credential, method, host, path, environment string, at int64) (g Grant) {
	if t, ok := s.matching.find(method, host, path); ok {
		g.API, g.Operation = t.API, t.Operation
	}
	var products [8]holder
	what := s.target(products[:0], g.API, g.Operation, "", environment)
	if c != nil {
		var space [8]candidate
		for _, found := range candidates(space[:0], c.App, c.App.Account, what) {
			if found.covers(at) {
				g.Subscription, g.Product, g.Plan = found.Subscription, found.Product.ID, found.Plan(at)
				return g
			}
		}
	}
	g.Product = what.product("")
	return g
}

func (m *matching) find(method, host, path string) (operation.Target, bool) {
	if m.matcher == nil {
		return operation.Target{}, false
	}
	return m.matcher.Match(method, host, path)
}

// target is what was called, as far as the catalog knows it. Its holders are
// appended to dst.
func (s *Snapshot) target(dst []holder, api, op, product, environment string) target {
	if _, ok := s.matching.apis[api]; !ok {
		p := s.products[product]
		if p != nil && p.in(environment) {
			dst = append(dst, holder{p, true})
		}
		return target{known: product != "", holders: dst}
	}
	if full, ok := s.matching.full[operation.Target{API: api, Operation: op}]; ok {
		dst = appendHolders(dst, s.holders[full], environment, true)
	}
	return target{known: true, holders: appendHolders(dst, s.holders[api], environment, false)}
}

func appendHolders(dst []holder, products []*Product, environment string, byName bool) []holder {
	for _, p := range products {
		if _, again := (target{holders: dst}).holds(p); !again && p.in(environment) {
			dst = append(dst, holder{p, byName})
		}
	}
	return dst
}

// candidate is a subscription to a product that contains what was called.
type candidate struct {
	*Subscription
	byName bool
}

// candidates are the subscriptions that a call could belong to, the first one
// that holds its time being the one.
func candidates(dst []candidate, app *App, account *Account, t target) []candidate {
	if app != nil {
		dst = appendCandidates(dst, app.subscriptions, t)
	}
	if account != nil {
		dst = appendCandidates(dst, account.subscriptions, t)
	}
	return dst
}

// appendCandidates puts those whose product names the operation first, and keeps
// the order of age otherwise.
func appendCandidates(dst []candidate, from []*Subscription, t target) []candidate {
	for _, byName := range [2]bool{true, false} {
		for _, s := range from {
			if h, ok := t.holds(s.Product); ok && h.byName == byName {
				dst = append(dst, candidate{s, byName})
			}
		}
	}
	return dst
}

// Attribute fills in who called what, and returns the version of the catalog
// that it used.
func (s *Snapshot) Attribute(b *call.Batch) uint64 {
	w := workPool.Get().(*work)
	w.run(s, b)
	workPool.Put(w)
	return s.version
}
