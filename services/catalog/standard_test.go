package catalog_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

// standard are the five standard methods of a kind, on what they have in common.
type standard struct {
	kind, parent, id string
	new              proto.Message
	create           func(parent, id string, m proto.Message) (resource, error)
	get              func(name string) (resource, error)
	update           func(m proto.Message, mask ...string) (resource, error)
	list             func(parent string) (int, error)
	remove           func(name string) error
}

type resource interface {
	proto.Message
	GetName() string
	GetEtag() string
	GetUid() string
	GetLabels() map[string]string
}

func kinds(e *env) []standard {
	mask := func(paths []string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }
	return []standard{
		{
			"legal entity", "", "de", &catalogv1.LegalEntity{LegalName: "Orders GmbH", Iban: "DE89 3704 0044 0532 0130 00", InvoicePrefix: "OR-"},
			func(_, id string, m proto.Message) (resource, error) {
				return e.CreateLegalEntity(admin, &catalogv1.CreateLegalEntityRequest{LegalEntityId: id, LegalEntity: m.(*catalogv1.LegalEntity)})
			},
			func(n string) (resource, error) {
				return e.GetLegalEntity(admin, &catalogv1.GetLegalEntityRequest{Name: n})
			},
			func(m proto.Message, p ...string) (resource, error) {
				return e.UpdateLegalEntity(admin, &catalogv1.UpdateLegalEntityRequest{LegalEntity: m.(*catalogv1.LegalEntity), UpdateMask: mask(p)})
			},
			func(string) (int, error) {
				r, err := e.ListLegalEntities(admin, &catalogv1.ListLegalEntitiesRequest{})
				return len(r.GetLegalEntities()), err
			},
			func(n string) error {
				_, err := e.DeleteLegalEntity(admin, &catalogv1.DeleteLegalEntityRequest{Name: n})
				return err
			},
		},
		{
			"environment", "", "production", &catalogv1.Environment{DisplayName: "Production"},
			func(_, id string, m proto.Message) (resource, error) {
				return e.CreateEnvironment(admin, &catalogv1.CreateEnvironmentRequest{EnvironmentId: id, Environment: m.(*catalogv1.Environment)})
			},
			func(n string) (resource, error) {
				return e.GetEnvironment(admin, &catalogv1.GetEnvironmentRequest{Name: n})
			},
			func(m proto.Message, p ...string) (resource, error) {
				return e.UpdateEnvironment(admin, &catalogv1.UpdateEnvironmentRequest{Environment: m.(*catalogv1.Environment), UpdateMask: mask(p)})
			},
			func(string) (int, error) {
				r, err := e.ListEnvironments(admin, &catalogv1.ListEnvironmentsRequest{})
				return len(r.GetEnvironments()), err
			},
			func(n string) error {
				_, err := e.DeleteEnvironment(admin, &catalogv1.DeleteEnvironmentRequest{Name: n})
				return err
			},
		},
		{
			"meter", "", "tokens", &catalogv1.Meter{Unit: "token", Aggregation: catalogv1.Aggregation_SUM, Field: "measures.tokens"},
			func(_, id string, m proto.Message) (resource, error) {
				return e.CreateMeter(admin, &catalogv1.CreateMeterRequest{MeterId: id, Meter: m.(*catalogv1.Meter)})
			},
			func(n string) (resource, error) { return e.GetMeter(admin, &catalogv1.GetMeterRequest{Name: n}) },
			func(m proto.Message, p ...string) (resource, error) {
				return e.UpdateMeter(admin, &catalogv1.UpdateMeterRequest{Meter: m.(*catalogv1.Meter), UpdateMask: mask(p)})
			},
			func(string) (int, error) {
				r, err := e.ListMeters(admin, &catalogv1.ListMetersRequest{})
				return len(r.GetMeters()), err
			},
			func(n string) error {
				_, err := e.DeleteMeter(admin, &catalogv1.DeleteMeterRequest{Name: n})
				return err
			},
		},
		{
			"API", "", "search", &catalogv1.Api{Hosts: []string{"*.example.com"}},
			func(_, id string, m proto.Message) (resource, error) {
				return e.CreateApi(admin, &catalogv1.CreateApiRequest{ApiId: id, Api: m.(*catalogv1.Api)})
			},
			func(n string) (resource, error) { return e.GetApi(admin, &catalogv1.GetApiRequest{Name: n}) },
			func(m proto.Message, p ...string) (resource, error) {
				return e.UpdateApi(admin, &catalogv1.UpdateApiRequest{Api: m.(*catalogv1.Api), UpdateMask: mask(p)})
			},
			func(string) (int, error) {
				r, err := e.ListApis(admin, &catalogv1.ListApisRequest{})
				return len(r.GetApis()), err
			},
			func(n string) error {
				_, err := e.DeleteApi(admin, &catalogv1.DeleteApiRequest{Name: n})
				return err
			},
		},
		{
			"operation", "apis/orders", "cancel", &catalogv1.Operation{Method: "DELETE", PathTemplate: "/orders/{order}"},
			func(parent, id string, m proto.Message) (resource, error) {
				return e.CreateOperation(admin, &catalogv1.CreateOperationRequest{Parent: parent, OperationId: id, Operation: m.(*catalogv1.Operation)})
			},
			func(n string) (resource, error) {
				return e.GetOperation(admin, &catalogv1.GetOperationRequest{Name: n})
			},
			func(m proto.Message, p ...string) (resource, error) {
				return e.UpdateOperation(admin, &catalogv1.UpdateOperationRequest{Operation: m.(*catalogv1.Operation), UpdateMask: mask(p)})
			},
			func(parent string) (int, error) {
				r, err := e.ListOperations(admin, &catalogv1.ListOperationsRequest{Parent: parent})
				return len(r.GetOperations()), err
			},
			func(n string) error {
				_, err := e.DeleteOperation(admin, &catalogv1.DeleteOperationRequest{Name: n})
				return err
			},
		},
		{
			"account", "", "initech", &catalogv1.Account{DisplayName: "Initech", TimeZone: "America/New_York", Currency: "USD"},
			func(_, id string, m proto.Message) (resource, error) {
				return e.CreateAccount(admin, &catalogv1.CreateAccountRequest{AccountId: id, Account: m.(*catalogv1.Account)})
			},
			func(n string) (resource, error) {
				return e.GetAccount(admin, &catalogv1.GetAccountRequest{Name: n})
			},
			func(m proto.Message, p ...string) (resource, error) {
				return e.UpdateAccount(admin, &catalogv1.UpdateAccountRequest{Account: m.(*catalogv1.Account), UpdateMask: mask(p)})
			},
			func(string) (int, error) {
				r, err := e.ListAccounts(admin, &catalogv1.ListAccountsRequest{})
				return len(r.GetAccounts()), err
			},
			func(n string) error {
				_, err := e.DeleteAccount(admin, &catalogv1.DeleteAccountRequest{Name: n})
				return err
			},
		},
		{
			"app", "accounts/acme", "mobile", &catalogv1.App{DisplayName: "Mobile"},
			func(parent, id string, m proto.Message) (resource, error) {
				return e.CreateApp(admin, &catalogv1.CreateAppRequest{Parent: parent, AppId: id, App: m.(*catalogv1.App)})
			},
			func(n string) (resource, error) { return e.GetApp(admin, &catalogv1.GetAppRequest{Name: n}) },
			func(m proto.Message, p ...string) (resource, error) {
				return e.UpdateApp(admin, &catalogv1.UpdateAppRequest{App: m.(*catalogv1.App), UpdateMask: mask(p)})
			},
			func(parent string) (int, error) {
				r, err := e.ListApps(admin, &catalogv1.ListAppsRequest{Parent: parent})
				return len(r.GetApps()), err
			},
			func(n string) error {
				_, err := e.DeleteApp(admin, &catalogv1.DeleteAppRequest{Name: n})
				return err
			},
		},
		{
			"credential", "accounts/acme/apps/shop", "spiffe",
			&catalogv1.Credential{Kind: &catalogv1.Credential_ClientCertificate{ClientCertificate: &catalogv1.ClientCertificate{UriSan: "spiffe://acme.example/shop"}}},
			func(parent, id string, m proto.Message) (resource, error) {
				return e.CreateCredential(admin, &catalogv1.CreateCredentialRequest{Parent: parent, CredentialId: id, Credential: m.(*catalogv1.Credential)})
			},
			func(n string) (resource, error) {
				return e.GetCredential(admin, &catalogv1.GetCredentialRequest{Name: n})
			},
			func(m proto.Message, p ...string) (resource, error) {
				return e.UpdateCredential(admin, &catalogv1.UpdateCredentialRequest{Credential: m.(*catalogv1.Credential), UpdateMask: mask(p)})
			},
			func(parent string) (int, error) {
				r, err := e.ListCredentials(admin, &catalogv1.ListCredentialsRequest{Parent: parent})
				return len(r.GetCredentials()), err
			},
			func(n string) error {
				_, err := e.DeleteCredential(admin, &catalogv1.DeleteCredentialRequest{Name: n})
				return err
			},
		},
		{
			"product", "", "search", &catalogv1.Product{DisplayName: "Search", Operations: []string{"apis/orders"}},
			func(_, id string, m proto.Message) (resource, error) {
				return e.CreateProduct(admin, &catalogv1.CreateProductRequest{ProductId: id, Product: m.(*catalogv1.Product)})
			},
			func(n string) (resource, error) {
				return e.GetProduct(admin, &catalogv1.GetProductRequest{Name: n})
			},
			func(m proto.Message, p ...string) (resource, error) {
				return e.UpdateProduct(admin, &catalogv1.UpdateProductRequest{Product: m.(*catalogv1.Product), UpdateMask: mask(p)})
			},
			func(string) (int, error) {
				r, err := e.ListProducts(admin, &catalogv1.ListProductsRequest{})
				return len(r.GetProducts()), err
			},
			func(n string) error {
				_, err := e.DeleteProduct(admin, &catalogv1.DeleteProductRequest{Name: n})
				return err
			},
		},
		{
			"plan", "products/orders", "free", &catalogv1.Plan{DisplayName: "Free"},
			func(parent, id string, m proto.Message) (resource, error) {
				return e.CreatePlan(admin, &catalogv1.CreatePlanRequest{Parent: parent, PlanId: id, Plan: m.(*catalogv1.Plan)})
			},
			func(n string) (resource, error) { return e.GetPlan(admin, &catalogv1.GetPlanRequest{Name: n}) },
			func(m proto.Message, p ...string) (resource, error) {
				return e.UpdatePlan(admin, &catalogv1.UpdatePlanRequest{Plan: m.(*catalogv1.Plan), UpdateMask: mask(p)})
			},
			func(parent string) (int, error) {
				r, err := e.ListPlans(admin, &catalogv1.ListPlansRequest{Parent: parent})
				return len(r.GetPlans()), err
			},
			func(n string) error {
				_, err := e.DeletePlan(admin, &catalogv1.DeletePlanRequest{Name: n})
				return err
			},
		},
		{
			"plan version", "products/orders/plans/basic", "2", &catalogv1.PlanVersion{Currency: "JPY", RecurringFee: "1000"},
			func(parent, id string, m proto.Message) (resource, error) {
				return e.CreatePlanVersion(admin, &catalogv1.CreatePlanVersionRequest{Parent: parent, PlanVersionId: id, PlanVersion: m.(*catalogv1.PlanVersion)})
			},
			func(n string) (resource, error) {
				return e.GetPlanVersion(admin, &catalogv1.GetPlanVersionRequest{Name: n})
			},
			func(m proto.Message, p ...string) (resource, error) {
				return e.UpdatePlanVersion(admin, &catalogv1.UpdatePlanVersionRequest{PlanVersion: m.(*catalogv1.PlanVersion), UpdateMask: mask(p)})
			},
			func(parent string) (int, error) {
				r, err := e.ListPlanVersions(admin, &catalogv1.ListPlanVersionsRequest{Parent: parent})
				return len(r.GetVersions()), err
			},
			func(n string) error {
				_, err := e.DeletePlanVersion(admin, &catalogv1.DeletePlanVersionRequest{Name: n})
				return err
			},
		},
		{
			"subscription", "accounts/acme", "later", &catalogv1.Subscription{Plan: "products/orders/plans/pro", StartTime: at(began.AddDate(1, 0, 0))},
			func(parent, id string, m proto.Message) (resource, error) {
				return e.CreateSubscription(admin, &catalogv1.CreateSubscriptionRequest{Parent: parent, SubscriptionId: id, Subscription: m.(*catalogv1.Subscription)})
			},
			func(n string) (resource, error) {
				return e.GetSubscription(admin, &catalogv1.GetSubscriptionRequest{Name: n})
			},
			func(m proto.Message, p ...string) (resource, error) {
				return e.UpdateSubscription(admin, &catalogv1.UpdateSubscriptionRequest{Subscription: m.(*catalogv1.Subscription), UpdateMask: mask(p)})
			},
			func(parent string) (int, error) {
				r, err := e.ListSubscriptions(admin, &catalogv1.ListSubscriptionsRequest{Parent: parent})
				return len(r.GetSubscriptions()), err
			},
			func(n string) error {
				_, err := e.DeleteSubscription(admin, &catalogv1.DeleteSubscriptionRequest{Name: n})
				return err
			},
		},
		{
			"token", "", "ci", &catalogv1.Token{Role: "product_manager", Scopes: []string{"catalog.write"}},
			func(_, id string, m proto.Message) (resource, error) {
				return e.CreateToken(admin, &catalogv1.CreateTokenRequest{TokenId: id, Token: m.(*catalogv1.Token)})
			},
			func(n string) (resource, error) { return e.GetToken(admin, &catalogv1.GetTokenRequest{Name: n}) },
			func(m proto.Message, p ...string) (resource, error) {
				return e.UpdateToken(admin, &catalogv1.UpdateTokenRequest{Token: m.(*catalogv1.Token), UpdateMask: mask(p)})
			},
			func(string) (int, error) {
				r, err := e.ListTokens(admin, &catalogv1.ListTokensRequest{})
				return len(r.GetTokens()), err
			},
			func(n string) error {
				_, err := e.DeleteToken(admin, &catalogv1.DeleteTokenRequest{Name: n})
				return err
			},
		},
	}
}

