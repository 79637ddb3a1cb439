package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/catalog/query"
	"github.com/tollway/tollway/services/catalog/store"
	"github.com/tollway/tollway/services/platform/ledger"
)

// present is a resource as a caller sees it now.
func present(who caller, now time.Time, m kind.Resource) kind.Resource {
	switch stored := m.(type) {
	case *catalogv1.Subscription:
		if state := stateAt(stored, now); state != stored.GetState() {
			shown := proto.Clone(stored).(*catalogv1.Subscription)
			shown.State = state
			return shown
		}
	case *catalogv1.Product:
		if who.consumer() && len(stored.GetVisibleTo()) > 0 {
			shown := proto.Clone(stored).(*catalogv1.Product)
			shown.VisibleTo = nil // who else may see it is nobody's business
			return shown
		}
	}
	return m
}

// products remembers the products that a read has looked at.
type products struct {
	tx   *ledger.Tx
	seen map[string]*catalogv1.Product
}

// of is the product that a plan or a version belongs to, nil for other kinds.
func (p *products) of(ctx context.Context, s *store.Stored) (*catalogv1.Product, error) {
	var name string
	switch s.Kind {
	case kind.Plan:
		name = s.Parent
	case kind.PlanVersion:
		name = kind.ProductOf(s.Parent)
	default:
		return nil, nil
	}
	if product, known := p.seen[name]; known {
		return product, nil
	}
	stored, err := store.Get(ctx, p.tx, name)
	if err != nil {
		return nil, err
	}
	product := stored.Message.(*catalogv1.Product)
	p.seen[name] = product
	return product, nil
}

// visible tells whether the caller may know of a resource. What a consumer has
// subscribed to it sees, whatever became of it since.
func (p *products) visible(ctx context.Context, who caller, s *store.Stored) (bool, error) {
	if !who.consumer() {
		return true, nil
	}
	product, err := p.of(ctx, s)
	if err != nil || who.sees(s.Message, product) {
		return err == nil, err
	}
	switch s.Kind {
	case kind.Product, kind.Plan, kind.PlanVersion:
		return store.UsedIn(ctx, p.tx, s.Message.GetName(), who.account)
	}
	return false, nil
}

func get[M kind.Resource](ctx context.Context, s *Service, k *kind.Kind, name string) (M, error) {
	var out M
	who, err := callerOf(ctx)
	if err != nil {
		return out, err
	}
	if err := k.CheckName(name); err != nil {
		return out, s.status(wrong("name", "%v", err))
	}
	err = s.deps.Ledger.Read(ctx, func(tx *ledger.Tx) error {
		stored, err := store.Get(ctx, tx, name)
		if errors.Is(err, ledger.ErrNotFound) {
			return notFound(name)
		}
		if err != nil {
			return err
		}
		visible, err := (&products{tx, map[string]*catalogv1.Product{}}).visible(ctx, who, stored)
		if err != nil {
			return err
		}
		if !visible {
			return notFound(name)
		}
		out = present(who, s.deps.Now(), stored.Message).(M)
		return nil
	})
	return out, s.status(err)
}

const (
	defaultPage = 100
	maxPage     = 1000
	// readAhead is how many are read at once where not all of them are wanted.
	readAhead = 500
)

type listRequest interface {
	GetPageSize() int32
	GetPageToken() string
	GetFilter() string
	GetOrderBy() string
}

// listing is one request for a page.
type listing struct {
	k      *kind.Kind
	parent string
	size   int
	match  query.Match
	order  query.Order
	after  query.Place
	parts  []string // what the page token belongs to
	who    caller
	now    time.Time
}

func list[M kind.Resource](ctx context.Context, s *Service, k *kind.Kind, parent string, r listRequest) ([]M, string, error) {
	l, err := s.newListing(ctx, k, parent, r)
	if err != nil {
		return nil, "", s.status(err)
	}
	var found []kind.Resource
	var next string
	err = s.deps.Ledger.Read(ctx, func(tx *ledger.Tx) (err error) {
		order, timed := l.byTime()
		switch {
		case l.order.ByName():
			found, next, err = l.fill(ctx, tx, l.names(ctx, tx, l.after), func(s *store.Stored) query.Place {
				return query.Place{Parent: s.Parent, Name: s.Name}
			})
		case timed:
			found, next, err = l.fill(ctx, tx, l.times(ctx, tx, order), func(s *store.Stored) query.Place {
				return query.Place{Key: query.TimeKey(order.Of(s).At), Name: s.Name}
			})
		default:
			found, next, err = l.sorted(ctx, tx)
		}
		return err
	})
	if err != nil {
		return nil, "", s.status(err)
	}
	out := make([]M, len(found))
	for i, m := range found {
		out[i] = m.(M)
	}
	return out, next, nil
}

