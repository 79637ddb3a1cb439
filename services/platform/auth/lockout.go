package auth

import (
	"net/netip"
	"sync"
	"time"
)

const (
	failuresAllowed = 10
	failureWindow   = time.Minute
	// A lock-out doubles with every one that follows, up to longestLockOut. After
	// calm of that length all is forgotten.
	firstLockOut   = time.Minute
	longestLockOut = time.Hour
	maxAddresses   = 10_000
)

// failures counts failed attempts per address, in bounded memory.
type failures struct {
	mu        sync.Mutex
	addresses map[netip.Prefix]*failure
}

type failure struct {
	count       int
	windowEnds  time.Time
	lockedUntil time.Time
	locked      time.Duration // the last lock-out
}

func newFailures() *failures { return &failures{addresses: map[netip.Prefix]*failure{}} }

// add counts a failure and returns how long the address is locked out.
func (f *failures) add(address netip.Prefix, now time.Time) time.Duration {
	if !address.IsValid() {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.addresses[address]
	if a == nil {
		f.makeRoom(now)
		a = &failure{}
		f.addresses[address] = a
	}
	if now.Before(a.lockedUntil) {
		return a.lockedUntil.Sub(now)
	}
	if a.over(now) {
		a.locked = 0
	}
	if !now.Before(a.windowEnds) {
		a.count, a.windowEnds = 0, now.Add(failureWindow)
	}
	if a.count++; a.count <= failuresAllowed {
		return 0
	}
	a.locked = min(max(2*a.locked, firstLockOut), longestLockOut)
	a.lockedUntil = now.Add(a.locked)
	a.windowEnds = a.lockedUntil
	return a.locked
}

// over tells whether nothing about the address matters any more.
func (a *failure) over(now time.Time) bool {
	end := a.windowEnds
	if a.locked > 0 {
		end = a.lockedUntil.Add(longestLockOut)
	}
	return !now.Before(end)
}

// makeRoom forgets what is over, and if that is not enough, a quarter of the rest,
// so that a flood of addresses does not search the whole map for each of them.
// Who was locked out is forgotten last.
func (f *failures) makeRoom(now time.Time) {
	if len(f.addresses) < maxAddresses {
		return
	}
	for _, forget := range []func(*failure) bool{
		func(a *failure) bool { return a.over(now) },
		func(a *failure) bool { return a.locked == 0 },
		func(*failure) bool { return true },
	} {
		for k, a := range f.addresses {
			if len(f.addresses) <= maxAddresses*3/4 {
				return
			}
			if forget(a) {
				delete(f.addresses, k)
			}
		}
	}
}
