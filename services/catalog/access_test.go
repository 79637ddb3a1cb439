package catalog_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog"
	"github.com/tollway/tollway/services/platform/auth"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

// serve runs the service behind the real guard. The token of a caller is its
// role; that of the consumer is of the account acme.
func (e *env) serve() *grpc.ClientConn {
	e.t.Helper()
	tokens := map[string]auth.Principal{"consumer": {Name: "tokens/consumer", Role: auth.Consumer, Account: "acme"}}
	for _, role := range []auth.Role{auth.Admin, auth.ProductManager, auth.Finance, auth.Gateway} {
		tokens[string(role)] = auth.Principal{Name: "tokens/" + string(role), Role: role}
	}
	tokens["scoped"] = auth.Principal{Name: "tokens/scoped", Role: auth.Admin, Scopes: []string{"catalog.write"}}
	tokens["lender"] = auth.Principal{Name: "tokens/lender", Role: auth.Admin, Scopes: []string{"tokens.write", "reports.read"}}
	guard, err := auth.NewGuard(auth.Static(tokens), catalog.Rules)
	if err != nil {
		e.t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(guard.Unary()), grpc.StreamInterceptor(guard.Stream()))
	catalogv1.RegisterCatalogServer(server, e)
	if missing := guard.Missing(server); len(missing) > 0 {
		e.t.Fatalf("methods without a rule: %v", missing)
	}
	listener, err := new(net.ListenConfig).Listen(e.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		e.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	e.t.Cleanup(func() { server.Stop(); <-done })
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { conn.Close() })
	return conn
}

func bearer(token string) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token)
}

// What each role may call; Get and List stand for reading, the rest for writing.
// A method that nobody has thought of is in none of these, and fails the test.
var (
	staffReads = strings.Fields(`Account App Credential Subscription Api Operation Product Plan PlanVersion Environment LegalEntity Meter`)
	writers    = map[string][]string{
		"Account": {"admin", "product_manager", "finance"}, "App": {"admin", "product_manager"}, "Credential": {"admin", "product_manager"},
		"Subscription": {"admin", "product_manager"}, "Api": {"admin", "product_manager"}, "Operation": {"admin", "product_manager"},
		"Product": {"admin", "product_manager"}, "Plan": {"admin", "product_manager"}, "PlanVersion": {"admin", "product_manager"},
		"Environment": {"admin", "product_manager"}, "LegalEntity": {"admin", "finance"}, "Meter": {"admin", "product_manager"}, "Token": {"admin"},
	}
	others = map[string][]string{
		"RotateCredential": {"admin", "product_manager", "consumer"}, "RevokeCredential": {"admin", "product_manager", "consumer"},
		"ImportOpenApi": {"admin", "product_manager"}, "PublishPlanVersion": {"admin", "product_manager"}, "ArchivePlanVersion": {"admin", "product_manager"},
		"ApproveSubscription": {"admin", "product_manager"}, "SuspendSubscription": {"admin", "product_manager"}, "ResumeSubscription": {"admin", "product_manager"},
		"EndSubscription": {"admin", "product_manager", "consumer"}, "MoveSubscription": {"admin", "product_manager"},
		"Register": {"admin", "product_manager", "finance", "gateway", "consumer", ""}, "WhoAmI": {"admin", "product_manager", "finance", "gateway", "consumer"},
		"Apply": {"admin", "product_manager", "finance"}, "ListAuditEntries": {"admin", "product_manager", "finance", "consumer"},
	}
	consumerMethods = strings.Fields(`GetAccount UpdateAccount GetApp ListApps CreateApp UpdateApp DeleteApp
		GetCredential ListCredentials CreateCredential UpdateCredential DeleteCredential GetSubscription ListSubscriptions CreateSubscription
		GetProduct ListProducts GetPlan ListPlans GetPlanVersion ListPlanVersions`)
	plurals = map[string]string{"LegalEntities": "LegalEntity"}
)

func allowed(method string) []string {
	if roles, ok := others[method]; ok {
		return roles
	}
	var roles []string
	for _, verb := range []string{"Get", "List", "Create", "Update", "Delete"} {
		of, ok := strings.CutPrefix(method, verb)
		if !ok {
			continue
		}
		if singular, ok := plurals[of]; ok {
			of = singular
		} else if verb == "List" {
			of = strings.TrimSuffix(of, "s")
		}
		roles = slices.Clone(writers[of])
		if verb == "Get" || verb == "List" {
			if roles = []string{"admin"}; slices.Contains(staffReads, of) {
				roles = []string{"admin", "product_manager", "finance"}
			}
		}
	}
	if slices.Contains(consumerMethods, method) {
		roles = append(roles, "consumer")
	}
	return roles
}

