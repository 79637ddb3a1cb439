package catalog

import (
	"context"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/catalog/store"
)

const (
	requested = catalogv1.SubscriptionState_REQUESTED
	active    = catalogv1.SubscriptionState_ACTIVE
	suspended = catalogv1.SubscriptionState_SUSPENDED
	ended     = catalogv1.SubscriptionState_ENDED
	rejected  = catalogv1.SubscriptionState_REJECTED
)

// stateAt is where a subscription stands at a moment: nobody changes it when its
// end comes.
func stateAt(s *catalogv1.Subscription, now time.Time) catalogv1.SubscriptionState {
	if s.GetState() != rejected && s.GetEndTime() != nil && !s.GetEndTime().AsTime().After(now) {
		return ended
	}
	return s.GetState()
}

func isOver(s *catalogv1.Subscription, now time.Time) bool {
	state := stateAt(s, now)
	return state == ended || state == rejected
}

// adoptSubscription takes a state that was read as the one that is stored, and
// a start that was not said as the one that is there, or now.
func adoptSubscription(u *unit, before, m kind.Resource) {
	s := m.(*catalogv1.Subscription)
	if before == nil {
		if s.GetStartTime() == nil {
			s.StartTime = timestamp(u.now)
		}
		return
	}
	b := before.(*catalogv1.Subscription)
	if s.GetState() == stateAt(b, u.now) {
		s.State = b.GetState()
	}
	if s.GetStartTime() == nil {
		s.StartTime = b.GetStartTime()
	}
}

func beginSubscription(ctx context.Context, u *unit, m kind.Resource) (secret, error) {
	s := m.(*catalogv1.Subscription)
	if err := u.limit(ctx, kind.Subscription, m, u.s.cfg.MaxSubscriptions); err != nil {
		return secret{}, err
	}
	if err := u.setFirstState(ctx, s); err != nil {
		return secret{}, err
	}
	if len(s.GetPhases()) > 0 {
		if err := u.checkPhases(ctx, s); err != nil {
			return secret{}, err
		}
		return secret{}, u.checkOverlap(ctx, s)
	}
	if endsBeforeStart(s) {
		return secret{}, wrong("end_time", "is not after the start")
	}
	version, err := u.resolve(ctx, s.GetPlan(), kind.AccountOf(s.GetName()), s.GetStartTime().AsTime())
	if err != nil {
		return secret{}, err
	}
	s.Phases = []*catalogv1.SubscriptionPhase{{StartTime: s.GetStartTime(), PlanVersion: version}}
	return secret{}, u.checkOverlap(ctx, s)
}

// endsBeforeStart tells that it was ended before it began, and never holds.
func endsBeforeStart(s *catalogv1.Subscription) bool {
	return s.GetEndTime() != nil && !s.GetEndTime().AsTime().After(s.GetStartTime().AsTime())
}

// checkPhases judges the phases that a file brings back: they are what moves made
// of them, also under versions that are archived by now.
func (u *unit) checkPhases(ctx context.Context, s *catalogv1.Subscription) error {
	var v kind.Violations
	account, before := kind.AccountOf(s.GetName()), time.Time{}
	for i, p := range s.GetPhases() {
		v.Prefix = fmt.Sprintf("phases[%d].", i)
		start := p.GetStartTime().AsTime()
		switch {
		case p.GetStartTime().CheckValid() != nil:
			v.Add("start_time", "is no time")
		case i == 0 && !start.Equal(s.GetStartTime().AsTime()):
			v.Add("start_time", "is not when the subscription starts")
		case i > 0 && !start.After(before):
			v.Add("start_time", "is not after the phase before it")
		}
		before = start
		if p.GetPlanVersion() == "" {
			v.Add("plan_version", "is required")
			continue
		}
		stored, err := store.Get(ctx, u.tx, p.GetPlanVersion())
		if err != nil {
			return err
		}
		version := stored.Message.(*catalogv1.PlanVersion)
		switch of := version.GetAccount(); {
		case kind.ProductOf(stored.Parent) != kind.ProductOf(s.GetPlan()):
			v.Add("plan_version", "%s is of another product than %s", stored.Name, s.GetPlan())
		case version.GetState() == draft, of != "" && of != account:
			v.Add("plan_version", "%s must have been published, for this account or for everyone", stored.Name)
		}
	}
	v.Prefix = ""
	// Where an end was put before a move, the plan is still that of the move.
	last, _ := kind.Split(s.GetPhases()[len(s.GetPhases())-1].GetPlanVersion())
	if last != s.GetPlan() && s.GetEndTime() == nil {
		v.Add("phases", "end under %s, not under %s; leave them out to begin with the version that holds", last, s.GetPlan())
	}
	return v.Err()
}

