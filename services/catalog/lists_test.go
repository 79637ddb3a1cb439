package catalog_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

func TestRealLists(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		e := newEnv(t, db)
		var resources []*catalogv1.Resource
		for i, id := range []string{"a", "a-b", "a-c", "b", "ab"} {
			resources = append(resources, res(&catalogv1.Account{Name: "accounts/" + id, DisplayName: fmt.Sprint("Name ", 9-i), Labels: map[string]string{"tier": []string{"gold", "silver"}[i%2]}}))
			for _, app := range []string{"z", "y"} {
				resources = append(resources, res(&catalogv1.App{Name: "accounts/" + id + "/apps/" + app, DisplayName: app, Disabled: app == "z"}))
			}
		}
		must[*catalogv1.ApplyResponse](t)(e.Apply(admin, &catalogv1.ApplyRequest{Resources: resources}))

		accounts := func(filter, order string, size int32) []string {
			t.Helper()
			var out []string
			for token := ""; ; {
				r := must[*catalogv1.ListAccountsResponse](t)(e.ListAccounts(admin, &catalogv1.ListAccountsRequest{PageSize: size, PageToken: token, Filter: filter, OrderBy: order}))
				if len(r.GetAccounts()) > int(size) && size > 0 {
					t.Fatalf("%d on a page of %d", len(r.GetAccounts()), size)
				}
				for _, a := range r.GetAccounts() {
					out = append(out, a.GetName()[len("accounts/"):])
				}
				if token = r.GetNextPageToken(); token == "" {
					return out
				}
			}
		}
		for _, c := range []struct {
			filter, order string
			want          []string
		}{
			{"", "", []string{"a", "a-b", "a-c", "ab", "b"}},
			{"", "name desc", []string{"b", "ab", "a-c", "a-b", "a"}},
			{"", "display_name", []string{"ab", "b", "a-c", "a-b", "a"}},
			{"", "labels.tier, name", nil},
			{"", "labels.tier desc", []string{"b", "a-b", "ab", "a-c", "a"}},
			{"labels.tier = gold", "", []string{"a", "a-c", "ab"}},
			{`labels.tier = gold AND NOT display_name = "*9"`, "", []string{"a-c", "ab"}},
			{"labels.none:*", "", nil},
			{"email:* OR email = \"\"", "", []string{"a", "a-b", "a-c", "ab", "b"}},
			{"state = ACCOUNT_ACTIVE AND name = accounts/a*", "", []string{"a", "a-b", "a-c", "ab"}},
			{`create_time < "2027-01-01T00:00:00Z" AND create_time >= "2026-03-01T12:00:00Z"`, "create_time desc", []string{"b", "ab", "a-c", "a-b", "a"}},
		} {
			if c.order == "labels.tier, name" {
				_, err := e.ListAccounts(admin, &catalogv1.ListAccountsRequest{OrderBy: c.order})
				refused(t, err, codes.InvalidArgument, "order_by")
				continue
			}
			for _, size := range []int32{0, 1, 2, 5} {
				if got := accounts(c.filter, c.order, size); !slices.Equal(got, c.want) {
					t.Errorf("%q by %q in pages of %d: %v, want %v", c.filter, c.order, size, got, c.want)
				}
			}
		}

		apps := func(parent, filter, order string, size int32) []string {
			t.Helper()
			var out []string
			for token := ""; ; {
				r := must[*catalogv1.ListAppsResponse](t)(e.ListApps(admin, &catalogv1.ListAppsRequest{Parent: parent, PageSize: size, PageToken: token, Filter: filter, OrderBy: order}))
				for _, a := range r.GetApps() {
					out = append(out, a.GetName()[len("accounts/"):])
				}
				if token = r.GetNextPageToken(); token == "" {
					return out
				}
			}
		}
		for _, size := range []int32{0, 1, 3} {
			if got := apps("accounts/a", "", "", size); !slices.Equal(got, []string{"a/apps/y", "a/apps/z"}) {
				t.Errorf("below one: %v", got)
			}
			if got := apps("accounts/-", "disabled = true", "", size); !slices.Equal(got, []string{"a/apps/z", "a-b/apps/z", "a-c/apps/z", "ab/apps/z", "b/apps/z"}) {
				t.Errorf("below all: %v", got)
			}
		}

		// In the order of times, of which two are later than the rest.
		for _, name := range []string{"accounts/b/apps/z", "accounts/a/apps/y"} {
			e.clock.forward(time.Second)
			must[*catalogv1.App](t)(e.UpdateApp(admin, &catalogv1.UpdateAppRequest{App: &catalogv1.App{Name: name, DisplayName: "later"}}))
		}
		e.clock.forward(time.Second)
		must[*catalogv1.App](t)(e.CreateApp(admin, &catalogv1.CreateAppRequest{Parent: "accounts/a", AppId: "n", App: &catalogv1.App{DisplayName: "new"}}))
		for _, c := range []struct {
			parent, filter, order string
			want                  []string
		}{
			{"accounts/-", "disabled = true", "update_time", []string{"a-b/apps/z", "a-c/apps/z", "a/apps/z", "ab/apps/z", "b/apps/z"}},
			{"accounts/-", "disabled = false", "update_time desc", []string{"a/apps/n", "a/apps/y", "b/apps/y", "ab/apps/y", "a-c/apps/y", "a-b/apps/y"}},
			{"accounts/-", "disabled = false", "create_time", []string{"a-b/apps/y", "a-c/apps/y", "a/apps/y", "ab/apps/y", "b/apps/y", "a/apps/n"}},
			{"accounts/-", "", "create_time desc", []string{"a/apps/n", "b/apps/z", "b/apps/y", "ab/apps/z", "ab/apps/y", "a/apps/z", "a/apps/y", "a-c/apps/z", "a-c/apps/y", "a-b/apps/z", "a-b/apps/y"}},
			{"accounts/a", "", "update_time", []string{"a/apps/z", "a/apps/y", "a/apps/n"}},
			{"accounts/a", "", "create_time desc", []string{"a/apps/n", "a/apps/z", "a/apps/y"}},
		} {
			for _, size := range []int32{0, 1, 2, 3, 5} {
				if got := apps(c.parent, c.filter, c.order, size); !slices.Equal(got, c.want) {
					t.Errorf("%s %q by %q in pages of %d: %v, want %v", c.parent, c.filter, c.order, size, got, c.want)
				}
			}
		}

		for _, c := range []struct {
			r     *catalogv1.ListAppsRequest
			field string
		}{
			{&catalogv1.ListAppsRequest{}, "parent"},
			{&catalogv1.ListAppsRequest{Parent: "products/x"}, "parent"},
			{&catalogv1.ListAppsRequest{Parent: "accounts/A"}, "parent"},
			{&catalogv1.ListAppsRequest{Parent: "accounts/a", PageSize: -1}, "page_size"},
			{&catalogv1.ListAppsRequest{Parent: "accounts/a", PageToken: "x"}, "page_token"},
			{&catalogv1.ListAppsRequest{Parent: "accounts/a", Filter: "nothing = 1"}, "filter"},
			{&catalogv1.ListAppsRequest{Parent: "accounts/a", Filter: "disabled = perhaps"}, "filter"},
			{&catalogv1.ListAppsRequest{Parent: "accounts/a", Filter: "name = a*b"}, "filter"},
			{&catalogv1.ListAppsRequest{Parent: "accounts/a", Filter: "("}, "filter"},
			{&catalogv1.ListAppsRequest{Parent: "accounts/a", OrderBy: "nothing"}, "order_by"},
		} {
			if _, err := e.ListApps(admin, c.r); !slices.Equal(fields(err), []string{c.field}) {
				t.Errorf("%v: %v", c.r, err)
			}
		}
		// A token belongs to its query.
		r := must[*catalogv1.ListAppsResponse](t)(e.ListApps(admin, &catalogv1.ListAppsRequest{Parent: "accounts/a", PageSize: 1}))
		_, err := e.ListApps(admin, &catalogv1.ListAppsRequest{Parent: "accounts/b", PageSize: 1, PageToken: r.GetNextPageToken()})
		refused(t, err, codes.InvalidArgument, "page_token: is not from an answer to the same query")
	})
}

