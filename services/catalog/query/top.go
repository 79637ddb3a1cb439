package query

import (
	"cmp"
	"container/heap"
	"slices"
)

// Top keeps the first few of many items in an order, so that a list can be
// sorted without being held.
type Top[T any] struct {
	limit int
	desc  bool
	after *Place // items up to and including it are left out
	items topHeap[T]
}

type ranked[T any] struct {
	place Place
	item  T
}

type topHeap[T any] struct {
	all  []ranked[T]
	desc bool
}

// NewTop keeps up to limit items that come after a place; nil is the beginning.
func NewTop[T any](limit int, desc bool, after *Place) *Top[T] {
	return &Top[T]{limit: limit, desc: desc, after: after, items: topHeap[T]{desc: desc}}
}

// before is the order: by key, then by name, both falling when desc.
func before(a, b Place, desc bool) bool {
	c := cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Name, b.Name))
	if desc {
		return c > 0
	}
	return c < 0
}

// Add offers an item.
func (t *Top[T]) Add(place Place, item T) {
	switch {
	case t.after != nil && !before(*t.after, place, t.desc):
	case len(t.items.all) < t.limit:
		heap.Push(&t.items, ranked[T]{place, item})
	case before(place, t.items.all[0].place, t.desc):
		t.items.all[0] = ranked[T]{place, item}
		heap.Fix(&t.items, 0)
	}
}

// Items are those that were kept, in order, each with its place.
func (t *Top[T]) Items() ([]T, []Place) {
	all := slices.Clone(t.items.all)
	slices.SortFunc(all, func(a, b ranked[T]) int {
		if before(a.place, b.place, t.desc) {
			return -1
		}
		return 1
	})
	items, places := make([]T, len(all)), make([]Place, len(all))
	for i, r := range all {
		items[i], places[i] = r.item, r.place
	}
	return items, places
}

// The heap has the last one in order at its root.

func (h *topHeap[T]) Len() int           { return len(h.all) }
func (h *topHeap[T]) Less(i, j int) bool { return before(h.all[j].place, h.all[i].place, h.desc) }
func (h *topHeap[T]) Swap(i, j int)      { h.all[i], h.all[j] = h.all[j], h.all[i] }

func (h *topHeap[T]) Push(x any) { h.all = append(h.all, x.(ranked[T])) }

func (h *topHeap[T]) Pop() any {
	last := h.all[len(h.all)-1]
	h.all = h.all[:len(h.all)-1]
	return last
}
