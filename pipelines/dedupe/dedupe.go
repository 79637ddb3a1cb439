// Package dedupe remembers which calls of a partition were stored recently, so
// that a copy is recognised without asking the store.
//
// In: identities and start times of stored calls. Out: whether an identity was
// stored, and from which start time on that answer is complete. The package is
// pure and bounded: memory is fixed when the set is made. A crash loses the
// set; its owner rebuilds it from the store.
package dedupe

import (
	"encoding/binary"
	"math"

	"github.com/tollway/tollway/pipelines/call"
)

// generations is how many parts the set forgets its past in: one part at a
// time, so that between 3/4 and all of the capacity is remembered.
const generations = 4

// Set is a set of call identities that forgets the oldest when it is full. It
// holds full identities, so a hit is exact. It belongs to one goroutine.
type Set struct {
	parts   [generations]table
	current int
	horizon int64
}

// New makes a set that remembers up to capacity calls, at 24 bytes each.
func New(capacity int) *Set {
	s := &Set{horizon: math.MinInt64}
	per := max(capacity/generations, 16)
	for i := range s.parts {
		s.parts[i] = newTable(per)
	}
	return s
}

// Contains tells whether the call was added and not forgotten.
func (s *Set) Contains(id call.ID) bool {
	for i := range s.parts {
		if s.parts[(s.current+generations-i)%generations].contains(id) {
			return true
		}
	}
	return false
}

// Horizon is the start time (µs) from which on Contains is complete: copies
// of a call carry the same start time, so a call that starts at the horizon or
// later and is not contained was never stored. Earlier ones have to be looked
// up.
func (s *Set) Horizon() int64 { return s.horizon }

// Forget raises the horizon: what is not in the set and starts before time is
// not known. A set that is filled from the store begins there.
func (s *Set) Forget(before int64) { s.horizon = max(s.horizon, before) }

// Add remembers a stored call.
func (s *Set) Add(id call.ID, time int64) {
	p := &s.parts[s.current]
	if p.used == p.limit {
		s.current = (s.current + 1) % generations
		p = &s.parts[s.current]
		if p.used > 0 {
			s.Forget(p.latest + 1)
			p.clear()
		}
	}
	p.add(id, time)
}

// table is an open-addressing hash set with linear probing at a load of at
// most two thirds. Identities are hashes already, so a part of one is its
// place. The zero identity marks a free slot and is kept apart.
type table struct {
	slots  []call.ID
	mask   uint64
	used   int
	limit  int
	latest int64
	zero   bool
}

func newTable(limit int) table {
	size := uint64(1)
	for size*2/3 < uint64(limit) {
		size *= 2
	}
	// The memory is there anyway: use what a full table can hold.
	return table{slots: make([]call.ID, size), mask: size - 1, limit: int(size * 2 / 3), latest: math.MinInt64}
}

// place uses the second half of the identity: the first chose the partition.
func (t *table) place(id call.ID) uint64 { return binary.LittleEndian.Uint64(id[8:]) & t.mask }

func (t *table) contains(id call.ID) bool {
	if id == (call.ID{}) {
		return t.zero
	}
	for i := t.place(id); ; i = (i + 1) & t.mask {
		switch t.slots[i] {
		case id:
			return true
		case call.ID{}:
			return false
		}
	}
}

func (t *table) add(id call.ID, time int64) {
	t.latest = max(t.latest, time)
	if id == (call.ID{}) {
		t.zero = true
		return
	}
	for i := t.place(id); ; i = (i + 1) & t.mask {
		switch t.slots[i] {
		case id:
			return
		case call.ID{}:
			t.slots[i] = id
			t.used++
			return
		}
	}
}

func (t *table) clear() {
	clear(t.slots)
	t.used, t.latest, t.zero = 0, math.MinInt64, false
}