// setFirstState decides whether a new subscription needs approval.
func (u *unit) setFirstState(ctx context.Context, s *catalogv1.Subscription) error {
	if !u.who.consumer() {
		switch s.GetState() {
		case catalogv1.SubscriptionState_SUBSCRIPTION_STATE_UNSPECIFIED:
			s.State = active
		case active, requested:
		case suspended, rejected, ended:
			return u.firstStateOfFile(s)
		default:
			return wrong("state", "is %s, but a new subscription is ACTIVE or REQUESTED", s.GetState())
		}
		return nil
	}
	if s.GetStartTime().AsTime().Before(u.now) {
		return wrong("start_time", "is in the past")
	}
	stored, err := store.Get(ctx, u.tx, kind.ProductOf(s.GetPlan()))
	if err != nil {
		return err
	}
	product := stored.Message.(*catalogv1.Product)
	if !kind.MaySee(product, u.who.account) {
		// As if it did not exist: what others are offered is nobody's business.
		return wrong("plan", "%s does not exist", s.GetPlan())
	}
	s.State = requested
	if product.GetAutoApprove() {
		s.State = active
	}
	return nil
}

// firstStateOfFile takes over a subscription from another installation as it
// stood there.
func (u *unit) firstStateOfFile(s *catalogv1.Subscription) error {
	switch {
	case !u.transitions:
		return wrong("state", "is %s, but a new subscription is ACTIVE or REQUESTED", s.GetState())
	case s.GetState() == ended && (s.GetEndTime() == nil || s.GetEndTime().AsTime().After(u.now)):
		return wrong("end_time", "must be in the past: the subscription is ENDED")
	}
	return nil
}

// changeStateByFile judges another state in an applied file. An end is said by
// end_time.
func (u *unit) changeStateByFile(before, after *catalogv1.Subscription) error {
	from, to := before.GetState(), after.GetState()
	switch {
	case from == requested && (to == active || to == rejected), from == active && to == suspended, from == suspended && to == active:
		return nil
	case to == ended:
		return wrong("state", "becomes ENDED by an end_time")
	}
	return wrong("state", "cannot become %s from %s", to, from)
}

// changeSubscription judges a change of fields. States have methods of their own,
// except in applied files.
func changeSubscription(ctx context.Context, u *unit, before, after kind.Resource, fields []string) error {
	b, a := before.(*catalogv1.Subscription), after.(*catalogv1.Subscription)
	if len(fields) == 1 && fields[0] == "labels" {
		return nil
	}
	if isOver(b, u.now) {
		return precondition("%s is %s", b.GetName(), stateAt(b, u.now))
	}
	if contains(fields, "state") && u.transitions {
		if err := u.changeStateByFile(b, a); err != nil {
			return err
		}
		a.Reason = "" // of the state before
	} else if contains(fields, "state") {
		return wrong("state", "is changed by ApproveSubscription, SuspendSubscription, ResumeSubscription and EndSubscription")
	}
	if contains(fields, "start_time") {
		if err := u.moveStart(ctx, b, a); err != nil {
			return err
		}
	}
	if contains(fields, "end_time") {
		if err := u.checkEnd(a); err != nil {
			return err
		}
	}
	if contains(fields, "plan") {
		if err := u.moveTo(ctx, a, a.GetPlan(), later(u.now, a.GetStartTime().AsTime())); err != nil {
			return err
		}
	}
	return u.checkOverlap(ctx, a)
}

