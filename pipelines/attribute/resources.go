package attribute

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// Never is the end of what does not end, in µs.
const Never int64 = 1<<63 - 1

// Account is a consumer. It is known by name as soon as anything of it is
// known, and Present once its own record was read.
type Account struct {
	ID      string // acme
	Present bool
	State   catalogv1.AccountState

	subscriptions []*Subscription // of the whole account, the oldest first
}

// App is a program of an account.
type App struct {
	ID       string // acme/mobile
	Account  *Account
	Present  bool
	Disabled bool

	subscriptions []*Subscription // of this app alone, the oldest first
}

// Credential is what an app identifies itself with.
type Credential struct {
	ID  string // acme/mobile/key-1
	App *App
	// Ends is the first moment, in µs, from which on it is not accepted: the
	// earlier of its expiry and its revocation, Never without either.
	Ends    int64
	Revoked bool
}

// Subscription is the use of a product under a plan.
type Subscription struct {
	ID         string // acme/sub-1
	Product    *Product
	Start, End int64 // µs, the end exclusive
	State      catalogv1.SubscriptionState

	phases []phase // in order of time
}

// phase is a stretch under one version of a plan.
type phase struct {
	start int64
	plan  string // weather/gold/3
}

// at is the number of the phase that holds at a time, -1 for none.
func (s *Subscription) at(t int64) int {
	for i := len(s.phases) - 1; i >= 0; i-- {
		if s.phases[i].start <= t {
			return i
		}
	}
	return -1
}

// Plan is the version of the plan that holds at a time.
func (s *Subscription) Plan(t int64) string {
	if i := s.at(t); i >= 0 {
		return s.phases[i].plan
	}
	return ""
}

func (s *Subscription) covers(t int64) bool { return s.Start <= t && t < s.End }

// Product is a bundle of operations.
type Product struct {
	ID string // weather

	environments []string
}

// in tells whether the product may be called in an environment. A call that
// does not say where it was made is taken as made where it may be.
func (p *Product) in(environment string) bool {
	if environment == "" || len(p.environments) == 0 {
		return true
	}
	for _, e := range p.environments {
		if e == environment {
			return true
		}
	}
	return false
}

// target is what was called: an operation of the catalog, or an API of it when
// the operation is not known, or, of an API that the catalog does not know, the
// product that the source named.
type target struct {
	known   bool
	holders []holder // in the environment of the call
}

// holder is a product that contains a target, by name or with the whole API.
type holder struct {
	product *Product
	byName  bool
}

// holds finds how a product contains the target.
func (t target) holds(p *Product) (holder, bool) {
	for _, h := range t.holders {
		if h.product == p {
			return h, true
		}
	}
	return holder{}, false
}

// product is the one that contains the target, or the one that was sent if the
// catalog cannot tell.
func (t target) product(sent string) string {
	var byName, whole, only int
	sentHolds := false
	for i, h := range t.holders {
		sentHolds = sentHolds || h.product.ID == sent
		switch {
		case h.byName:
			byName++
			only = i
		case byName == 0:
			whole++
			only = i
		}
	}
	switch {
	case byName == 1, byName == 0 && whole == 1:
		return t.holders[only].product.ID
	case len(t.holders) == 0 || sentHolds:
		return sent
	}
	return ""
}

// Token lets its bearer use the server.
type Token struct {
	Name, Role, Account string
	Scopes              []string
	Expires             time.Time // zero: never
}

// ID is a resource name without the words for its collections:
// accounts/acme/apps/mobile is acme/mobile.
func ID(name string) string {
	// Most names have at most three parts; the result is built in one piece.
	var b strings.Builder
	b.Grow(len(name))
	for part := 0; name != ""; part++ {
		segment, rest, _ := strings.Cut(name, "/")
		name = rest
		if part%2 == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('/')
		}
		b.WriteString(segment)
	}
	return b.String()
}

// parent is an id without its last part.
func parent(id string) string {
	if i := strings.LastIndexByte(id, '/'); i >= 0 {
		return id[:i]
	}
	return ""
}

// micros is a time in µs, or otherwise when it is not set.
func micros(t *timestamppb.Timestamp, otherwise int64) int64 {
	if t == nil {
		return otherwise
	}
	return t.Seconds*1e6 + int64(t.Nanos)/1e3
}
