package attribute

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tollway/tollway/pipelines/attribute/operation"
	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// Builder takes records of the catalog in any order and makes snapshots of
// what it knows. It belongs to one goroutine.
type Builder struct {
	version uint64
	entries map[string]entry

	matching *matching // of the APIs and operations as they are; nil when they changed
}

// entry is what is kept of the newest record about a name.
type entry struct {
	sequence int64
	// value is nil for a resource that was deleted or of which nothing is
	// needed here.
	value any
}

// NewBuilder makes a builder that knows nothing.
func NewBuilder() *Builder { return &Builder{entries: map[string]entry{}} }

// hashSize is the length of the hash of a key or token.
const hashSize = 32

// Forms in which records are kept.
type (
	accountEntry struct {
		id    string
		state catalogv1.AccountState
	}
	appEntry struct {
		id       string
		disabled bool
	}
	credentialEntry struct {
		id      string
		column  string // what the column of a call says before attribution
		key     bool   // an API key, with this hash
		hash    [hashSize]byte
		ends    int64
		revoked bool
	}
	apiEntry struct {
		id               string
		hosts, basePaths []string
	}
	operationEntry struct {
		id, method, template string
		sequence             int64
	}
	productEntry struct {
		id           string
		operations   []string
		environments []string
	}
	subscriptionEntry struct {
		id, app, product string
		start, end       int64
		state            catalogv1.SubscriptionState
		phases           []phase
	}
	tokenEntry struct {
		hash  [hashSize]byte
		token Token
	}
)

// Errors about a record that cannot be used.
var (
	ErrEmpty = errors.New("the record has no resource")
	ErrKey   = errors.New("the record's key is not the name of its resource")
	ErrHash  = errors.New("the record has no hash of 32 bytes")
)

// Apply takes a record, nil for a resource that was deleted. sequence is that
// of the change; 0 stands for the record's own or, of a deletion, for a change
// that is newer than all before. A record that is older than what is known
// about its name changes nothing. After an error what was known stays.
func (b *Builder) Apply(name string, r *catalogv1.Record, sequence int64) (changed bool, err error) {
	if sequence == 0 {
		sequence = r.GetSequence()
	}
	old, known := b.entries[name]
	if known && sequence != 0 && sequence < old.sequence {
		return false, nil
	}
	var value any
	if r != nil {
		if value, err = parse(name, r); err != nil {
			return false, fmt.Errorf("%s: %w", name, err)
		}
	}
	b.version = max(b.version, uint64(max(sequence, 0)))
	if r == nil && !known {
		return false, nil
	}
	if isPath(old.value) || isPath(value) {
		b.matching = nil
	}
	b.entries[name] = entry{max(sequence, old.sequence), value}
	return true, nil
}

func isPath(value any) bool {
	switch value.(type) {
	case *apiEntry, *operationEntry:
		return true
	}
	return false
}

// parse keeps what attribution and authorization need of a record.
func parse(name string, r *catalogv1.Record) (any, error) {
	id := strings.Clone(ID(name))
	switch kind := r.GetResource().GetKind().(type) {
	case nil:
		return nil, ErrEmpty
	case *catalogv1.Resource_Account:
		return &accountEntry{id, kind.Account.GetState()}, sameName(name, kind.Account.GetName())
	case *catalogv1.Resource_App:
		return &appEntry{id, kind.App.GetDisabled()}, sameName(name, kind.App.GetName())
	case *catalogv1.Resource_Credential:
		return parseCredential(id, name, kind.Credential, r.GetSecretHash())
	case *catalogv1.Resource_Api:
		a := kind.Api
		return &apiEntry{id, a.GetHosts(), a.GetBasePaths()}, sameName(name, a.GetName())
	case *catalogv1.Resource_Operation:
		o := kind.Operation
		return &operationEntry{id, o.GetMethod(), o.GetPathTemplate(), r.GetSequence()}, sameName(name, o.GetName())
	case *catalogv1.Resource_Product:
		return &productEntry{id, ids(kind.Product.GetOperations()), ids(kind.Product.GetEnvironments())}, sameName(name, kind.Product.GetName())
	case *catalogv1.Resource_Subscription:
		return parseSubscription(id, kind.Subscription), sameName(name, kind.Subscription.GetName())
	case *catalogv1.Resource_Token:
		return parseToken(name, kind.Token, r.GetSecretHash())
	}
	return nil, nil // plans, meters and the like say nothing about who called
}

func sameName(key, name string) error {
	if key != name {
		return ErrKey
	}
	return nil
}

