package catalog_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

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

func TestApplyRefuses(t *testing.T) {
	e := newEnv(t, testenv.Ledger(t))
	e.offer()
	account := func(name string) *catalogv1.Resource {
		return res(&catalogv1.Account{Name: name, DisplayName: "X"})
	}
	stale := res(&catalogv1.Account{Name: "accounts/acme", DisplayName: "X", Etag: "1-0"})
	client := res(&catalogv1.Credential{Name: shop + "/credentials/a", Kind: &catalogv1.Credential_OauthClient{OauthClient: &catalogv1.OAuthClient{Issuer: "https://idp.example", ClientId: "c"}}})
	same := proto.Clone(client).(*catalogv1.Resource)
	same.GetCredential().Name = shop + "/credentials/b"
	long := make([]*catalogv1.Resource, 5001)
	for i := range long {
		long[i] = account(fmt.Sprint("accounts/a", i))
	}
	const sub = "accounts/globex/subscriptions/"
	for _, c := range []struct {
		name      string
		resources []*catalogv1.Resource
		code      codes.Code
		text      string
		fields    []string
	}{
		{"empty", []*catalogv1.Resource{{}}, codes.InvalidArgument, "is no resource of any kind", []string{"resources[0]"}},
		{"name", []*catalogv1.Resource{account("accounts/A")}, codes.InvalidArgument, "", []string{"resources[0].name"}},
		{"name of another kind", []*catalogv1.Resource{account("products/a")}, codes.InvalidArgument, "which are like accounts/{account}", []string{"resources[0].name"}},
		{"duplicate", []*catalogv1.Resource{account("accounts/a"), account("accounts/b"), account("accounts/a")}, codes.InvalidArgument, "accounts/a is in resources[0] already", []string{"resources[2].name"}},
		{"several at once", []*catalogv1.Resource{
			res(&catalogv1.Account{Name: "accounts/a", Email: "x"}), account("accounts/b"), res(&catalogv1.Meter{Name: "meters/a"}),
		}, codes.InvalidArgument, "", []string{"resources[0].display_name", "resources[0].email", "resources[2].unit", "resources[2].aggregation"}},
		{"another kind than referred to", []*catalogv1.Resource{res(&catalogv1.Product{Name: "products/a", DisplayName: "X", Operations: []string{"accounts/acme"}})}, codes.InvalidArgument, `"accounts/acme" is no name like apis/{api}/operations/{operation} or apis/{api}`, []string{"resources[0].operations[0]"}},
		{"itself", []*catalogv1.Resource{res(&catalogv1.Product{Name: "products/a", DisplayName: "X", Operations: []string{"products/a"}})}, codes.InvalidArgument, "", []string{"resources[0].operations[0]"}},
		{"stale", []*catalogv1.Resource{account("accounts/a"), stale}, codes.Aborted, "accounts/acme was changed by somebody else", []string{"resources[1]"}},
		{"taken", []*catalogv1.Resource{client, same}, codes.AlreadyExists, "is that of " + shop + "/credentials/a already", []string{"resources[1].oauth_client.client_id"}},
		{"too many", long, codes.InvalidArgument, "at most 5000", []string{"resources"}},
		{"overlap", []*catalogv1.Resource{
			res(&catalogv1.Subscription{Name: sub + "a", Plan: basic}), res(&catalogv1.Subscription{Name: sub + "b", Plan: "products/orders/plans/pro"}),
		}, codes.FailedPrecondition, "overlaps " + sub + "a", []string{"resources[1]"}},
		{"immutable", []*catalogv1.Resource{res(&catalogv1.Meter{Name: "meters/calls", Unit: "call", Aggregation: catalogv1.Aggregation_SUM, Field: "total_us"})}, codes.InvalidArgument, "", []string{"resources[0].aggregation", "resources[0].field", "resources[0].filter"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := e.Apply(admin, &catalogv1.ApplyRequest{Resources: append(slices.Clone(c.resources), account("accounts/zzz"))})
			refused(t, err, c.code, c.text)
			if got := fields(err); !slices.Equal(got, c.fields) {
				t.Errorf("violations in %q, want %q: %v", got, c.fields, err)
			}
			_, err = e.GetAccount(admin, &catalogv1.GetAccountRequest{Name: "accounts/zzz"})
			refused(t, err, codes.NotFound, "")
		})
	}
	_, err := e.Apply(admin, &catalogv1.ApplyRequest{Set: "Bad Set"})
	refused(t, err, codes.InvalidArgument, "set: ")
	// Pruning what is in use by something that stays.
	must[*catalogv1.ApplyResponse](t)(e.Apply(admin, &catalogv1.ApplyRequest{Set: "meters", Resources: []*catalogv1.Resource{offer()[8]}}))
	_, err = e.Apply(admin, &catalogv1.ApplyRequest{Set: "meters", Prune: true})
	refused(t, err, codes.FailedPrecondition, "meters/calls is in use by products/orders/plans/basic/versions/1")
}