// moveStart gives a subscription that has not begun another beginning, and the
// version that holds then.
func (u *unit) moveStart(ctx context.Context, before, after *catalogv1.Subscription) error {
	if !before.GetStartTime().AsTime().After(u.now) {
		return wrong("start_time", "cannot change: the subscription has begun")
	}
	if err := u.future("start_time", after.GetStartTime()); err != nil {
		return err
	}
	return u.beginAt(ctx, after, after.GetStartTime().AsTime(), before.GetPlan())
}

// beginAt resolves the version of the plan at the beginning. Moves that were
// arranged for later stay.
func (u *unit) beginAt(ctx context.Context, s *catalogv1.Subscription, start time.Time, plan string) error {
	version, err := u.resolve(ctx, plan, kind.AccountOf(s.GetName()), start)
	if err != nil {
		return err
	}
	s.StartTime = timestamp(start)
	later := slices.DeleteFunc(slices.Clone(s.GetPhases()[1:]), func(p *catalogv1.SubscriptionPhase) bool {
		return !p.GetStartTime().AsTime().After(start)
	})
	s.Phases = append([]*catalogv1.SubscriptionPhase{{StartTime: s.GetStartTime(), PlanVersion: version}}, later...)
	return nil
}

func (u *unit) checkEnd(s *catalogv1.Subscription) error {
	end := s.GetEndTime()
	if end == nil {
		return nil
	}
	if endsBeforeStart(s) {
		return wrong("end_time", "is not after the start")
	}
	if end.AsTime().Before(u.now) {
		return wrong("end_time", "is in the past")
	}
	dropPhases(s, end.AsTime())
	return nil
}

// dropPhases forgets moves that would come at the end or later.
func dropPhases(s *catalogv1.Subscription, end time.Time) {
	first := s.GetPhases()[0]
	rest := slices.DeleteFunc(slices.Clone(s.GetPhases()[1:]), func(p *catalogv1.SubscriptionPhase) bool {
		return !p.GetStartTime().AsTime().Before(end)
	})
	s.Phases = append([]*catalogv1.SubscriptionPhase{first}, rest...)
}

// moveTo puts a subscription under a version, or under the version of a plan
// that holds then, from a moment on.
func (u *unit) moveTo(ctx context.Context, s *catalogv1.Subscription, target string, at time.Time) error {
	plan, version, err := u.moveTarget(ctx, s, target, at)
	if err != nil {
		return err
	}
	if at.Before(s.GetStartTime().AsTime()) {
		return wrong("start_time", "is before the subscription begins")
	}
	if end := s.GetEndTime(); end != nil && !at.Before(end.AsTime()) {
		return wrong("start_time", "is not before the subscription ends")
	}
	phases := slices.DeleteFunc(slices.Clone(s.GetPhases()), func(p *catalogv1.SubscriptionPhase) bool {
		return !p.GetStartTime().AsTime().Before(at)
	})
	if n := len(phases); n == 0 || phases[n-1].GetPlanVersion() != version {
		phases = append(phases, &catalogv1.SubscriptionPhase{StartTime: timestamp(at), PlanVersion: version})
	}
	s.Plan, s.Phases = plan, phases
	return nil
}

