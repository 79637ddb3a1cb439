package catalog_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"pgregory.net/rapid"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

func TestRealOverlap(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		e := newEnv(t, db)
		e.offer()
		create := func(id, app, plan string, from, to int) error {
			s := &catalogv1.Subscription{App: app, Plan: "products/orders/plans/" + plan, StartTime: at(began.AddDate(0, from, 0))}
			if to > 0 {
				s.EndTime = at(began.AddDate(0, to, 0))
			}
			_, err := e.CreateSubscription(manager, &catalogv1.CreateSubscriptionRequest{Parent: "accounts/acme", SubscriptionId: id, Subscription: s})
			return err
		}
		const shop = "accounts/acme/apps/shop"
		for _, c := range []struct {
			id, app, plan string
			from, to      int
			overlaps      string
		}{
			{"a", shop, "basic", 1, 2, ""},
			{"b", shop, "pro", 1, 2, "a"}, // another plan of the same product
			{"c", shop, "basic", 0, 0, "a"},
			{"d", "", "basic", 0, 0, ""}, // the account's beside the app's
			{"e", "", "pro", 5, 6, "d"},
			{"f", shop, "basic", 2, 0, ""}, // begins when the other one ends
			{"g", shop, "basic", 9, 0, "f"},
			{"h", shop, "basic", 0, 1, ""},
		} {
			err := create(c.id, c.app, c.plan, c.from, c.to)
			if c.overlaps == "" && err != nil {
				t.Errorf("%s: %v", c.id, err)
			}
			if c.overlaps != "" {
				refused(t, err, codes.FailedPrecondition, "overlaps accounts/acme/subscriptions/"+c.overlaps+", which is for")
			}
		}
		// Of several at the same time one gets it.
		errs := make([]error, 6)
		var group sync.WaitGroup
		for i := range errs {
			group.Go(func() {
				_, errs[i] = e.CreateSubscription(manager, &catalogv1.CreateSubscriptionRequest{
					Parent: "accounts/globex", SubscriptionId: fmt.Sprint("s", i), Subscription: &catalogv1.Subscription{Plan: basic},
				})
			})
		}
		group.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else {
				refused(t, err, codes.FailedPrecondition, "overlaps accounts/globex/subscriptions/s")
			}
		}
		if won != 1 {
			t.Errorf("%d subscriptions at the same time", won)
		}
		// An end frees the time after it; a rejection all of it.
		must[*catalogv1.Subscription](t)(e.EndSubscription(manager, &catalogv1.EndSubscriptionRequest{Name: "accounts/acme/subscriptions/f", EndTime: at(began.AddDate(0, 3, 0))}))
		if err := create("i", shop, "basic", 3, 0); err != nil {
			t.Error(err)
		}
		_, err := e.EndSubscription(manager, &catalogv1.EndSubscriptionRequest{Name: "accounts/acme/subscriptions/f", EndTime: at(began.AddDate(0, 4, 0))})
		refused(t, err, codes.FailedPrecondition, "overlaps accounts/acme/subscriptions/i")
	})
}

