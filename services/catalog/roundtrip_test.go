package catalog_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

// lived is a catalog in which everything has happened that can.
func (e *env) lived() {
	t := e.t
	e.offer()
	const pro = "products/orders/plans/pro"
	credential := func(id string, c *catalogv1.Credential) string {
		made := must[*catalogv1.Credential](t)(e.CreateCredential(manager, &catalogv1.CreateCredentialRequest{Parent: "accounts/acme/apps/shop", CredentialId: id, Credential: c}))
		return made.GetName()
	}
	apiKey := func() *catalogv1.Credential {
		return &catalogv1.Credential{Kind: &catalogv1.Credential_ApiKey{ApiKey: &catalogv1.ApiKey{}}}
	}
	must[*catalogv1.Credential](t)(e.RotateCredential(manager, &catalogv1.RotateCredentialRequest{Name: credential("old", apiKey()), CredentialId: "new", Overlap: durationpb.New(0)}))
	must[*catalogv1.Credential](t)(e.RevokeCredential(manager, &catalogv1.RevokeCredentialRequest{Name: credential("leaked", apiKey())}))
	certificate := credential("certificate", &catalogv1.Credential{Kind: &catalogv1.Credential_ClientCertificate{ClientCertificate: &catalogv1.ClientCertificate{UriSan: "spiffe://acme/shop"}}})
	must[*catalogv1.Credential](t)(e.RevokeCredential(manager, &catalogv1.RevokeCredentialRequest{Name: certificate}))
	must[*catalogv1.Token](t)(e.CreateToken(admin, &catalogv1.CreateTokenRequest{TokenId: "short", Token: &catalogv1.Token{Role: "finance", ExpireTime: at(began.Add(time.Hour))}}))

	subscribe := func(account, id, plan string, start time.Time, s *catalogv1.Subscription) string {
		s.Plan, s.StartTime = plan, at(start)
		return must[*catalogv1.Subscription](t)(e.CreateSubscription(manager, &catalogv1.CreateSubscriptionRequest{Parent: "accounts/" + account, SubscriptionId: id, Subscription: s})).GetName()
	}
	moved := subscribe("acme", "moved", basic, began, &catalogv1.Subscription{App: "accounts/acme/apps/shop"})
	must[*catalogv1.Subscription](t)(e.MoveSubscription(manager, &catalogv1.MoveSubscriptionRequest{Name: moved, Plan: pro, StartTime: at(began.Add(time.Hour))}))
	must[*catalogv1.Subscription](t)(e.MoveSubscription(manager, &catalogv1.MoveSubscriptionRequest{Name: moved, Plan: basic, StartTime: at(began.Add(48 * time.Hour))}))
	must[*catalogv1.Subscription](t)(e.EndSubscription(manager, &catalogv1.EndSubscriptionRequest{Name: moved, EndTime: at(began.Add(36 * time.Hour)), Reason: "too expensive"}))
	suspended := subscribe("globex", "suspended", pro, began, &catalogv1.Subscription{})
	must[*catalogv1.Subscription](t)(e.SuspendSubscription(manager, &catalogv1.SuspendSubscriptionRequest{Name: suspended, Reason: "unpaid"}))
	rejected := subscribe("globex", "rejected", basic, began, &catalogv1.Subscription{App: "accounts/globex/apps/a", State: catalogv1.SubscriptionState_REQUESTED})
	must[*catalogv1.Subscription](t)(e.ApproveSubscription(manager, &catalogv1.ApproveSubscriptionRequest{Name: rejected, Reject: true, Reason: "who are you?"}))
	ended := subscribe("acme", "ended", basic, began, &catalogv1.Subscription{})
	e.clock.forward(time.Minute)
	must[*catalogv1.Subscription](t)(e.EndSubscription(manager, &catalogv1.EndSubscriptionRequest{Name: ended}))
	for id, end := range map[string]time.Duration{"never": 0, "never-soon": time.Hour, "never-later": 72 * time.Hour} {
		begins := e.clock.Now().Add(100 * time.Hour)
		name := subscribe("acme", id, basic, begins, &catalogv1.Subscription{})
		must[*catalogv1.Subscription](t)(e.EndSubscription(manager, &catalogv1.EndSubscriptionRequest{Name: name, EndTime: at(e.clock.Now().Add(end))}))
	}
	subscribe("acme", "goes-on", basic, began.Add(time.Hour), &catalogv1.Subscription{})

	// Versions whose numbers are not in the order of their starts, and one that
	// nobody new gets any more.
	must[*catalogv1.ApplyResponse](t)(e.Apply(manager, &catalogv1.ApplyRequest{Resources: []*catalogv1.Resource{
		version(basic+"/versions/2", "2026-05-01T00:00:00Z", catalogv1.PlanVersionState_DRAFT),
		version(basic+"/versions/3", "2026-04-01T00:00:00Z", catalogv1.PlanVersionState_PUBLISHED),
		version(basic+"/versions/4", "2026-06-01T00:00:00Z", catalogv1.PlanVersionState_DRAFT),
	}}))
	must[*catalogv1.PlanVersion](t)(e.PublishPlanVersion(manager, &catalogv1.PublishPlanVersionRequest{Name: basic + "/versions/2"}))
	must[*catalogv1.PlanVersion](t)(e.ArchivePlanVersion(manager, &catalogv1.ArchivePlanVersionRequest{Name: basic + "/versions/1"}))
	e.clock.forward(24 * time.Hour)
}