func setLabels(m proto.Message, labels map[string]string) proto.Message {
	r := m.ProtoReflect()
	f := r.Descriptor().Fields().ByName("labels")
	r.Clear(f)
	for k, v := range labels {
		r.Mutable(f).Map().Set(protoString(k).MapKey(), protoString(v))
	}
	return m
}

// TestRealStandardMethods: every kind can be made, read, listed, changed and
// deleted, and minds names, etags and duplicates.
func TestRealStandardMethods(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		e := newEnv(t, db)
		e.offer()
		for _, k := range kinds(e) {
			t.Run(strings.ReplaceAll(k.kind, " ", "_"), func(t *testing.T) { testStandard(t, k) })
		}
	})
}

func testStandard(t *testing.T, k standard) {
	ok := must[resource](t)
	before, err := k.list(k.parent)
	if err != nil {
		t.Fatal(err)
	}
	made := ok(k.create(k.parent, k.id, k.new))
	if !strings.HasSuffix(made.GetName(), "/"+k.id) || !strings.HasPrefix(made.GetName(), k.parent) || made.GetUid() == "" || made.GetEtag() == "" {
		t.Errorf("made %v", made)
	}
	read := ok(k.get(made.GetName()))
	if k.kind != "token" && !proto.Equal(made, read) {
		t.Errorf("made %v, read %v", made, read)
	}
	if n, err := k.list(k.parent); err != nil || n != before+1 {
		t.Errorf("lists %d, %v", n, err)
	}
	_, err = k.create(k.parent, k.id, k.new)
	refused(t, err, codes.AlreadyExists, "exists already")

	labelled := setLabels(proto.Clone(read), map[string]string{"tier": "gold"})
	changed := ok(k.update(labelled, "labels"))
	if changed.GetLabels()["tier"] != "gold" || changed.GetEtag() == read.GetEtag() || changed.GetUid() != read.GetUid() {
		t.Errorf("changed to %v", changed)
	}
	// The other writer still has the etag from before.
	_, err = k.update(setLabels(proto.Clone(read), map[string]string{"tier": "silver"}), "labels")
	refused(t, err, codes.Aborted, "changed by somebody else")
	if same := ok(k.update(changed)); same.GetEtag() != changed.GetEtag() {
		t.Error("a change of nothing makes another version")
	}
	_, err = k.update(changed, "no_such_field")
	refused(t, err, codes.InvalidArgument, "no_such_field")

	if err := k.remove(made.GetName()); err != nil {
		t.Fatal(err)
	}
	_, err = k.get(made.GetName())
	refused(t, err, codes.NotFound, made.GetName())
	refused(t, k.remove(made.GetName()), codes.NotFound, made.GetName())
	again := ok(k.create(k.parent, k.id, k.new))
	if again.GetUid() == made.GetUid() || again.GetEtag() == made.GetEtag() {
		t.Error("another resource of the same name has the uid or etag of the first")
	}
	if err := k.remove(again.GetName()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "x", "tokens/A", "accounts/acme/apps", "accounts/-", made.GetName() + "/x", made.GetName() + "\x00"} {
		if _, err := k.get(name); err == nil || len(fields(err)) == 0 {
			t.Errorf("get %q: %v", name, err)
		}
	}
	if k.parent != "" {
		missing := strings.NewReplacer("acme", "none", "orders", "none").Replace(k.parent)
		_, err = k.create(missing, k.id, k.new)
		if err == nil {
			t.Error("made below what does not exist")
		}
	}
	if _, err := k.create(k.parent, "Bad_ID", k.new); err == nil || !strings.Contains(fmt.Sprint(fields(err)), "_id") {
		t.Errorf("bad id: %v", err)
	}
}