func (s *Service) newListing(ctx context.Context, k *kind.Kind, parent string, r listRequest) (*listing, error) {
	who, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	l := &listing{k: k, parent: parent, who: who, now: s.deps.Now(), parts: []string{k.ID, parent, r.GetFilter(), r.GetOrderBy(), who.account}}
	var v kind.Violations
	note := func(field string, err error) {
		if err != nil {
			v.Add(field, "%v", err)
		}
	}
	note("parent", k.CheckParents(parent))
	if r.GetPageSize() < 0 {
		v.Add("page_size", "is below zero")
	}
	if l.size = int(r.GetPageSize()); l.size == 0 {
		l.size = defaultPage
	}
	l.size = min(l.size, maxPage)
	l.match, err = query.Filter(k.Descriptor(), r.GetFilter())
	note("filter", err)
	l.order, err = query.ParseOrder(k.Descriptor(), r.GetOrderBy())
	note("order_by", err)
	l.after, err = query.ReadToken(r.GetPageToken(), l.parts...)
	note("page_token", err)
	return l, v.Err()
}

// wanted is what a resource looks like to the caller; nil if it is not wanted.
func (l *listing) wanted(ctx context.Context, p *products, s *store.Stored) (kind.Resource, error) {
	visible, err := p.visible(ctx, l.who, s)
	if err != nil || !visible {
		return nil, err
	}
	m := present(l.who, l.now, s.Message)
	if !l.match(m.ProtoReflect()) {
		return nil, nil
	}
	return m, nil
}

// byTime tells whether the order is one that the database has an index for. Below
// one parent there are few enough to be sorted.
func (l *listing) byTime() (store.TimeOrder, bool) {
	order := store.TimeOrder{Update: l.order.Field() == "update_time", Desc: l.order.Desc}
	timed := order.Update || l.order.Field() == "create_time"
	return order, timed && matchesParents(strings.Join(allParents(l.k), "/"), l.parent)
}

// allParents is the parent of a list of all of a kind, in parts.
func allParents(k *kind.Kind) []string {
	if k.Parent == nil {
		return nil
	}
	return append(allParents(k.Parent), k.Parent.Segment, kind.Any)
}

// reader reads the resources that come next, after one; nil is where the page
// begins.
type reader func(last *store.Stored, size int) ([]*store.Stored, error)

// names reads in the order of names.
func (l *listing) names(ctx context.Context, tx *ledger.Tx, after query.Place) reader {
	return func(last *store.Stored, size int) ([]*store.Stored, error) {
		at := store.Place{Parent: after.Parent, Name: after.Name}
		if last != nil {
			at = store.Place{Parent: last.Parent, Name: last.Name}
		}
		wild := strings.Index(l.parent+"/", "/"+kind.Any+"/")
		if wild < 0 {
			return store.Below(ctx, tx, l.k, l.parent, at, size)
		}
		return store.Between(ctx, tx, l.k, l.parent[:wild+1], at, size)
	}
}

// times reads in the order of times.
func (l *listing) times(ctx context.Context, tx *ledger.Tx, order store.TimeOrder) reader {
	return func(last *store.Stored, size int) ([]*store.Stored, error) {
		at := order.Beginning()
		if last != nil {
			at = order.Of(last)
		} else if l.after.Name != "" {
			moment, err := query.KeyTime(l.after.Key)
			if err != nil {
				return nil, wrong("page_token", "%v", query.ErrPageToken)
			}
			at = store.Moment{At: moment, Name: l.after.Name}
		}
		return store.ByTime(ctx, tx, l.k, order, at, size)
	}
}

// fill reads from the place where the page begins until it is full. place is where
// the page after a resource begins.
func (l *listing) fill(ctx context.Context, tx *ledger.Tx, read reader, place func(*store.Stored) query.Place) ([]kind.Resource, string, error) {
	var out []kind.Resource
	var last query.Place
	p := &products{tx, map[string]*catalogv1.Product{}}
	err := l.each(read, l.size+1, func(s *store.Stored) (bool, error) {
		m, err := l.wanted(ctx, p, s)
		if err != nil || m == nil {
			return err == nil, err
		}
		if out = append(out, m); len(out) <= l.size {
			last = place(s)
		}
		return len(out) <= l.size, nil
	})
	if err != nil || len(out) <= l.size {
		return out, "", err
	}
	return out[:l.size], last.Token(l.parts...), nil
}