// everything is the catalog without what belongs to one installation.
func (e *env) everything() []*catalogv1.Resource {
	e.t.Helper()
	var out []*catalogv1.Resource
	add := func(m proto.Message) {
		r := proto.Clone(m).ProtoReflect()
		for _, name := range []protoreflect.Name{"uid", "etag", "create_time", "update_time"} {
			r.Clear(r.Descriptor().Fields().ByName(name))
		}
		if c, ok := r.Interface().(*catalogv1.Credential); ok && c.GetApiKey() != nil {
			c.GetApiKey().Reset()
		}
		out = append(out, res(r.Interface()))
	}
	for _, m := range must[*catalogv1.ListMetersResponse](e.t)(e.ListMeters(admin, &catalogv1.ListMetersRequest{})).GetMeters() {
		add(m)
	}
	for _, m := range must[*catalogv1.ListApisResponse](e.t)(e.ListApis(admin, &catalogv1.ListApisRequest{})).GetApis() {
		add(m)
	}
	for _, m := range must[*catalogv1.ListOperationsResponse](e.t)(e.ListOperations(admin, &catalogv1.ListOperationsRequest{Parent: "apis/-"})).GetOperations() {
		add(m)
	}
	for _, m := range must[*catalogv1.ListAccountsResponse](e.t)(e.ListAccounts(admin, &catalogv1.ListAccountsRequest{})).GetAccounts() {
		add(m)
	}
	for _, m := range must[*catalogv1.ListAppsResponse](e.t)(e.ListApps(admin, &catalogv1.ListAppsRequest{Parent: "accounts/-"})).GetApps() {
		add(m)
	}
	for _, m := range must[*catalogv1.ListCredentialsResponse](e.t)(e.ListCredentials(admin, &catalogv1.ListCredentialsRequest{Parent: "accounts/-/apps/-"})).GetCredentials() {
		add(m)
	}
	for _, m := range must[*catalogv1.ListProductsResponse](e.t)(e.ListProducts(admin, &catalogv1.ListProductsRequest{})).GetProducts() {
		add(m)
	}
	for _, m := range must[*catalogv1.ListPlansResponse](e.t)(e.ListPlans(admin, &catalogv1.ListPlansRequest{Parent: "products/-"})).GetPlans() {
		add(m)
	}
	for _, m := range must[*catalogv1.ListPlanVersionsResponse](e.t)(e.ListPlanVersions(admin, &catalogv1.ListPlanVersionsRequest{Parent: "products/-/plans/-"})).GetVersions() {
		add(m)
	}
	for _, m := range must[*catalogv1.ListSubscriptionsResponse](e.t)(e.ListSubscriptions(admin, &catalogv1.ListSubscriptionsRequest{Parent: "accounts/-"})).GetSubscriptions() {
		add(m)
	}
	for _, m := range must[*catalogv1.ListTokensResponse](e.t)(e.ListTokens(admin, &catalogv1.ListTokensRequest{})).GetTokens() {
		add(m)
	}
	return out
}

// What one installation has can be applied to another one, which is equal then,
// and to itself, where it changes nothing.
func TestRealAppliedElsewhere(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		from := newEnv(t, db)
		must[*catalogv1.ApplyResponse](t)(from.Apply(manager, &catalogv1.ApplyRequest{Resources: []*catalogv1.Resource{
			res(&catalogv1.Account{Name: "accounts/globex", DisplayName: "Globex"}), res(&catalogv1.App{Name: "accounts/globex/apps/a", DisplayName: "A"}),
		}}))
		from.lived()
		all := from.everything()
		to := newEnv(t, testenv.Ledger(t))
		to.clock.forward(from.clock.Now().Sub(to.clock.Now()))
		for i, e := range []*env{to, from} {
			want := []catalogv1.ChangeAction{catalogv1.ChangeAction_CREATED, catalogv1.ChangeAction_UNCHANGED}[i]
			for _, c := range must[*catalogv1.ApplyResponse](t)(e.Apply(admin, &catalogv1.ApplyRequest{Resources: all})).GetChanges() {
				if c.GetAction() != want {
					t.Errorf("%s: %s (%v), want %s", c.GetName(), c.GetAction(), c.GetFields(), want)
				}
			}
			got := e.everything()
			if len(got) != len(all) {
				t.Fatalf("%d resources, want %d", len(got), len(all))
			}
			for j := range got {
				if !proto.Equal(got[j], all[j]) {
					t.Errorf("is\n%v\nwant\n%v", got[j], all[j])
				}
			}
		}
	})
}