func TestRealTwoWriters(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		e := newEnv(t, db)
		e.offer()
		read := must[*catalogv1.Account](t)(e.GetAccount(admin, &catalogv1.GetAccountRequest{Name: "accounts/acme"}))
		const writers = 8
		errs := make([]error, writers)
		var group sync.WaitGroup
		for i := range writers {
			group.Go(func() {
				m := proto.Clone(read).(*catalogv1.Account)
				m.TaxId = fmt.Sprint("DE", i)
				_, errs[i] = e.UpdateAccount(admin, &catalogv1.UpdateAccountRequest{Account: m, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"tax_id"}}})
			})
		}
		group.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else {
				refused(t, err, codes.Aborted, "etag")
			}
		}
		if won != 1 {
			t.Errorf("%d writers won", won)
		}
		// Without an etag nobody loses: the last one overwrites.
		for i := range writers {
			group.Go(func() {
				_, errs[i] = e.UpdateAccount(admin, &catalogv1.UpdateAccountRequest{
					Account: &catalogv1.Account{Name: "accounts/acme", Labels: map[string]string{fmt.Sprint("w", i): "x"}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{fmt.Sprint("labels.w", i)}},
				})
			})
		}
		group.Wait()
		for _, err := range errs {
			if err != nil {
				t.Error(err)
			}
		}
		if got := must[*catalogv1.Account](t)(e.GetAccount(admin, &catalogv1.GetAccountRequest{Name: "accounts/acme"})); len(got.GetLabels()) != writers {
			t.Errorf("labels of %d writers are there: %v", len(got.GetLabels()), got.GetLabels())
		}
	})
}