func ids(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = ID(n)
	}
	return out
}

func parseCredential(id, name string, c *catalogv1.Credential, hash []byte) (any, error) {
	e := &credentialEntry{id: id, ends: micros(c.GetExpireTime(), Never)}
	if c.GetRevokeTime() != nil {
		e.revoked, e.ends = true, min(e.ends, micros(c.GetRevokeTime(), Never))
	}
	switch kind := c.GetKind().(type) {
	case *catalogv1.Credential_ApiKey:
		if len(hash) != hashSize {
			return nil, ErrHash
		}
		e.key, e.hash = true, [hashSize]byte(hash)
		e.column = kind.ApiKey.GetPrefix()
	case *catalogv1.Credential_OauthClient:
		e.column = string(call.AppendClient(nil, kind.OauthClient.GetIssuer(), kind.OauthClient.GetClientId()))
	case *catalogv1.Credential_JwtSubject:
		e.column = string(call.AppendSubject(nil, kind.JwtSubject.GetIssuer(), kind.JwtSubject.GetSubject()))
	case *catalogv1.Credential_ClientCertificate:
		e.column = string(call.AppendCertificate(nil, kind.ClientCertificate.GetUriSan()))
	default:
		return nil, errors.New("the credential is of no kind that is known")
	}
	return e, sameName(name, c.GetName())
}

func parseSubscription(id string, s *catalogv1.Subscription) *subscriptionEntry {
	e := &subscriptionEntry{
		id: id, app: ID(s.GetApp()), product: parent(ID(s.GetPlan())),
		start: micros(s.GetStartTime(), Never), end: micros(s.GetEndTime(), Never), state: s.GetState(),
	}
	for _, p := range s.GetPhases() {
		e.phases = append(e.phases, phase{micros(p.GetStartTime(), Never), ID(p.GetPlanVersion())})
	}
	slices.SortStableFunc(e.phases, func(a, b phase) int { return cmp.Compare(a.start, b.start) })
	return e
}

func parseToken(name string, t *catalogv1.Token, hash []byte) (any, error) {
	if len(hash) != hashSize {
		return nil, ErrHash
	}
	e := &tokenEntry{[hashSize]byte(hash), Token{Name: name, Role: t.GetRole(), Account: t.GetAccount(), Scopes: t.GetScopes()}}
	if t.GetExpireTime() != nil {
		e.token.Expires = t.GetExpireTime().AsTime()
	}
	return e, sameName(name, t.GetName())
}

// inForce tells whether a subscription was ever more than a wish.
func inForce(state catalogv1.SubscriptionState) bool {
	return state == catalogv1.SubscriptionState_ACTIVE || state == catalogv1.SubscriptionState_SUSPENDED || state == catalogv1.SubscriptionState_ENDED
}

// Snapshot is the catalog as the builder knows it now.
func (b *Builder) Snapshot() *Snapshot {
	if b.matching == nil {
		b.matching = b.match()
	}
	s := &Snapshot{
		version: b.version, matching: b.matching,
		accounts: map[string]*Account{}, apps: map[string]*App{}, products: map[string]*Product{},
		credentials: make(map[string]*Credential, len(b.entries)), keys: make(map[[hashSize]byte]*Credential, len(b.entries)),
		tokens: map[[hashSize]byte]*Token{}, holders: map[string][]*Product{},
	}
	var subscriptions []*subscriptionEntry
	for _, e := range b.entries {
		switch v := e.value.(type) {
		case *accountEntry:
			a := s.account(v.id)
			a.Present, a.State = true, v.state
		case *appEntry:
			a := s.app(v.id)
			a.Present, a.Disabled = true, v.disabled
		case *credentialEntry:
			s.addCredential(v)
		case *productEntry:
			s.addProduct(v)
		case *subscriptionEntry:
			if inForce(v.state) {
				subscriptions = append(subscriptions, v)
			}
		case *tokenEntry:
			s.tokens[v.hash] = &v.token
		}
	}
	slices.SortFunc(subscriptions, func(a, b *subscriptionEntry) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.id, b.id))
	})
	for _, v := range subscriptions {
		s.addSubscription(v)
	}
	for _, h := range s.holders {
		slices.SortFunc(h, func(a, b *Product) int { return cmp.Compare(a.ID, b.ID) })
	}
	return s
}

func (s *Snapshot) account(id string) *Account {
	a := s.accounts[id]
	if a == nil {
		a = &Account{ID: id}
		s.accounts[id] = a
	}
	return a
}

