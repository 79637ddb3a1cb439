package catalog_test

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

func actions(r *catalogv1.ApplyResponse) map[string]string {
	out := map[string]string{}
	for _, c := range r.GetChanges() {
		out[c.GetName()] = c.GetAction().String()
	}
	return out
}

func TestRealApply(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		e := newEnv(t, db)
		key := res(&catalogv1.Credential{Name: "accounts/acme/apps/shop/credentials/key", Kind: &catalogv1.Credential_ApiKey{ApiKey: &catalogv1.ApiKey{}}})
		sub := res(&catalogv1.Subscription{Name: "accounts/acme/subscriptions/orders", App: "accounts/acme/apps/shop", Plan: "products/orders/plans/basic"})
		all := append(offer(), key, sub)
		ok := must[*catalogv1.ApplyResponse](t)

		dry := ok(e.Apply(admin, &catalogv1.ApplyRequest{Resources: all, ValidateOnly: true}))
		if len(dry.GetChanges()) != len(all) || dry.GetChanges()[len(offer())].GetAfter().GetCredential().GetApiKey().GetKey() != "" {
			t.Errorf("dry run: %v", dry)
		}
		if got := must[*catalogv1.ListAccountsResponse](t)(e.ListAccounts(admin, &catalogv1.ListAccountsRequest{})); len(got.GetAccounts()) != 0 {
			t.Fatal("a dry run changed something")
		}
		first := ok(e.Apply(admin, &catalogv1.ApplyRequest{Resources: all}))
		for i, c := range first.GetChanges() {
			if c.GetAction() != catalogv1.ChangeAction_CREATED || c.GetBefore() != nil || c.GetAfter() == nil {
				t.Errorf("change %d: %v", i, c)
			}
		}
		if first.GetChanges()[len(offer())].GetAfter().GetCredential().GetApiKey().GetKey() == "" {
			t.Error("the key is not shown")
		}
		e.clock.forward(time.Hour)
		again := ok(e.Apply(admin, &catalogv1.ApplyRequest{Resources: all, Prune: true}))
		for _, c := range again.GetChanges() {
			if c.GetAction() != catalogv1.ChangeAction_UNCHANGED || c.GetAfter().GetCredential().GetApiKey().GetKey() != "" {
				t.Errorf("second time: %v", c)
			}
		}

		// One wrong resource: nothing is applied, and everything wrong is named.
		bad := append(slices.Clone(all),
			res(&catalogv1.App{Name: "accounts/acme/apps/new", DisplayName: "New"}),
			res(&catalogv1.Product{Name: "products/x", DisplayName: "X", Operations: []string{"apis/none/operations/none", "apis/orders"}}),
			res(&catalogv1.App{Name: "accounts/none/apps/new", DisplayName: "New"}),
		)
		_, err := e.Apply(admin, &catalogv1.ApplyRequest{Resources: bad})
		refused(t, err, codes.InvalidArgument, "apis/none/operations/none does not exist")
		if got, want := fields(err), []string{"resources[15].operations[0]", "resources[16].name"}; !slices.Equal(got, want) {
			t.Errorf("violations in %v, want %v", got, want)
		}
		_, err = e.GetApp(admin, &catalogv1.GetAppRequest{Name: "accounts/acme/apps/new"})
		refused(t, err, codes.NotFound, "accounts/acme/apps/new does not exist")

		// Prune deletes what was in the set, children first.
		fewer := slices.DeleteFunc(offer(), func(r *catalogv1.Resource) bool { return r.GetAccount().GetName() == "accounts/globex" })
		must[*catalogv1.Subscription](t)(e.EndSubscription(manager, &catalogv1.EndSubscriptionRequest{Name: "accounts/acme/subscriptions/orders"}))
		got := actions(ok(e.Apply(admin, &catalogv1.ApplyRequest{Resources: fewer, Prune: true})))
		for _, name := range []string{"accounts/globex", "accounts/acme/subscriptions/orders", "accounts/acme/apps/shop/credentials/key"} {
			if got[name] != "DELETED" {
				t.Errorf("%s is %q", name, got[name])
			}
		}
		// Another set owns what it applied last.
		ok(e.Apply(admin, &catalogv1.ApplyRequest{Set: "other", Resources: fewer}))
		if got := ok(e.Apply(admin, &catalogv1.ApplyRequest{Prune: true})); len(got.GetChanges()) != 0 {
			t.Errorf("pruned what is in another set: %v", actions(got))
		}
		got = actions(ok(e.Apply(admin, &catalogv1.ApplyRequest{Set: "other", Prune: true})))
		if len(got) != len(fewer) {
			t.Errorf("left after pruning everything: %v", got)
		}
	})
}