// A resource that takes another one's place can be applied with it in one go.
func TestPruneMakesRoom(t *testing.T) {
	e := newEnv(t, testenv.Ledger(t))
	e.offer()
	apply := func(resources ...*catalogv1.Resource) map[string]string {
		t.Helper()
		return actions(must[*catalogv1.ApplyResponse](t)(e.Apply(admin, &catalogv1.ApplyRequest{Set: "x", Prune: true, Resources: resources})))
	}
	set := func(id string) []*catalogv1.Resource {
		return []*catalogv1.Resource{
			res(&catalogv1.Credential{Name: shop + "/credentials/" + id, Kind: &catalogv1.Credential_ClientCertificate{ClientCertificate: &catalogv1.ClientCertificate{UriSan: "spiffe://a/b"}}}),
			res(&catalogv1.Subscription{Name: "accounts/acme/subscriptions/" + id, Plan: basic, StartTime: at(began.AddDate(1, 0, 0))}),
			res(&catalogv1.Operation{Name: "apis/orders/operations/" + id, Method: "PUT", PathTemplate: "/orders/{id}"}),
			res(&catalogv1.LegalEntity{Name: "legalEntities/" + id, LegalName: "X", InvoicePrefix: "X-"}),
		}
	}
	apply(set("old")...)
	got := apply(set("new")...)
	if len(got) != 8 || got["accounts/acme/subscriptions/old"] != "DELETED" || got["accounts/acme/subscriptions/new"] != "CREATED" {
		t.Errorf("changes: %v", got)
	}
}

// TestApplyInAnyOrder: the order of the resources in a request does not matter.
func TestApplyInAnyOrder(t *testing.T) {
	all := append(offer(),
		version(basic+"/versions/2", "2026-02-01T00:00:00Z", catalogv1.PlanVersionState_PUBLISHED),
		version(basic+"/versions/10", "2026-02-02T00:00:00Z", catalogv1.PlanVersionState_PUBLISHED),
		res(&catalogv1.Credential{Name: shop + "/credentials/key", Kind: apiKey().Kind}),
		res(&catalogv1.Subscription{Name: "accounts/acme/subscriptions/s", App: shop, Plan: basic}),
	)
	e := newEnv(t, testenv.Ledger(t))
	rapid.Check(t, func(rt *rapid.T) {
		shuffled := rapid.Permutation(all).Draw(rt, "order")
		got, err := e.Apply(admin, &catalogv1.ApplyRequest{Resources: shuffled, ValidateOnly: true})
		if err != nil {
			rt.Fatal(err)
		}
		for i, c := range got.GetChanges() {
			if c.GetAction() != catalogv1.ChangeAction_CREATED || !strings.Contains(shuffled[i].String(), c.GetName()) {
				rt.Fatalf("change %d is %v", i, c)
			}
		}
	})
}

const document = `
openapi: 3.0.3
info: {title: Orders, version: "1"}
servers: [{url: "https://api.example.com/v1"}]
paths:
  /orders:
    get: {operationId: listOrders, summary: List orders, responses: {"200": {description: ok}}}
  /orders/{order}:
    get: {operationId: getOrder, responses: {"200": {description: ok}}}
    delete: {operationId: %s, responses: {"200": {description: ok}}}
`