// about fills what a request is about: the name, the parent, or the name of the
// resource in it, within an account where it is in one.
func about(m protoreflect.Message, account string) (inAccount bool) {
	fill := func(m protoreflect.Message, field protoreflect.Name, value string) {
		if f := m.Descriptor().Fields().ByName(field); f != nil && f.Kind() == protoreflect.StringKind {
			m.Set(f, protoreflect.ValueOfString(value))
		}
	}
	name := string(m.Descriptor().Name())
	path := map[string]string{
		"AuditEntries": account, "Apps": account, "App": account + "/apps/shop", "Credentials": account + "/apps/shop", "Credential": account + "/apps/shop/credentials/key",
		"Subscription": account + "/subscriptions/s", "Subscriptions": account, "Account": account,
	}
	for _, verb := range []string{"Get", "List", "Create", "Update", "Delete", "Rotate", "Revoke", "Approve", "Suspend", "Resume", "End", "Move"} {
		of, ok := strings.CutPrefix(strings.TrimSuffix(name, "Request"), verb)
		target, known := path[of]
		if !ok || !known {
			continue
		}
		parent := target
		if verb == "Create" {
			parts := strings.Split(target, "/")
			parent = strings.Join(parts[:len(parts)-2], "/")
		}
		fill(m, "name", target)
		fill(m, "parent", parent)
		if verb == "Update" {
			for i := range m.Descriptor().Fields().Len() {
				f := m.Descriptor().Fields().Get(i)
				if f.Kind() == protoreflect.MessageKind && f.Message().Fields().ByName("uid") != nil {
					fill(m.Mutable(f).Message(), "name", target)
				}
			}
		}
		return of != "Account" || verb != "Create"
	}
	return false
}

// TestMatrix: every role and nobody, every method, own and foreign account.
func TestMatrix(t *testing.T) {
	e := newEnv(t, testenv.Ledger(t))
	e.offer()
	conn := e.serve()
	methods := catalogv1.Catalog_ServiceDesc.Methods
	if len(methods) < 70 {
		t.Fatalf("only %d methods", len(methods))
	}
	descriptor, err := protoregistry.GlobalFiles.FindDescriptorByName("tollway.catalog.v1.Catalog")
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range methods {
		roles := allowed(method.MethodName)
		if len(roles) == 0 {
			t.Errorf("this test does not know who may call %s", method.MethodName)
			continue
		}
		in := descriptor.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(method.MethodName)).Input()
		for _, role := range []string{"admin", "product_manager", "finance", "gateway", "consumer", ""} {
			for _, account := range []string{"accounts/acme", "accounts/globex"} {
				request := dynamicpb.NewMessage(in)
				private := about(request, account)
				ctx := context.Background()
				if role != "" {
					ctx = bearer(role)
				}
				answer := dynamicpb.NewMessage(descriptor.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(method.MethodName)).Output())
				err := conn.Invoke(ctx, "/tollway.catalog.v1.Catalog/"+method.MethodName, proto.Message(request), proto.Message(answer))
				code := status.Code(err)
				want := slices.Contains(roles, role) && (role != "consumer" || !private || account == "accounts/acme")
				switch {
				case method.MethodName == "Register": // closed, which is no matter of roles
					refused(t, err, codes.PermissionDenied, "catalog.registration is closed")
				case want && (code == codes.PermissionDenied || code == codes.Unauthenticated || code == codes.Unimplemented):
					t.Errorf("%s as %q in %s: %v", method.MethodName, role, account, err)
				case !want && role == "" && code != codes.Unauthenticated, !want && role != "" && code != codes.PermissionDenied:
					t.Errorf("%s as %q in %s: %v, want to be refused", method.MethodName, role, account, err)
				}
			}
		}
	}
}

func TestRealConsumer(t *testing.T) { testenv.EachLedger(t, consumer) }

