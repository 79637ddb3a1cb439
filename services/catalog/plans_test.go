package catalog_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

const basic = "products/orders/plans/basic"

func TestRealPlanVersions(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		e := newEnv(t, db)
		e.offer()
		ok := must[*catalogv1.PlanVersion](t)
		create := func(v *catalogv1.PlanVersion) *catalogv1.PlanVersion {
			t.Helper()
			return ok(e.CreatePlanVersion(manager, &catalogv1.CreatePlanVersionRequest{Parent: basic, PlanVersion: v}))
		}
		publish := func(name string) (*catalogv1.PlanVersion, error) {
			return e.PublishPlanVersion(manager, &catalogv1.PublishPlanVersionRequest{Name: name})
		}
		v2 := create(&catalogv1.PlanVersion{})
		if v2.GetName() != basic+"/versions/2" || v2.GetState() != catalogv1.PlanVersionState_DRAFT || v2.GetBillingPeriod() != catalogv1.BillingPeriod_MONTH {
			t.Errorf("made %v", v2)
		}
		_, err := publish(v2.GetName())
		refused(t, err, codes.InvalidArgument, "start_time: is required to publish; currency: is required to publish")
		_, err = e.UpdatePlanVersion(manager, &catalogv1.UpdatePlanVersionRequest{PlanVersion: &catalogv1.PlanVersion{Name: v2.GetName(), State: catalogv1.PlanVersionState_PUBLISHED, Currency: "EUR", StartTime: at(began)}})
		refused(t, err, codes.InvalidArgument, "state: is changed by PublishPlanVersion")
		v2 = ok(e.UpdatePlanVersion(manager, &catalogv1.UpdatePlanVersionRequest{PlanVersion: &catalogv1.PlanVersion{Name: v2.GetName(), Currency: "EUR", StartTime: at(began.AddDate(-1, 0, 0))}}))
		_, err = publish(v2.GetName())
		refused(t, err, codes.InvalidArgument, "is before 2026-01-01T00:00:00Z, when "+basic+"/versions/1 starts")
		v2 = ok(e.UpdatePlanVersion(manager, &catalogv1.UpdatePlanVersionRequest{PlanVersion: &catalogv1.PlanVersion{Name: v2.GetName(), StartTime: at(began.AddDate(0, 1, 0))}}))
		_, err = e.PublishPlanVersion(manager, &catalogv1.PublishPlanVersionRequest{Name: v2.GetName(), Etag: "1-x"})
		refused(t, err, codes.Aborted, "etag")
		if v2 = ok(publish(v2.GetName())); v2.GetState() != catalogv1.PlanVersionState_PUBLISHED {
			t.Errorf("published %v", v2)
		}

		// Frozen: nothing changes any more, not even a label.
		for _, change := range []*catalogv1.PlanVersion{{RecurringFee: "11.00"}, {Labels: map[string]string{"a": "b"}}, {Account: "accounts/acme"}, {StartTime: at(began)}} {
			change.Name = v2.GetName()
			_, err := e.UpdatePlanVersion(manager, &catalogv1.UpdatePlanVersionRequest{PlanVersion: change})
			refused(t, err, codes.FailedPrecondition, "is PUBLISHED and never changes again")
			_, err = e.Apply(manager, &catalogv1.ApplyRequest{Resources: offerWith(change)})
			refused(t, err, codes.FailedPrecondition, "resources[0]: "+v2.GetName()+" is PUBLISHED and never changes again")
		}
		_, err = publish(v2.GetName())
		refused(t, err, codes.FailedPrecondition, "is PUBLISHED, not DRAFT")

		// The account's own version goes before one for everyone, also if that
		// started later.
		own := create(&catalogv1.PlanVersion{Currency: "EUR", StartTime: at(began.AddDate(0, 0, -1)), Account: "accounts/acme"})
		ok(publish(own.GetName()))
		subscribe := func(account string, start time.Time) string {
			t.Helper()
			s := must[*catalogv1.Subscription](t)(e.CreateSubscription(manager, &catalogv1.CreateSubscriptionRequest{
				Parent: account, Subscription: &catalogv1.Subscription{Plan: basic, StartTime: at(start)}, ValidateOnly: true,
			}))
			return s.GetPhases()[0].GetPlanVersion()
		}
		for _, c := range []struct {
			account, want string
			start         time.Time
		}{
			{"accounts/globex", "1", began}, {"accounts/globex", "2", began.AddDate(0, 1, 0)}, {"accounts/globex", "1", began.AddDate(0, 1, 0).Add(-time.Microsecond)},
			{"accounts/acme", "3", began}, {"accounts/acme", "3", began.AddDate(0, 1, 0)}, {"accounts/acme", "1", began.AddDate(0, 0, -2)},
		} {
			if got := subscribe(c.account, c.start); got != basic+"/versions/"+c.want {
				t.Errorf("%s at %s gets %s, want %s", c.account, c.start, got, c.want)
			}
		}
		_, err = e.CreateSubscription(manager, &catalogv1.CreateSubscriptionRequest{Parent: "accounts/acme", Subscription: &catalogv1.Subscription{Plan: basic, StartTime: at(began.AddDate(-1, 0, 0))}})
		refused(t, err, codes.FailedPrecondition, "has no published version that holds at 2025-03-01")

		// Archived: no new subscription gets it.
		ok(e.ArchivePlanVersion(manager, &catalogv1.ArchivePlanVersionRequest{Name: v2.GetName()}))
		if got := subscribe("accounts/globex", began.AddDate(0, 2, 0)); got != basic+"/versions/1" {
			t.Errorf("an archived version is given out: %s", got)
		}
		_, err = e.ArchivePlanVersion(manager, &catalogv1.ArchivePlanVersionRequest{Name: v2.GetName()})
		refused(t, err, codes.FailedPrecondition, "is ARCHIVED, not PUBLISHED")

		// In use: not deleted, and neither is what it lies in.
		must[*catalogv1.Subscription](t)(e.CreateSubscription(manager, &catalogv1.CreateSubscriptionRequest{Parent: "accounts/globex", SubscriptionId: "s", Subscription: &catalogv1.Subscription{Plan: basic}}))
		_, err = e.DeletePlanVersion(manager, &catalogv1.DeletePlanVersionRequest{Name: basic + "/versions/1"})
		refused(t, err, codes.FailedPrecondition, "is in use by accounts/globex/subscriptions/s")
		if _, err = e.DeletePlanVersion(manager, &catalogv1.DeletePlanVersionRequest{Name: v2.GetName()}); err != nil {
			t.Errorf("nobody uses it: %v", err)
		}
	})
}