func TestRealAudit(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		e := newEnv(t, db)
		ok := must[*catalogv1.Account](t)
		ok(e.CreateAccount(admin, &catalogv1.CreateAccountRequest{AccountId: "acme", Account: &catalogv1.Account{DisplayName: "Acme"}}))
		e.clock.forward(1e9)
		between := e.clock.Now()
		ok(e.UpdateAccount(finance, &catalogv1.UpdateAccountRequest{Account: &catalogv1.Account{Name: "accounts/acme", TaxId: "DE1"}}))
		ok(e.CreateAccount(admin, &catalogv1.CreateAccountRequest{AccountId: "acme-2", Account: &catalogv1.Account{DisplayName: "Acme 2"}}))
		must[*catalogv1.App](t)(e.CreateApp(acmeUser, &catalogv1.CreateAppRequest{Parent: "accounts/acme", AppId: "x", App: &catalogv1.App{DisplayName: "X"}}))
		if _, err := e.DeleteApp(acmeUser, &catalogv1.DeleteAppRequest{Name: "accounts/acme/apps/x"}); err != nil {
			t.Fatal(err)
		}
		_, err := e.DeleteApp(acmeUser, &catalogv1.DeleteAppRequest{Name: "accounts/acme/apps/x"}) // what is refused is no change
		refused(t, err, codes.NotFound, "")

		list := func(r *catalogv1.ListAuditEntriesRequest) []string {
			t.Helper()
			var out []string
			for r.PageSize = 2; ; {
				answer := must[*catalogv1.ListAuditEntriesResponse](t)(e.ListAuditEntries(admin, r))
				for _, entry := range answer.GetEntries() {
					kind := "U"
					switch {
					case entry.GetBefore() == nil:
						kind = "C"
					case entry.GetAfter() == nil:
						kind = "D"
					}
					out = append(out, kind+" "+entry.GetName()+" "+entry.GetRole())
				}
				if r.PageToken = answer.GetNextPageToken(); r.PageToken == "" {
					return out
				}
			}
		}
		const (
			made, changed = "C accounts/acme admin", "U accounts/acme finance"
			other         = "C accounts/acme-2 admin"
			app, gone     = "C accounts/acme/apps/x consumer", "D accounts/acme/apps/x consumer"
		)
		for _, c := range []struct {
			r    *catalogv1.ListAuditEntriesRequest
			want []string
		}{
			{&catalogv1.ListAuditEntriesRequest{}, []string{gone, app, other, changed, made}},
			{&catalogv1.ListAuditEntriesRequest{Name: "accounts/acme"}, []string{gone, app, changed, made}},
			{&catalogv1.ListAuditEntriesRequest{Name: "accounts/acme/apps/x"}, []string{gone, app}},
			{&catalogv1.ListAuditEntriesRequest{Actor: "tokens/finance"}, []string{changed}},
			{&catalogv1.ListAuditEntriesRequest{StartTime: timestamppb.New(between)}, []string{gone, app, other, changed}},
			{&catalogv1.ListAuditEntriesRequest{EndTime: timestamppb.New(between)}, []string{made}},
		} {
			if got := list(c.r); !slices.Equal(got, c.want) {
				t.Errorf("%v: %q, want %q", c.r, got, c.want)
			}
		}
		answer := must[*catalogv1.ListAuditEntriesResponse](t)(e.ListAuditEntries(admin, &catalogv1.ListAuditEntriesRequest{Actor: "tokens/finance"}))
		entry := answer.GetEntries()[0]
		if entry.GetBefore().GetAccount().GetTaxId() != "" || entry.GetAfter().GetAccount().GetTaxId() != "DE1" || !entry.GetTime().AsTime().Equal(between) {
			t.Errorf("entry %v", entry)
		}
		_, err = e.ListAuditEntries(acmeUser, &catalogv1.ListAuditEntriesRequest{Name: "accounts/acme-2"})
		refused(t, err, codes.PermissionDenied, "own account")
	})
}