func TestSubscriptionLife(t *testing.T) {
	e := newEnv(t, testenv.Ledger(t))
	e.offer()
	ok := must[*catalogv1.Subscription](t)
	const name = "accounts/acme/subscriptions/s"
	get := func() *catalogv1.Subscription {
		t.Helper()
		return ok(e.GetSubscription(manager, &catalogv1.GetSubscriptionRequest{Name: name}))
	}
	s := ok(e.CreateSubscription(acmeUser, &catalogv1.CreateSubscriptionRequest{Parent: "accounts/acme", SubscriptionId: "s", Subscription: &catalogv1.Subscription{Plan: basic}}))
	if s.GetState() != catalogv1.SubscriptionState_REQUESTED || !s.GetStartTime().AsTime().Equal(began) || s.GetPhases()[0].GetPlanVersion() != basic+"/versions/1" {
		t.Fatalf("requested: %v", s)
	}
	_, err := e.SuspendSubscription(manager, &catalogv1.SuspendSubscriptionRequest{Name: name})
	refused(t, err, codes.FailedPrecondition, "is REQUESTED, not ACTIVE")
	_, err = e.CreateSubscription(acmeUser, &catalogv1.CreateSubscriptionRequest{Parent: "accounts/acme", Subscription: &catalogv1.Subscription{Plan: basic}})
	refused(t, err, codes.FailedPrecondition, "overlaps "+name)
	s = ok(e.ApproveSubscription(manager, &catalogv1.ApproveSubscriptionRequest{Name: name, Reject: true, Reason: "who are you?"}))
	if s.GetState() != catalogv1.SubscriptionState_REJECTED || s.GetReason() != "who are you?" {
		t.Errorf("rejected: %v", s)
	}
	if _, err := e.DeleteSubscription(manager, &catalogv1.DeleteSubscriptionRequest{Name: name}); err != nil {
		t.Fatal(err)
	}

	// A second version starts while the request waits: approval resolves again.
	ok(e.CreateSubscription(acmeUser, &catalogv1.CreateSubscriptionRequest{Parent: "accounts/acme", SubscriptionId: "s", Subscription: &catalogv1.Subscription{Plan: basic}}))
	must[*catalogv1.ApplyResponse](t)(e.Apply(manager, &catalogv1.ApplyRequest{Resources: []*catalogv1.Resource{
		version(basic+"/versions/2", "2026-03-02T00:00:00Z", catalogv1.PlanVersionState_PUBLISHED),
		version(basic+"/versions/3", "2026-03-10T00:00:00Z", catalogv1.PlanVersionState_PUBLISHED),
	}}))
	e.clock.forward(48 * time.Hour)
	s = ok(e.ApproveSubscription(manager, &catalogv1.ApproveSubscriptionRequest{Name: name}))
	if s.GetState() != catalogv1.SubscriptionState_ACTIVE || !s.GetStartTime().AsTime().Equal(e.clock.Now()) || s.GetPhases()[0].GetPlanVersion() != basic+"/versions/2" {
		t.Errorf("approved: %v", s)
	}
	if s = ok(e.SuspendSubscription(manager, &catalogv1.SuspendSubscriptionRequest{Name: name, Reason: "unpaid"})); s.GetState() != catalogv1.SubscriptionState_SUSPENDED || s.GetReason() != "unpaid" {
		t.Errorf("suspended: %v", s)
	}
	if s = ok(e.ResumeSubscription(manager, &catalogv1.ResumeSubscriptionRequest{Name: name})); s.GetState() != catalogv1.SubscriptionState_ACTIVE || s.GetReason() != "" {
		t.Errorf("resumed: %v", s)
	}

	// A running subscription keeps its version; moving it is arranged.
	e.clock.forward(10 * 24 * time.Hour)
	if got := get(); len(got.GetPhases()) != 1 || got.GetPhases()[0].GetPlanVersion() != basic+"/versions/2" {
		t.Errorf("the version changed by itself: %v", got)
	}
	at1, at2 := e.clock.Now().Add(time.Hour), e.clock.Now().Add(2*time.Hour)
	move := func(plan string, when time.Time) (*catalogv1.Subscription, error) {
		return e.MoveSubscription(manager, &catalogv1.MoveSubscriptionRequest{Name: name, Plan: plan, StartTime: at(when)})
	}
	ok(move(basic, at1))
	s = ok(move("products/orders/plans/pro/versions/1", at2))
	if got := phases(s); !slices.Equal(got, []string{"basic/versions/2", "basic/versions/3", "pro/versions/1"}) || s.GetPlan() != "products/orders/plans/pro" {
		t.Errorf("moved: %v %s", got, s.GetPlan())
	}
	// A later decision replaces what was arranged from then on.
	if s = ok(move("products/orders/plans/pro", at1)); !slices.Equal(phases(s), []string{"basic/versions/2", "pro/versions/1"}) {
		t.Errorf("moved again: %v", phases(s))
	}
	for _, c := range []struct {
		plan string
		when time.Time
		code codes.Code
		text string
	}{
		{"products/none/plans/x", at1, codes.InvalidArgument, "plan: products/none/plans/x is no plan of products/orders"},
		{"products/orders/plans/none", at1, codes.InvalidArgument, "plan: products/orders/plans/none does not exist"},
		{"apis/orders", at1, codes.InvalidArgument, `plan: "apis/orders" is no name like`},
		{basic, began, codes.InvalidArgument, "start_time: is no time, or in the past"},
	} {
		_, err := move(c.plan, c.when)
		refused(t, err, c.code, c.text)
	}

	// Fields: a beginning that is past stays, an end can be arranged.
	update := func(s *catalogv1.Subscription, paths ...string) (*catalogv1.Subscription, error) {
		s.Name = name
		return e.UpdateSubscription(manager, &catalogv1.UpdateSubscriptionRequest{Subscription: s, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
	}
	_, err = update(&catalogv1.Subscription{StartTime: at(began)})
	refused(t, err, codes.InvalidArgument, "start_time: cannot change: the subscription has begun")
	_, err = update(&catalogv1.Subscription{App: "accounts/acme/apps/shop"})
	refused(t, err, codes.InvalidArgument, "app: cannot change")
	_, err = update(&catalogv1.Subscription{State: catalogv1.SubscriptionState_ENDED})
	refused(t, err, codes.InvalidArgument, "state: is changed by")
	_, err = update(&catalogv1.Subscription{EndTime: at(began)})
	refused(t, err, codes.InvalidArgument, "end_time: is not after the start")
	end := e.clock.Now().Add(30 * time.Minute)
	if s = ok(update(&catalogv1.Subscription{EndTime: at(end)})); len(s.GetPhases()) != 1 {
		t.Errorf("a phase after the end is left: %v", s)
	}
	if s = ok(update(&catalogv1.Subscription{}, "end_time")); s.GetEndTime() != nil {
		t.Errorf("the end is taken back: %v", s)
	}
	_, err = e.DeleteSubscription(manager, &catalogv1.DeleteSubscriptionRequest{Name: name})
	refused(t, err, codes.FailedPrecondition, "is ACTIVE and has begun; end it first")
	ok(e.EndSubscription(acmeUser, &catalogv1.EndSubscriptionRequest{Name: name, EndTime: at(end), Reason: "too expensive"}))
	_, err = e.EndSubscription(acmeUser, &catalogv1.EndSubscriptionRequest{Name: name, EndTime: at(end.Add(time.Hour))})
	refused(t, err, codes.InvalidArgument, "only a product manager can extend")
	if got := get(); got.GetState() != catalogv1.SubscriptionState_ACTIVE {
		t.Errorf("before the end: %v", got)
	}
	e.clock.forward(30 * time.Minute)
	over := get()
	if over.GetState() != catalogv1.SubscriptionState_ENDED {
		t.Errorf("after the end: %v", over)
	}
	if r := must[*catalogv1.ListSubscriptionsResponse](t)(e.ListSubscriptions(manager, &catalogv1.ListSubscriptionsRequest{Parent: "accounts/-", Filter: "state = ENDED"})); len(r.GetSubscriptions()) != 1 {
		t.Errorf("ended ones: %v", r)
	}
	_, err = move(basic, e.clock.Now())
	refused(t, err, codes.FailedPrecondition, "is ENDED, not ACTIVE")
	over.EndTime = nil
	_, err = e.UpdateSubscription(manager, &catalogv1.UpdateSubscriptionRequest{Subscription: over, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"*"}}})
	refused(t, err, codes.FailedPrecondition, "is ENDED")
	ok(update(&catalogv1.Subscription{Labels: map[string]string{"why": "price"}}))
}

