package attribute

import (
	"strings"
	"sync"

	"github.com/tollway/tollway/pipelines/call"
)

// A batch has few callers and few things called, in many combinations. Both are
// found once per distinct value of their columns, combinations once per pair,
// and per row only the time decides. All is done on the codes of the columns'
// dictionaries.

type (
	callerKey struct{ credential, app, account uint32 }
	calledKey struct{ api, operation, product, environment uint32 }
	pairKey   struct{ caller, called int32 }
)

// caller is who called, with the codes that its columns get.
type caller struct {
	columns callerKey
	app     *App
	account *Account
	known   bool // by its credential
}

// called is what was called, with the code of its product when there is no
// subscription.
type called struct {
	target
	product uint32
}

// pair is the subscriptions among which the time decides, in work.options.
type pair struct {
	first, last int32
	// unsubscribed tells that a call outside of them has no plan.
	unsubscribed bool
}

// option is a subscription with the codes that its columns get.
type option struct {
	subscription *Subscription
	product, id  uint32
	plans        int32 // in work.plans: the code for no phase, then one for each
}

// work is what attributing a batch needs and the next one can use again.
type work struct {
	callers       []caller
	callerOf      map[callerKey]int32
	called        []called
	calledOf      map[calledKey]int32
	pairs         []pair
	pairOf        map[pairKey]int32
	options       []option
	optionOf      map[*Subscription]option
	plans         []uint32
	candidates    []candidate
	none          uint32 // code of "" among plans
	noneSubscribe uint32 // and among subscriptions
}

var workPool = sync.Pool{New: func() any {
	return &work{callerOf: map[callerKey]int32{}, calledOf: map[calledKey]int32{}, pairOf: map[pairKey]int32{}, optionOf: map[*Subscription]option{}}
}}

// reset forgets a batch, and lets its snapshot go.
func (w *work) reset() {
	clear(w.callers)
	clear(w.called)
	clear(w.options)
	clear(w.candidates[:cap(w.candidates)])
	w.callers, w.called, w.pairs, w.options, w.plans = w.callers[:0], w.called[:0], w.pairs[:0], w.options[:0], w.plans[:0]
	clear(w.callerOf)
	clear(w.calledOf)
	clear(w.pairOf)
	clear(w.optionOf)
}

func (w *work) run(s *Snapshot, b *call.Batch) {
	if b.Rows() == 0 {
		return
	}
	defer w.reset()
	s.operations(b)
	plan, subscription := &b.Strings[call.Plan], &b.Strings[call.Subscription]
	w.none, w.noneSubscribe = plan.Code(""), subscription.Code("")
	credential, app, account := b.Strings[call.Credential].Index, b.Strings[call.App].Index, b.Strings[call.Account].Index
	api, op := b.Strings[call.API].Index, b.Strings[call.Operation].Index
	product, environment := b.Strings[call.Product].Index, b.Strings[call.Environment].Index

	for row, t := range b.Time {
		who := w.caller(s, b, callerKey{credential[row], app[row], account[row]})
		what := w.calledBy(s, b, calledKey{api[row], op[row], product[row], environment[row]})
		p := w.pair(b, pairKey{who, what})
		columns := &w.callers[who].columns
		credential[row], app[row], account[row] = columns.credential, columns.app, columns.account
		product[row] = w.called[what].product
		if o := w.at(p, t); o != nil {
			product[row], subscription.Index[row] = o.product, o.id
			plan.Index[row] = w.plans[o.plans+int32(o.subscription.at(t))+1]
		} else if p.unsubscribed {
			plan.Index[row], subscription.Index[row] = w.none, w.noneSubscribe
		}
	}
}

// at is the subscription that holds a time.
func (w *work) at(p pair, t int64) *option {
	for i := p.first; i < p.last; i++ {
		if o := &w.options[i]; o.subscription.covers(t) {
			return o
		}
	}
	return nil
}