// offerWith is one changed version, with what makes it complete.
func offerWith(change *catalogv1.PlanVersion) []*catalogv1.Resource {
	return []*catalogv1.Resource{res(change)}
}

func TestApplyStatesOfPlanVersions(t *testing.T) {
	e := newEnv(t, testenv.Ledger(t))
	e.offer()
	apply := func(v *catalogv1.Resource) error {
		_, err := e.Apply(manager, &catalogv1.ApplyRequest{Resources: []*catalogv1.Resource{v}})
		return err
	}
	name := basic + "/versions/2"
	// From another installation, one may come that nobody new gets.
	if err := apply(version(basic+"/versions/9", "2026-03-01T00:00:00Z", catalogv1.PlanVersionState_ARCHIVED)); err != nil {
		t.Errorf("a new one that is archived: %v", err)
	}
	for _, step := range []struct {
		state catalogv1.PlanVersionState
		want  string
	}{
		{catalogv1.PlanVersionState_DRAFT, ""},
		{catalogv1.PlanVersionState_ARCHIVED, "is DRAFT and cannot become ARCHIVED"},
		{catalogv1.PlanVersionState_PUBLISHED, ""},
		{catalogv1.PlanVersionState_DRAFT, "is PUBLISHED and cannot become DRAFT"},
		{catalogv1.PlanVersionState_PLAN_VERSION_STATE_UNSPECIFIED, ""}, // not said
		{catalogv1.PlanVersionState_ARCHIVED, ""},
		{catalogv1.PlanVersionState_PUBLISHED, "is ARCHIVED and cannot become PUBLISHED"},
	} {
		err := apply(version(name, "2026-02-01T00:00:00Z", step.state))
		if step.want == "" && err != nil {
			t.Errorf("%s: %v", step.state, err)
		}
		if step.want != "" {
			refused(t, err, codes.FailedPrecondition, step.want)
		}
	}
}