func consumer(t *testing.T, db *ledger.DB) {
	e := newEnv(t, db, func(c *catalog.Config) { c.MaxApps = 3 })
	e.offer()
	must[*catalogv1.ApplyResponse](t)(e.Apply(admin, &catalogv1.ApplyRequest{Resources: []*catalogv1.Resource{
		res(&catalogv1.Product{Name: "products/secret", DisplayName: "Secret"}),
		res(&catalogv1.Plan{Name: "products/secret/plans/x", DisplayName: "X"}),
		version("products/secret/plans/x/versions/1", "2026-01-01T00:00:00Z", catalogv1.PlanVersionState_PUBLISHED),
		res(&catalogv1.Product{Name: "products/partners", DisplayName: "Partners", Visibility: catalogv1.Visibility_RESTRICTED, VisibleTo: []string{"accounts/acme", "accounts/globex"}, AutoApprove: true}),
		res(&catalogv1.Plan{Name: "products/partners/plans/x", DisplayName: "X"}),
		version("products/partners/plans/x/versions/1", "2026-01-01T00:00:00Z", catalogv1.PlanVersionState_PUBLISHED),
		version(basic+"/versions/2", "2026-05-01T00:00:00Z", catalogv1.PlanVersionState_DRAFT),
		res(&catalogv1.App{Name: "accounts/globex/apps/other", DisplayName: "Other"}),
	}}))
	own := version(basic+"/versions/3", "2026-02-01T00:00:00Z", catalogv1.PlanVersionState_PUBLISHED)
	own.GetPlanVersion().Account = "accounts/globex"
	must[*catalogv1.ApplyResponse](t)(e.Apply(admin, &catalogv1.ApplyRequest{Resources: []*catalogv1.Resource{own}}))
	conn := catalogv1.NewCatalogClient(e.serve())
	ctx := bearer("consumer")

	products := must[*catalogv1.ListProductsResponse](t)(conn.ListProducts(ctx, &catalogv1.ListProductsRequest{}))
	if len(products.GetProducts()) != 2 || products.GetProducts()[0].GetVisibleTo() != nil {
		t.Errorf("sees %v", products)
	}
	if versions := must[*catalogv1.ListPlanVersionsResponse](t)(conn.ListPlanVersions(ctx, &catalogv1.ListPlanVersionsRequest{Parent: basic})); len(versions.GetVersions()) != 1 {
		t.Errorf("sees drafts or versions of others: %v", versions)
	}
	if plans := must[*catalogv1.ListPlansResponse](t)(conn.ListPlans(ctx, &catalogv1.ListPlansRequest{Parent: "products/-"})); len(plans.GetPlans()) != 3 {
		t.Errorf("sees %v", plans)
	}
	for _, name := range []string{"products/secret", "products/none"} {
		_, err := conn.GetProduct(ctx, &catalogv1.GetProductRequest{Name: name})
		refused(t, err, codes.NotFound, name+" does not exist")
	}
	for _, name := range []string{basic + "/versions/2", basic + "/versions/3", "products/secret/plans/x/versions/1"} {
		_, err := conn.GetPlanVersion(ctx, &catalogv1.GetPlanVersionRequest{Name: name})
		refused(t, err, codes.NotFound, name+" does not exist")
	}

	account := must[*catalogv1.Account](t)(conn.GetAccount(ctx, &catalogv1.GetAccountRequest{Name: "accounts/acme"}))
	account.Email, account.BillingAddress = "new@acme.example", &catalogv1.PostalAddress{City: "Berlin"}
	account = must[*catalogv1.Account](t)(conn.UpdateAccount(ctx, &catalogv1.UpdateAccountRequest{Account: account}))
	for _, path := range []string{"state", "currency", "time_zone", "tax_id", "labels"} {
		change := proto.Clone(account).(*catalogv1.Account)
		change.State, change.Currency, change.TimeZone, change.TaxId, change.Labels = catalogv1.AccountState_ACCOUNT_SUSPENDED, "USD", "UTC", "x", map[string]string{"a": "b"}
		_, err := conn.UpdateAccount(ctx, &catalogv1.UpdateAccountRequest{Account: change, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{path}}})
		refused(t, err, codes.PermissionDenied, "a consumer may change display_name, email, billing_address of its account, not "+path)
	}

	create := func(id string) (*catalogv1.App, error) {
		return conn.CreateApp(ctx, &catalogv1.CreateAppRequest{Parent: "accounts/acme", AppId: id, App: &catalogv1.App{DisplayName: "X"}})
	}
	must[*catalogv1.App](t)(create(""))
	must[*catalogv1.App](t)(create("b"))
	_, err := create("c")
	refused(t, err, codes.ResourceExhausted, "accounts/acme has 3 apps already")
	key := must[*catalogv1.Credential](t)(conn.CreateCredential(ctx, &catalogv1.CreateCredentialRequest{Parent: "accounts/acme/apps/shop", Credential: &catalogv1.Credential{Kind: &catalogv1.Credential_ApiKey{ApiKey: &catalogv1.ApiKey{}}}}))
	must[*catalogv1.Credential](t)(conn.RotateCredential(ctx, &catalogv1.RotateCredentialRequest{Name: key.GetName(), Overlap: durationpb.New(0)}))
	_, err = conn.CreateCredential(ctx, &catalogv1.CreateCredentialRequest{Parent: "accounts/acme/apps/shop", Credential: &catalogv1.Credential{Kind: &catalogv1.Credential_JwtSubject{JwtSubject: &catalogv1.JwtSubject{Issuer: "https://idp.example", Subject: "globex"}}}})
	refused(t, err, codes.PermissionDenied, "a consumer can make API keys only")

	subscribe := func(s *catalogv1.Subscription) (*catalogv1.Subscription, error) {
		return conn.CreateSubscription(ctx, &catalogv1.CreateSubscriptionRequest{Parent: "accounts/acme", Subscription: s})
	}
	if s := must[*catalogv1.Subscription](t)(subscribe(&catalogv1.Subscription{Plan: "products/partners/plans/x"})); s.GetState() != catalogv1.SubscriptionState_ACTIVE {
		t.Errorf("approved by itself: %v", s)
	}
	if s := must[*catalogv1.Subscription](t)(subscribe(&catalogv1.Subscription{Plan: basic, State: catalogv1.SubscriptionState_ACTIVE})); s.GetState() != catalogv1.SubscriptionState_REQUESTED {
		t.Errorf("a consumer approves itself: %v", s)
	}
	_, err = subscribe(&catalogv1.Subscription{Plan: "products/secret/plans/x"})
	refused(t, err, codes.InvalidArgument, "plan: products/secret/plans/x does not exist")
	_, err = subscribe(&catalogv1.Subscription{Plan: basic, StartTime: at(began.AddDate(0, 0, -1))})
	refused(t, err, codes.InvalidArgument, "start_time: is in the past")
	_, err = subscribe(&catalogv1.Subscription{Plan: basic, App: "accounts/globex/apps/other"})
	refused(t, err, codes.PermissionDenied, "")

	// What it has been subscribed to it sees, also when it is not offered any more.
	must[*catalogv1.Subscription](t)(e.CreateSubscription(manager, &catalogv1.CreateSubscriptionRequest{Parent: "accounts/acme", Subscription: &catalogv1.Subscription{Plan: "products/secret/plans/x"}}))
	must[*catalogv1.PlanVersion](t)(e.ArchivePlanVersion(manager, &catalogv1.ArchivePlanVersionRequest{Name: "products/secret/plans/x/versions/1"}))
	must[*catalogv1.Product](t)(conn.GetProduct(ctx, &catalogv1.GetProductRequest{Name: "products/secret"}))
	must[*catalogv1.Plan](t)(conn.GetPlan(ctx, &catalogv1.GetPlanRequest{Name: "products/secret/plans/x"}))
	must[*catalogv1.PlanVersion](t)(conn.GetPlanVersion(ctx, &catalogv1.GetPlanVersionRequest{Name: "products/secret/plans/x/versions/1"}))
	if products := must[*catalogv1.ListProductsResponse](t)(conn.ListProducts(ctx, &catalogv1.ListProductsRequest{})); len(products.GetProducts()) != 3 {
		t.Errorf("sees %v", products)
	}

	log := must[*catalogv1.ListAuditEntriesResponse](t)(conn.ListAuditEntries(ctx, &catalogv1.ListAuditEntriesRequest{PageSize: 1000}))
	if len(log.GetEntries()) == 0 {
		t.Error("sees nothing of its own log")
	}
	for _, entry := range log.GetEntries() {
		if !strings.HasPrefix(entry.GetName()+"/", "accounts/acme/") {
			t.Errorf("sees the log of %s", entry.GetName())
		}
	}
	who := must[*catalogv1.WhoAmIResponse](t)(conn.WhoAmI(ctx, &catalogv1.WhoAmIRequest{}))
	if who.GetAccount() != "accounts/acme" || who.GetRole() != "consumer" || who.GetPrincipal() != "tokens/consumer" {
		t.Errorf("is %v", who)
	}
}