func TestImportOpenAPI(t *testing.T) {
	e := newEnv(t, testenv.Ledger(t))
	ok := must[*catalogv1.ApplyResponse](t)
	load := func(id string, prune, dry bool) (*catalogv1.ApplyResponse, error) {
		return e.ImportOpenApi(manager, &catalogv1.ImportOpenApiRequest{Name: "apis/shop", Document: fmt.Appendf(nil, document, id), Prune: prune, ValidateOnly: dry})
	}
	ok(load("cancelOrder", false, true))
	first := actions(ok(load("cancelOrder", false, false)))
	if len(first) != 4 || first["apis/shop/operations/list-orders"] != "CREATED" {
		t.Fatalf("imported %v", first)
	}
	api := must[*catalogv1.Api](t)(e.GetApi(manager, &catalogv1.GetApiRequest{Name: "apis/shop"}))
	if api.GetDisplayName() != "Orders" || !slices.Equal(api.GetHosts(), []string{"api.example.com"}) || !slices.Equal(api.GetBasePaths(), []string{"/v1"}) {
		t.Errorf("API %v", api)
	}
	op := must[*catalogv1.Operation](t)(e.UpdateOperation(manager, &catalogv1.UpdateOperationRequest{Operation: &catalogv1.Operation{Name: "apis/shop/operations/get-order", Labels: map[string]string{"a": "b"}}}))
	if op.GetMethod() != "GET" || op.GetPathTemplate() != "/orders/{order}" {
		t.Errorf("operation %v", op)
	}
	for name, action := range actions(ok(load("cancelOrder", true, false))) {
		if action != "UNCHANGED" {
			t.Errorf("again: %s is %s", name, action)
		}
	}
	// Another id for the same method and path: only with what was there gone.
	_, err := load("removeOrder", false, false)
	refused(t, err, codes.AlreadyExists, "the method and path is that of apis/shop/operations/cancel-order already")
	if got := actions(ok(load("removeOrder", true, false))); got["apis/shop/operations/cancel-order"] != "DELETED" || got["apis/shop/operations/remove-order"] != "CREATED" {
		t.Errorf("renamed: %v", got)
	}
	must[*catalogv1.Product](t)(e.CreateProduct(manager, &catalogv1.CreateProductRequest{ProductId: "p", Product: &catalogv1.Product{DisplayName: "P", Operations: []string{"apis/shop/operations/remove-order"}}}))
	_, err = load("cancelOrder", true, false)
	refused(t, err, codes.AlreadyExists, "apis/shop/operations/remove-order")
	for _, bad := range []string{"", "{", "openapi: 9.0.0", "openapi: 3.0.0\npaths: {'/a': {get: {operationId: x}}, '/{a}{b}': {get: {operationId: y}}}"} {
		_, err := e.ImportOpenApi(manager, &catalogv1.ImportOpenApiRequest{Name: "apis/shop", Document: []byte(bad)})
		if !slices.Equal(fields(err), []string{"document"}) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// What can be matched can be imported.
	verbs := "openapi: 3.0.0\npaths: {'/jobs/{id}:cancel': {post: {operationId: cancel}}, '/files/{name}.json': {get: {operationId: file}}, '/rest/{path+}': {get: {operationId: rest}}}"
	if got := actions(ok(e.ImportOpenApi(manager, &catalogv1.ImportOpenApiRequest{Name: "apis/jobs", Document: []byte(verbs)}))); len(got) != 4 {
		t.Errorf("imported %v", got)
	}
	_, err = e.ImportOpenApi(manager, &catalogv1.ImportOpenApiRequest{Name: "accounts/x", Document: []byte(document)})
	refused(t, err, codes.InvalidArgument, "name: ")
}

// A file says in which state a subscription is, also one that is new here.
func TestApplySubscriptionStates(t *testing.T) {
	e := newEnv(t, testenv.Ledger(t))
	e.offer()
	name, start := "accounts/acme/subscriptions/s", began.AddDate(0, 0, -2)
	apply := func(state catalogv1.SubscriptionState, end *timestamppb.Timestamp) (*catalogv1.Subscription, error) {
		r, err := e.Apply(manager, &catalogv1.ApplyRequest{Resources: []*catalogv1.Resource{res(&catalogv1.Subscription{
			Name: name, Plan: basic, StartTime: at(start), EndTime: end, State: state,
		})}})
		if err != nil {
			return nil, err
		}
		return r.GetChanges()[0].GetAfter().GetSubscription(), nil
	}
	for _, state := range []catalogv1.SubscriptionState{
		catalogv1.SubscriptionState_REQUESTED, catalogv1.SubscriptionState_ACTIVE, catalogv1.SubscriptionState_SUSPENDED, catalogv1.SubscriptionState_ACTIVE,
	} {
		if got := must[*catalogv1.Subscription](t)(apply(state, nil)); got.GetState() != state || !got.GetStartTime().AsTime().Equal(start) {
			t.Errorf("%s: %v", state, got)
		}
	}
	must[*catalogv1.Subscription](t)(e.SuspendSubscription(manager, &catalogv1.SuspendSubscriptionRequest{Name: name, Reason: "unpaid"}))
	if got := must[*catalogv1.Subscription](t)(apply(catalogv1.SubscriptionState_ACTIVE, nil)); got.GetReason() != "" {
		t.Errorf("resumed: %v", got)
	}
	for _, state := range []catalogv1.SubscriptionState{catalogv1.SubscriptionState_REQUESTED, catalogv1.SubscriptionState_REJECTED, catalogv1.SubscriptionState_ENDED} {
		_, err := apply(state, nil)
		refused(t, err, codes.InvalidArgument, "resources[0].state: ")
	}
	name = "accounts/acme/subscriptions/new"
	_, err := apply(catalogv1.SubscriptionState_ENDED, nil)
	refused(t, err, codes.InvalidArgument, "resources[0].end_time: must be in the past")
	name, end := "accounts/globex/subscriptions/old", at(began.AddDate(0, 0, -1))
	if got := must[*catalogv1.Subscription](t)(apply(catalogv1.SubscriptionState_ENDED, end)); got.GetState() != catalogv1.SubscriptionState_ENDED {
		t.Errorf("ended: %v", got)
	}
	name, start = "accounts/globex/subscriptions/suspended", end.AsTime()
	if got := must[*catalogv1.Subscription](t)(apply(catalogv1.SubscriptionState_SUSPENDED, nil)); got.GetState() != catalogv1.SubscriptionState_SUSPENDED {
		t.Errorf("suspended: %v", got)
	}
}