// moveTarget reads what a subscription is to be moved to. Its product stays, and
// with it the period that the database guards.
func (u *unit) moveTarget(ctx context.Context, s *catalogv1.Subscription, target string, at time.Time) (plan, version string, err error) {
	k, err := kind.Of(target)
	if err != nil || k != kind.Plan && k != kind.PlanVersion {
		return "", "", wrong("plan", "%q is no name like %s or %s", target, kind.Plan.Pattern(), kind.PlanVersion.Pattern())
	}
	account := kind.AccountOf(s.GetName())
	plan = target
	if k == kind.PlanVersion {
		plan, _ = kind.Split(target)
	}
	first, _ := kind.Split(s.GetPhases()[0].GetPlanVersion())
	if kind.ProductOf(plan) != kind.ProductOf(first) {
		return "", "", wrong("plan", "%s is no plan of %s; end this subscription and make another one", plan, kind.ProductOf(first))
	}
	there, err := u.kindOf(ctx, target)
	if err != nil {
		return "", "", err
	}
	if there == nil {
		return "", "", wrong("plan", "%s does not exist", target)
	}
	if k == kind.Plan {
		version, err = u.resolve(ctx, plan, account, at)
		return plan, version, err
	}
	stored, err := store.Get(ctx, u.tx, target)
	if err != nil {
		return "", "", err
	}
	if v := stored.Message.(*catalogv1.PlanVersion); !holds(v, account, at) {
		return "", "", precondition("%s does not hold for %s at %s: it must be published, have started, and be for this account or for everyone", target, account, at.Format(time.RFC3339))
	}
	return plan, target, nil
}

// period is when a subscription holds its subject's place for the product.
func period(s *catalogv1.Subscription) (store.Period, bool) {
	p := store.Period{Subject: s.GetApp(), Product: kind.ProductOf(s.GetPlan()), Start: s.GetStartTime().AsTime()}
	if p.Subject == "" {
		p.Subject = kind.AccountOf(s.GetName())
	}
	if end := s.GetEndTime(); end != nil {
		p.End = end.AsTime()
	}
	return p, s.GetState() != rejected && !endsBeforeStart(s)
}

func (u *unit) checkOverlap(ctx context.Context, s *catalogv1.Subscription) error {
	p, holds := period(s)
	if !holds {
		return nil
	}
	other, err := store.Overlapping(ctx, u.tx, s.GetName(), p)
	if err != nil || other == "" {
		return err
	}
	return precondition("%s overlaps %s, which is for %s and %s too", s.GetName(), other, p.Subject, p.Product)
}

func storedSubscription(ctx context.Context, u *unit, m kind.Resource) error {
	if p, holds := period(m.(*catalogv1.Subscription)); holds {
		return u.w.SetPeriods(ctx, m.GetName(), p)
	}
	return u.w.SetPeriods(ctx, m.GetName())
}