// sorted reads all of them and keeps the first that belong on the page.
func (l *listing) sorted(ctx context.Context, tx *ledger.Tx) ([]kind.Resource, string, error) {
	var after *query.Place
	if l.after.Name != "" {
		after = &l.after
	}
	top := query.NewTop[kind.Resource](l.size+1, l.order.Desc, after)
	p := &products{tx, map[string]*catalogv1.Product{}}
	err := l.each(l.names(ctx, tx, query.Place{}), readAhead, func(s *store.Stored) (bool, error) {
		m, err := l.wanted(ctx, p, s)
		if err != nil || m == nil {
			return err == nil, err
		}
		top.Add(query.Place{Key: l.order.Key(m.ProtoReflect()), Name: s.Name}, m)
		return true, nil
	})
	if err != nil {
		return nil, "", err
	}
	items, places := top.Items()
	if len(items) <= l.size {
		return items, "", nil
	}
	return items[:l.size], places[l.size-1].Token(l.parts...), nil
}

// each calls visit with the resources that are read, if they are below the parent,
// until it returns false.
func (l *listing) each(read reader, size int, visit func(*store.Stored) (bool, error)) error {
	var last *store.Stored
	for {
		batch, err := read(last, size)
		if err != nil {
			return err
		}
		for _, s := range batch {
			last = s
			if !matchesParents(s.Parent, l.parent) {
				continue
			}
			if more, err := visit(s); err != nil || !more {
				return err
			}
		}
		if len(batch) < size {
			return nil
		}
		size = max(size, readAhead)
	}
}

// matchesParents compares a parent with one in which Any may stand for ids.
func matchesParents(parent, pattern string) bool {
	if !strings.Contains(pattern, kind.Any) || parent == pattern {
		return parent == pattern || pattern == ""
	}
	have, want := strings.Split(parent, "/"), strings.Split(pattern, "/")
	for i := range want {
		if i >= len(have) || want[i] != kind.Any && want[i] != have[i] {
			return false
		}
	}
	return len(have) == len(want)
}

// ListAuditEntries lists changes, newest first. A consumer is shown those of its
// own account.
func (s *Service) ListAuditEntries(ctx context.Context, r *catalogv1.ListAuditEntriesRequest) (*catalogv1.ListAuditEntriesResponse, error) {
	who, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	q, parts, err := auditQuery(who, r)
	if err != nil {
		return nil, s.status(err)
	}
	size := q.Limit
	q.Limit++
	var entries []*catalogv1.AuditEntry
	err = s.deps.Ledger.Read(ctx, func(tx *ledger.Tx) (err error) {
		entries, err = store.Audit(ctx, tx, q)
		return err
	})
	if err != nil {
		return nil, s.status(err)
	}
	answer := &catalogv1.ListAuditEntriesResponse{Entries: entries}
	if len(entries) > size {
		answer.Entries = entries[:size]
		answer.NextPageToken = query.Place{Name: fmt.Sprint(entries[size-1].GetId())}.Token(parts...)
	}
	return answer, nil
}

func auditQuery(who caller, r *catalogv1.ListAuditEntriesRequest) (store.AuditQuery, []string, error) {
	name := r.GetName()
	if who.consumer() && name == "" {
		name = who.account
	}
	if err := who.own(name); err != nil {
		return store.AuditQuery{}, nil, err
	}
	var v kind.Violations
	if name != "" {
		if _, err := kind.Of(name); err != nil {
			v.Add("name", "%v", err)
		}
	}
	parts := []string{"audit", name, r.GetActor(), r.GetStartTime().String(), r.GetEndTime().String(), who.account}
	place, err := query.ReadToken(r.GetPageToken(), parts...)
	if err != nil {
		v.Add("page_token", "%v", err)
	}
	q := store.AuditQuery{Name: name, Actor: r.GetActor(), Limit: int(r.GetPageSize())}
	if place.Name != "" {
		if _, err := fmt.Sscan(place.Name, &q.Before); err != nil {
			v.Add("page_token", "%v", query.ErrPageToken)
		}
	}
	if r.GetPageSize() < 0 {
		v.Add("page_size", "is below zero")
	}
	if q.Limit == 0 {
		q.Limit = defaultPage
	}
	q.Limit = min(q.Limit, maxPage)
	if t := r.GetStartTime(); t != nil {
		q.Start = t.AsTime()
	}
	if t := r.GetEndTime(); t != nil {
		q.End = t.AsTime()
	}
	return q, parts, v.Err()
}

// WhoAmI says as whom the server knows the caller.
func (s *Service) WhoAmI(ctx context.Context, _ *catalogv1.WhoAmIRequest) (*catalogv1.WhoAmIResponse, error) {
	who, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	return &catalogv1.WhoAmIResponse{Principal: who.name, Role: string(who.role), Account: who.account, Scopes: who.scopes}, nil
}