// What a file brings back must be what can have happened.
func TestRestoredIsChecked(t *testing.T) {
	e := newEnv(t, testenv.Ledger(t))
	e.offer()
	must[*catalogv1.ApplyResponse](t)(e.Apply(manager, &catalogv1.ApplyRequest{Resources: []*catalogv1.Resource{
		res(&catalogv1.Product{Name: "products/other", DisplayName: "Other"}), res(&catalogv1.Plan{Name: "products/other/plans/p", DisplayName: "P"}),
		version("products/other/plans/p/versions/1", "2026-01-01T00:00:00Z", catalogv1.PlanVersionState_PUBLISHED),
		version(basic+"/versions/2", "2026-01-02T00:00:00Z", catalogv1.PlanVersionState_DRAFT),
	}}))
	const pro = "products/orders/plans/pro"
	phase := func(start time.Time, version string) *catalogv1.SubscriptionPhase {
		return &catalogv1.SubscriptionPhase{StartTime: timestamppb.New(start), PlanVersion: version}
	}
	later := began.Add(time.Hour)
	for _, c := range []struct {
		field  string
		phases []*catalogv1.SubscriptionPhase
	}{
		{"phases[0].start_time", []*catalogv1.SubscriptionPhase{phase(later, basic+"/versions/1")}},
		{"phases[0].start_time", []*catalogv1.SubscriptionPhase{{PlanVersion: basic + "/versions/1"}}},
		{"phases[1].start_time", []*catalogv1.SubscriptionPhase{phase(began, pro+"/versions/1"), phase(began, basic+"/versions/1")}},
		{"phases[0].plan_version", []*catalogv1.SubscriptionPhase{phase(began, "")}},
		{"phases[0].plan_version", []*catalogv1.SubscriptionPhase{phase(began, basic+"/versions/2")}},
		{"phases[0].plan_version", []*catalogv1.SubscriptionPhase{phase(began, basic+"/versions/9")}},
		{"phases[0].plan_version", []*catalogv1.SubscriptionPhase{phase(began, basic)}},
		{"phases[0].plan_version", []*catalogv1.SubscriptionPhase{phase(began, "products/other/plans/p/versions/1"), phase(later, basic+"/versions/1")}},
		{"phases", []*catalogv1.SubscriptionPhase{phase(began, basic+"/versions/1"), phase(later, pro+"/versions/1")}},
	} {
		_, err := e.Apply(manager, &catalogv1.ApplyRequest{Resources: []*catalogv1.Resource{res(&catalogv1.Subscription{
			Name: "accounts/acme/subscriptions/s", Plan: basic, StartTime: at(began), Phases: c.phases,
		})}})
		if got := fields(err); len(got) == 0 || got[0] != "resources[0]."+c.field {
			t.Errorf("%v: %v, want %s", c.phases, err, c.field)
		}
	}
	_, err := e.Apply(manager, &catalogv1.ApplyRequest{Resources: []*catalogv1.Resource{res(&catalogv1.Credential{
		Name: "accounts/acme/apps/shop/credentials/c", Kind: &catalogv1.Credential_ApiKey{ApiKey: &catalogv1.ApiKey{}}, RevokeTime: at(later),
	})}})
	refused(t, err, codes.InvalidArgument, "resources[0].revoke_time: is in the future")

	// The methods for single resources take none of it, and what is there keeps
	// what it has.
	s := must[*catalogv1.Subscription](t)(e.CreateSubscription(manager, &catalogv1.CreateSubscriptionRequest{Parent: "accounts/acme", SubscriptionId: "s", Subscription: &catalogv1.Subscription{
		Plan: basic, Reason: "mine", Phases: []*catalogv1.SubscriptionPhase{phase(began, pro+"/versions/1")},
	}}))
	if len(s.GetPhases()) != 1 || s.GetPhases()[0].GetPlanVersion() != basic+"/versions/1" || s.GetReason() != "" {
		t.Errorf("created: %v", s)
	}
	s.Phases, s.Reason = []*catalogv1.SubscriptionPhase{phase(began, pro+"/versions/1")}, "mine"
	r := must[*catalogv1.ApplyResponse](t)(e.Apply(manager, &catalogv1.ApplyRequest{Resources: []*catalogv1.Resource{res(s)}}))
	if c := r.GetChanges()[0]; c.GetAction() != catalogv1.ChangeAction_UNCHANGED {
		t.Errorf("applied to what is there: %v", c)
	}
}