// operations sets API and operation where the catalog knows them.
func (s *Snapshot) operations(b *call.Batch) {
	if s.matching.matcher == nil || len(s.matching.apis) == 0 {
		return
	}
	method, host := &b.Strings[call.Method], &b.Strings[call.Host]
	api, op := &b.Strings[call.API], &b.Strings[call.Operation]
	for row := range b.Time {
		t, ok := s.matching.matcher.Match(method.Value(row), host.Value(row), b.Path.Value(row))
		if !ok {
			continue
		}
		// The source may know the operation of an API of which the catalog has none
		// that matches.
		if t.Operation == "" && t.API == api.Value(row) {
			continue
		}
		api.Index[row], op.Index[row] = api.Code(t.API), op.Code(t.Operation)
	}
}

// caller finds who called.
func (w *work) caller(s *Snapshot, b *call.Batch, key callerKey) int32 {
	if at, ok := w.callerOf[key]; ok {
		return at
	}
	credential, app, account := &b.Strings[call.Credential], &b.Strings[call.App], &b.Strings[call.Account]
	c := caller{columns: key}
	var known *Credential
	c.app, c.account, known = s.who(credential.Values[key.credential], app.Values[key.app], account.Values[key.account])
	c.known = known != nil
	if c.known {
		c.columns.credential = credential.Code(known.ID)
	}
	if c.app != nil {
		c.columns.app = app.Code(c.app.ID)
	}
	if c.account != nil {
		c.columns.account = account.Code(c.account.ID)
	}
	at := int32(len(w.callers))
	w.callers = append(w.callers, c)
	w.callerOf[key] = at
	return at
}

// who finds the caller: by credential, or by the app or account that a trusted
// source named. Each is nil when the catalog does not know it.
func (s *Snapshot) who(credential, app, account string) (*App, *Account, *Credential) {
	if credential != "" {
		if c := s.credentials[credential]; c != nil {
			return c.App, c.App.Account, c
		}
	}
	if app != "" {
		if !strings.Contains(app, "/") && account != "" {
			app = account + "/" + app
		}
		if a := s.apps[app]; a != nil {
			return a, a.Account, nil
		}
	}
	return nil, s.accounts[account], nil
}

// calledBy finds what was called.
func (w *work) calledBy(s *Snapshot, b *call.Batch, key calledKey) int32 {
	if at, ok := w.calledOf[key]; ok {
		return at
	}
	product := &b.Strings[call.Product]
	sent := product.Values[key.product]
	c := called{target: s.target(nil, b.Strings[call.API].Values[key.api], b.Strings[call.Operation].Values[key.operation],
		sent, b.Strings[call.Environment].Values[key.environment])}
	c.product = product.Code(c.target.product(sent))
	at := int32(len(w.called))
	w.called = append(w.called, c)
	w.calledOf[key] = at
	return at
}

// pair finds the subscriptions of a caller to what was called.
func (w *work) pair(b *call.Batch, key pairKey) pair {
	if at, ok := w.pairOf[key]; ok {
		return w.pairs[at]
	}
	who, what := &w.callers[key.caller], &w.called[key.called]
	p := pair{first: int32(len(w.options)), unsubscribed: who.known && what.known}
	w.candidates = candidates(w.candidates[:0], who.app, who.account, what.target)
	for _, c := range w.candidates {
		w.options = append(w.options, w.option(b, c.Subscription))
	}
	p.last = int32(len(w.options))
	w.pairOf[key] = int32(len(w.pairs))
	w.pairs = append(w.pairs, p)
	return p
}

func (w *work) option(b *call.Batch, s *Subscription) option {
	if o, ok := w.optionOf[s]; ok {
		return o
	}
	plan := &b.Strings[call.Plan]
	o := option{
		subscription: s, plans: int32(len(w.plans)),
		product: b.Strings[call.Product].Code(s.Product.ID), id: b.Strings[call.Subscription].Code(s.ID),
	}
	w.plans = append(w.plans, w.none)
	for _, p := range s.phases {
		w.plans = append(w.plans, plan.Code(p.plan))
	}
	w.optionOf[s] = o
	return o
}