func (s *Snapshot) app(id string) *App {
	a := s.apps[id]
	if a == nil {
		a = &App{ID: id, Account: s.account(parent(id))}
		s.apps[id] = a
	}
	return a
}

func (s *Snapshot) addCredential(v *credentialEntry) {
	c := &Credential{ID: v.id, App: s.app(parent(v.id)), Ends: v.ends, Revoked: v.revoked}
	s.credentials[c.ID] = c
	if v.key {
		s.keys[v.hash] = better(s.keys[v.hash], c)
	}
	if v.column != "" {
		s.credentials[v.column] = better(s.credentials[v.column], c)
	}
}

// better is the one of two credentials that identify themselves the same way:
// the one that is accepted longer, so that a revoked one can be made again for
// another app.
func better(a, b *Credential) *Credential {
	if a == nil || a.Ends < b.Ends || a.Ends == b.Ends && a.ID > b.ID {
		return b
	}
	return a
}

func (s *Snapshot) addProduct(v *productEntry) {
	p := &Product{ID: v.id, environments: v.environments}
	s.products[p.ID] = p
	for _, o := range v.operations {
		s.holders[o] = append(s.holders[o], p)
	}
}

func (s *Snapshot) addSubscription(v *subscriptionEntry) {
	sub := &Subscription{ID: v.id, Product: s.products[v.product], Start: v.start, End: v.end, State: v.state, phases: v.phases}
	if v.app != "" {
		a := s.app(v.app)
		a.subscriptions = append(a.subscriptions, sub)
		return
	}
	a := s.account(parent(v.id))
	a.subscriptions = append(a.subscriptions, sub)
}

// matching finds operations, and what is wrong with those it had to leave out.
type matching struct {
	matcher  *operation.Matcher
	full     map[operation.Target]string // api/operation, by target
	apis     map[string]struct{}
	problems []string
}

// rule is an operation's rule with what decides who wins a conflict.
type rule struct {
	operation.Rule
	sequence int64
}

// match makes the matcher of the APIs and operations. Where two of them exclude
// each other, the one that was written later is left out: attribution goes on
// with the rest.
func (b *Builder) match() *matching {
	m := &matching{full: map[operation.Target]string{}, apis: map[string]struct{}{}}
	apis := map[string]*apiEntry{}
	var rules []rule
	for _, e := range b.entries {
		if a, ok := e.value.(*apiEntry); ok {
			apis[a.id] = a
			m.apis[a.id] = struct{}{}
			rules = append(rules, rulesOf(a, nil)...)
		}
	}
	for _, e := range b.entries {
		o, ok := e.value.(*operationEntry)
		if !ok || apis[parent(o.id)] == nil {
			continue // of an API that was not read yet, or deleted
		}
		api := parent(o.id)
		m.full[operation.Target{API: api, Operation: o.id[len(api)+1:]}] = o.id
		rules = append(rules, rulesOf(apis[api], o)...)
	}
	slices.SortFunc(rules, func(a, b rule) int {
		return cmp.Or(cmp.Compare(a.sequence, b.sequence), cmp.Compare(a.API, b.API), cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.BasePath, b.BasePath))
	})
	m.compile(rules)
	return m
}

func rulesOf(a *apiEntry, o *operationEntry) []rule {
	bases := a.basePaths
	if len(bases) == 0 {
		bases = []string{""}
	}
	var out []rule
	for _, base := range bases {
		r := rule{Rule: operation.Rule{API: a.id, Hosts: a.hosts, BasePath: base}}
		if o != nil {
			r.Operation, r.Method, r.Template, r.sequence = o.id[len(a.id)+1:], o.method, o.template, o.sequence
		}
		out = append(out, r)
	}
	return out
}

// maxProblems bounds how many rules are sorted out one by one. A catalog that
// checks what is written to it has none.
const maxProblems = 100

func (m *matching) compile(rules []rule) {
	plain := make([]operation.Rule, len(rules))
	for i, r := range rules {
		plain[i] = r.Rule
	}
	for len(m.problems) < maxProblems {
		matcher, err := operation.New(plain)
		if err == nil {
			m.matcher = matcher
			return
		}
		m.problems = append(m.problems, err.Error())
		// The first rule that does not go with those before it.
		bad := 0
		for low, high := 0, len(plain); low < high; {
			middle := (low + high) / 2
			if _, err := operation.New(plain[:middle+1]); err != nil {
				bad, high = middle, middle
			} else {
				low = middle + 1
			}
		}
		plain = slices.Delete(plain, bad, bad+1)
	}
	m.problems = append(m.problems, "more operations cannot be matched: none is")
}