// endSubscription keeps subscriptions under which calls may have been made until
// they are over.
func endSubscription(u *unit, m kind.Resource) error {
	s := m.(*catalogv1.Subscription)
	state := stateAt(s, u.now)
	if (state == active || state == suspended) && !s.GetStartTime().AsTime().After(u.now) {
		return precondition("%s is %s and has begun; end it first", s.GetName(), state)
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// changeState carries out one of the methods that say what becomes of a
// subscription. fn changes the copy that it gets, and may refuse.
func (s *Service) changeState(ctx context.Context, name string, fn func(u *unit, sub *catalogv1.Subscription) error) (*catalogv1.Subscription, error) {
	var out *catalogv1.Subscription
	err := s.write(ctx, false, func(u *unit) error {
		before, err := u.get(ctx, kind.Subscription, name)
		if err != nil {
			return err
		}
		sub := proto.Clone(before.Message).(*catalogv1.Subscription)
		if err := fn(u, sub); err != nil {
			return err
		}
		if err := u.checkOverlap(ctx, sub); err != nil {
			return err
		}
		after, err := u.save(ctx, before, sub)
		if err != nil {
			return err
		}
		out = present(u.who, u.now, after).(*catalogv1.Subscription)
		return nil
	})
	return out, err
}

// must refuses unless the subscription is in one of the states.
func must(u *unit, s *catalogv1.Subscription, states ...catalogv1.SubscriptionState) error {
	if state := stateAt(s, u.now); !slices.Contains(states, state) {
		return precondition("%s is %s, not %s", s.GetName(), state, states[0])
	}
	return nil
}

func checkReason(reason string) error {
	if utf8.RuneCountInString(reason) > kind.MaxReason {
		return wrong("reason", "is longer than %d characters", kind.MaxReason)
	}
	return nil
}

// ApproveSubscription lets a requested subscription start, not before now, or
// rejects it.
func (s *Service) ApproveSubscription(ctx context.Context, r *catalogv1.ApproveSubscriptionRequest) (*catalogv1.Subscription, error) {
	if err := checkReason(r.GetReason()); err != nil {
		return nil, s.status(err)
	}
	return s.changeState(ctx, r.GetName(), func(u *unit, sub *catalogv1.Subscription) error {
		if err := must(u, sub, requested); err != nil {
			return err
		}
		sub.Reason = r.GetReason()
		if r.GetReject() {
			sub.State = rejected
			return nil
		}
		sub.State = active
		if sub.GetStartTime().AsTime().After(u.now) {
			return nil
		}
		// Nobody pays for the time of waiting.
		return u.beginAt(ctx, sub, u.now, sub.GetPlan())
	})
}

// SuspendSubscription stops the use of an active subscription.
func (s *Service) SuspendSubscription(ctx context.Context, r *catalogv1.SuspendSubscriptionRequest) (*catalogv1.Subscription, error) {
	if err := checkReason(r.GetReason()); err != nil {
		return nil, s.status(err)
	}
	return s.changeState(ctx, r.GetName(), func(u *unit, sub *catalogv1.Subscription) error {
		if err := must(u, sub, active); err != nil {
			return err
		}
		sub.State, sub.Reason = suspended, r.GetReason()
		return nil
	})
}

// ResumeSubscription brings a suspended subscription back.
func (s *Service) ResumeSubscription(ctx context.Context, r *catalogv1.ResumeSubscriptionRequest) (*catalogv1.Subscription, error) {
	return s.changeState(ctx, r.GetName(), func(u *unit, sub *catalogv1.Subscription) error {
		if err := must(u, sub, suspended); err != nil {
			return err
		}
		sub.State, sub.Reason = active, ""
		return nil
	})
}

// EndSubscription ends a subscription now or at a time to come.
func (s *Service) EndSubscription(ctx context.Context, r *catalogv1.EndSubscriptionRequest) (*catalogv1.Subscription, error) {
	if err := checkReason(r.GetReason()); err != nil {
		return nil, s.status(err)
	}
	return s.changeState(ctx, r.GetName(), func(u *unit, sub *catalogv1.Subscription) error {
		if err := must(u, sub, active, suspended, requested); err != nil {
			return err
		}
		end, err := u.endTime(r.GetEndTime())
		if err != nil {
			return err
		}
		old := sub.GetEndTime()
		if u.who.consumer() && old != nil && end.After(old.AsTime()) {
			return wrong("end_time", "is after the end that is arranged, and only a product manager can extend a subscription")
		}
		sub.EndTime, sub.Reason = timestamp(end), r.GetReason()
		if !end.After(u.now) {
			sub.State = ended
		}
		dropPhases(sub, end)
		return nil
	})
}

func (u *unit) endTime(t *timestamppb.Timestamp) (time.Time, error) {
	switch {
	case t == nil:
		return u.now, nil
	case t.CheckValid() != nil:
		return time.Time{}, wrong("end_time", "is no time")
	case t.AsTime().Before(u.now):
		return time.Time{}, wrong("end_time", "is in the past")
	}
	return t.AsTime().Truncate(time.Microsecond), nil
}

// MoveSubscription puts a subscription under another version from a time on.
func (s *Service) MoveSubscription(ctx context.Context, r *catalogv1.MoveSubscriptionRequest) (*catalogv1.Subscription, error) {
	return s.changeState(ctx, r.GetName(), func(u *unit, sub *catalogv1.Subscription) error {
		if err := must(u, sub, active, suspended, requested); err != nil {
			return err
		}
		at, err := u.endTime(r.GetStartTime())
		if err != nil {
			return wrong("start_time", "is no time, or in the past")
		}
		if r.GetStartTime() == nil {
			at = later(at, sub.GetStartTime().AsTime())
		}
		return u.moveTo(ctx, sub, r.GetPlan(), at)
	})
}