func phases(s *catalogv1.Subscription) []string {
	var out []string
	for _, p := range s.GetPhases() {
		out = append(out, p.GetPlanVersion()[len("products/orders/plans/"):])
	}
	return out
}

// model is what subscriptions of one account to one product may be: for one
// subject no two at the same time.
type model map[string]*held

type held struct {
	subject    string
	start, end int // minutes; forever is open
	state      catalogv1.SubscriptionState
}

const forever = 1 << 30

func (m model) free(name, subject string, start, end int) bool {
	for other, h := range m {
		if other != name && h.subject == subject && h.state != catalogv1.SubscriptionState_REJECTED && h.start < h.end && start < end && h.start < end && start < h.end {
			return false
		}
	}
	return true
}

// TestSubscriptionsFollowTheModel: whatever is asked in whatever order, what is
// allowed is what the model allows, and nothing ever overlaps.
func TestSubscriptionsFollowTheModel(t *testing.T) {
	e := newEnv(t, testenv.Ledger(t))
	e.offer()
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		account := fmt.Sprint("accounts/r", run)
		must[*catalogv1.Account](t)(e.CreateAccount(manager, &catalogv1.CreateAccountRequest{AccountId: account[9:], Account: &catalogv1.Account{DisplayName: "R"}}))
		must[*catalogv1.App](t)(e.CreateApp(manager, &catalogv1.CreateAppRequest{Parent: account, AppId: "app", App: &catalogv1.App{DisplayName: "A"}}))
		zero, m := e.clock.Now(), model{}
		minute := func(n int) time.Time { return zero.Add(time.Duration(n) * time.Minute) }
		now := 0
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			name := account + "/subscriptions/" + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "name")
			h := m[name]
			state := catalogv1.SubscriptionState_SUBSCRIPTION_STATE_UNSPECIFIED
			if h != nil {
				if state = h.state; h.end <= now && state != catalogv1.SubscriptionState_REJECTED {
					state = catalogv1.SubscriptionState_ENDED
				}
			}
			living := state == catalogv1.SubscriptionState_ACTIVE || state == catalogv1.SubscriptionState_REQUESTED || state == catalogv1.SubscriptionState_SUSPENDED
			var err error
			want := false
			var apply func()
			switch action := rapid.SampledFrom([]string{"create", "create", "end", "approve", "reject", "suspend", "resume", "delete", "wait"}).Draw(rt, "action"); action {
			case "create":
				subject := rapid.SampledFrom([]string{account, account + "/apps/app"}).Draw(rt, "subject")
				start, end := now+rapid.IntRange(0, 5).Draw(rt, "start"), forever
				s := &catalogv1.Subscription{Plan: basic, StartTime: at(minute(start)), State: rapid.SampledFrom([]catalogv1.SubscriptionState{0, catalogv1.SubscriptionState_REQUESTED}).Draw(rt, "state")}
				if subject != account {
					s.App = subject
				}
				if rapid.Bool().Draw(rt, "ends") {
					end = start + rapid.IntRange(1, 5).Draw(rt, "length")
					s.EndTime = at(minute(end))
				}
				want = h == nil && m.free(name, subject, start, end)
				made := s.GetState()
				if made == 0 {
					made = catalogv1.SubscriptionState_ACTIVE
				}
				apply = func() { m[name] = &held{subject, start, end, made} }
				_, err = e.CreateSubscription(manager, &catalogv1.CreateSubscriptionRequest{Parent: account, SubscriptionId: name[len(name)-1:], Subscription: s})
			case "end":
				end := now + rapid.IntRange(0, 6).Draw(rt, "end")
				want = living && m.free(name, h.subject, h.start, end)
				apply = func() { h.end = end }
				_, err = e.EndSubscription(manager, &catalogv1.EndSubscriptionRequest{Name: name, EndTime: at(minute(end))})
			case "approve":
				start := 0
				if h != nil {
					start = max(h.start, now)
				}
				want = state == catalogv1.SubscriptionState_REQUESTED && m.free(name, h.subject, start, h.end)
				apply = func() { h.state, h.start = catalogv1.SubscriptionState_ACTIVE, start }
				_, err = e.ApproveSubscription(manager, &catalogv1.ApproveSubscriptionRequest{Name: name})
			case "reject":
				want = state == catalogv1.SubscriptionState_REQUESTED
				apply = func() { h.state = catalogv1.SubscriptionState_REJECTED }
				_, err = e.ApproveSubscription(manager, &catalogv1.ApproveSubscriptionRequest{Name: name, Reject: true})
			case "suspend":
				want = state == catalogv1.SubscriptionState_ACTIVE
				apply = func() { h.state = catalogv1.SubscriptionState_SUSPENDED }
				_, err = e.SuspendSubscription(manager, &catalogv1.SuspendSubscriptionRequest{Name: name})
			case "resume":
				want = state == catalogv1.SubscriptionState_SUSPENDED
				apply = func() { h.state = catalogv1.SubscriptionState_ACTIVE }
				_, err = e.ResumeSubscription(manager, &catalogv1.ResumeSubscriptionRequest{Name: name})
			case "delete":
				want = h != nil && (state != catalogv1.SubscriptionState_ACTIVE && state != catalogv1.SubscriptionState_SUSPENDED || h.start > now)
				apply = func() { delete(m, name) }
				_, err = e.DeleteSubscription(manager, &catalogv1.DeleteSubscriptionRequest{Name: name})
			case "wait":
				want, apply = true, func() {}
				n := rapid.IntRange(1, 4).Draw(rt, "minutes")
				now += n
				e.clock.forward(time.Duration(n) * time.Minute)
			}
			if (err == nil) != want {
				rt.Fatalf("at minute %d, %s: %v, want allowed = %v; model %v", now, name, err, want, m)
			}
			if want {
				apply()
			}
		}
		for name, h := range m {
			got := must[*catalogv1.Subscription](t)(e.GetSubscription(manager, &catalogv1.GetSubscriptionRequest{Name: name}))
			over := h.end <= now && h.state != catalogv1.SubscriptionState_REJECTED
			if !over && got.GetState() != h.state || over && got.GetState() != catalogv1.SubscriptionState_ENDED || !got.GetStartTime().AsTime().Equal(minute(h.start)) {
				rt.Fatalf("%s is %v, want %+v", name, got, h)
			}
		}
		// The next run begins where nothing of this one holds any more.
		e.clock.forward(time.Hour)
	})
}