// TestApplyAsksForEveryKind: what a role cannot do by the method of a kind, it
// cannot do by applying.
func TestApplyAsksForEveryKind(t *testing.T) {
	e := newEnv(t, testenv.Ledger(t))
	conn := catalogv1.NewCatalogClient(e.serve())
	for _, c := range []struct {
		token string
		what  proto.Message
		want  codes.Code
	}{
		{"product_manager", &catalogv1.Token{Name: "tokens/x", Role: "admin"}, codes.PermissionDenied},
		{"product_manager", &catalogv1.LegalEntity{Name: "legalEntities/x", LegalName: "X"}, codes.PermissionDenied},
		{"finance", &catalogv1.Meter{Name: "meters/x", Unit: "x", Aggregation: catalogv1.Aggregation_COUNT}, codes.PermissionDenied},
		{"finance", &catalogv1.LegalEntity{Name: "legalEntities/x", LegalName: "X"}, codes.OK},
		{"scoped", &catalogv1.Account{Name: "accounts/x", DisplayName: "X"}, codes.PermissionDenied},
		{"scoped", &catalogv1.Token{Name: "tokens/x", Role: "admin"}, codes.PermissionDenied},
		{"scoped", &catalogv1.Meter{Name: "meters/x", Unit: "x", Aggregation: catalogv1.Aggregation_COUNT}, codes.OK},
		{"admin", &catalogv1.Token{Name: "tokens/x", Role: "gateway"}, codes.OK},
		{"consumer", &catalogv1.App{Name: "accounts/acme/apps/x", DisplayName: "X"}, codes.PermissionDenied},
	} {
		_, err := conn.Apply(bearer(c.token), &catalogv1.ApplyRequest{Resources: []*catalogv1.Resource{res(c.what)}})
		if status.Code(err) != c.want {
			t.Errorf("%s applies %v: %v, want %s", c.token, c.what, err, c.want)
		}
	}
}