func TestUpdateMasks(t *testing.T) {
	e := newEnv(t, testenv.Ledger(t))
	ok := must[*catalogv1.Account](t)
	ok(e.CreateAccount(admin, &catalogv1.CreateAccountRequest{AccountId: "acme", Account: &catalogv1.Account{
		DisplayName: "Acme", Email: "a@b.example", Labels: map[string]string{"a": "1", "b": "2"}, State: catalogv1.AccountState_ACCOUNT_SUSPENDED,
		BillingAddress: &catalogv1.PostalAddress{City: "Berlin", Country: "DE"},
	}}))
	update := func(m *catalogv1.Account, paths ...string) *catalogv1.Account {
		t.Helper()
		m.Name = "accounts/acme"
		return ok(e.UpdateAccount(admin, &catalogv1.UpdateAccountRequest{Account: m, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}}))
	}
	if got := update(&catalogv1.Account{Email: "c@d.example"}); got.GetEmail() != "c@d.example" || got.GetDisplayName() != "Acme" {
		t.Errorf("what is set: %v", got)
	}
	if got := update(&catalogv1.Account{}, "email", "labels.a"); got.GetEmail() != "" || len(got.GetLabels()) != 1 {
		t.Errorf("what is named is cleared: %v", got)
	}
	if got := update(&catalogv1.Account{BillingAddress: &catalogv1.PostalAddress{City: "Köln"}}, "billing_address.city"); got.GetBillingAddress().GetCity() != "Köln" || got.GetBillingAddress().GetCountry() != "DE" {
		t.Errorf("a part of a part: %v", got)
	}
	if got := update(&catalogv1.Account{Uid: "x", DisplayName: "New"}, "uid", "display_name"); got.GetUid() == "x" || got.GetDisplayName() != "New" {
		t.Errorf("what the server sets: %v", got)
	}
	got := update(&catalogv1.Account{DisplayName: "All"}, "*")
	if got.GetBillingAddress() != nil || got.GetLabels() != nil || got.GetTimeZone() != "UTC" || got.GetState() != catalogv1.AccountState_ACCOUNT_SUSPENDED {
		t.Errorf("everything: %v", got)
	}
	for _, path := range []string{"labels.a.b.c.", "display_name.x", "nothing", "billing_address.nothing", ""} {
		_, err := e.UpdateAccount(admin, &catalogv1.UpdateAccountRequest{Account: &catalogv1.Account{Name: "accounts/acme"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{path}}})
		if path != "labels.a.b.c." && !slices.Equal(fields(err), []string{"update_mask"}) {
			t.Errorf("mask %q: %v", path, err)
		}
	}
	_, err := e.UpdateAccount(admin, &catalogv1.UpdateAccountRequest{Account: &catalogv1.Account{Name: "accounts/new", DisplayName: "New"}})
	refused(t, err, codes.NotFound, "accounts/new")
	if got := ok(e.UpdateAccount(admin, &catalogv1.UpdateAccountRequest{Account: &catalogv1.Account{Name: "accounts/new", DisplayName: "New"}, AllowMissing: true})); got.GetUid() == "" {
		t.Errorf("missing: %v", got)
	}
	// What is checked only is not done.
	ok(e.CreateAccount(admin, &catalogv1.CreateAccountRequest{AccountId: "dry", Account: &catalogv1.Account{DisplayName: "Dry"}, ValidateOnly: true}))
	if _, err := e.DeleteAccount(admin, &catalogv1.DeleteAccountRequest{Name: "accounts/new", ValidateOnly: true}); err != nil {
		t.Error(err)
	}
	_, err = e.GetAccount(admin, &catalogv1.GetAccountRequest{Name: "accounts/dry"})
	refused(t, err, codes.NotFound, "accounts/dry")
	ok(e.GetAccount(admin, &catalogv1.GetAccountRequest{Name: "accounts/new"}))
	if _, err = e.DeleteAccount(admin, &catalogv1.DeleteAccountRequest{Name: "accounts/new", Etag: "1-0"}); err == nil {
		t.Error("deleted in spite of the etag")
	}
}