// TestScopesAreNotExceeded: a token that is limited to scopes cannot make itself,
// or another, more than it is.
func TestScopesAreNotExceeded(t *testing.T) {
	e := newEnv(t, testenv.Ledger(t))
	conn := catalogv1.NewCatalogClient(e.serve())
	for _, c := range []struct {
		token  string
		scopes []string
		want   codes.Code
	}{
		{"lender", nil, codes.PermissionDenied},
		{"lender", []string{"reports.read", "catalog.write"}, codes.PermissionDenied},
		{"lender", []string{"reports.read"}, codes.OK},
		{"admin", nil, codes.OK},
	} {
		made, err := conn.CreateToken(bearer(c.token), &catalogv1.CreateTokenRequest{Token: &catalogv1.Token{Role: "admin", Scopes: c.scopes}})
		if status.Code(err) != c.want {
			t.Errorf("%s makes a token with %v: %v, want %s", c.token, c.scopes, err, c.want)
		}
		if err != nil || len(c.scopes) == 0 {
			continue
		}
		made.Scopes = nil
		mask := &fieldmaskpb.FieldMask{Paths: []string{"scopes"}}
		if _, err := conn.UpdateToken(bearer(c.token), &catalogv1.UpdateTokenRequest{Token: made, UpdateMask: mask}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s widens a token: %v", c.token, err)
		}
	}
}

// TestApplyUnchanged: what a role may not see it is not shown, and what it may
// not change it does not take out of its set, though it applies it as it is.
func TestApplyUnchanged(t *testing.T) {
	e := newEnv(t, testenv.Ledger(t))
	conn := catalogv1.NewCatalogClient(e.serve())
	token := &catalogv1.Token{Name: "tokens/x", Role: "gateway"}
	meter := &catalogv1.Meter{Name: "meters/x", Unit: "x", Aggregation: catalogv1.Aggregation_COUNT}
	apply := func(role, set string, m proto.Message) error {
		_, err := conn.Apply(bearer(role), &catalogv1.ApplyRequest{Set: set, Resources: []*catalogv1.Resource{res(m)}})
		return err
	}
	for _, c := range []struct {
		role, set string
		what      proto.Message
		want      codes.Code
	}{
		{"admin", "tokens", token, codes.OK},
		{"admin", "meters", meter, codes.OK},
		{"product_manager", "tokens", token, codes.PermissionDenied},
		{"finance", "meters", meter, codes.OK},
		{"finance", "other", meter, codes.PermissionDenied},
		{"product_manager", "other", meter, codes.OK},
	} {
		if err := apply(c.role, c.set, c.what); status.Code(err) != c.want {
			t.Errorf("%s applies %v in set %s: %v, want %s", c.role, c.what, c.set, err, c.want)
		}
	}
}