func TestRealDeleteInUse(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		e := newEnv(t, db)
		e.offer()
		_, err := e.DeleteAccount(admin, &catalogv1.DeleteAccountRequest{Name: "accounts/acme"})
		refused(t, err, codes.FailedPrecondition, "accounts/acme is in use by accounts/acme/apps/shop")
		_, err = e.DeleteMeter(admin, &catalogv1.DeleteMeterRequest{Name: "meters/calls"})
		refused(t, err, codes.FailedPrecondition, "in use by products/orders/plans/basic/versions/1, products/orders/plans/pro/versions/1")
		_, err = e.DeleteOperation(admin, &catalogv1.DeleteOperationRequest{Name: "apis/orders/operations/get"})
		refused(t, err, codes.FailedPrecondition, "in use by products/orders")
		for i := range 5 {
			must[*catalogv1.App](t)(e.CreateApp(admin, &catalogv1.CreateAppRequest{Parent: "accounts/acme", AppId: fmt.Sprint("a", i), App: &catalogv1.App{DisplayName: "A"}}))
		}
		_, err = e.DeleteAccount(admin, &catalogv1.DeleteAccountRequest{Name: "accounts/acme"})
		refused(t, err, codes.FailedPrecondition, "apps/a0, accounts/acme/apps/a1, accounts/acme/apps/a2 and 3 more")
	})
}
