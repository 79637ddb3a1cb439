package catalog_test

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog"
	"github.com/tollway/tollway/services/platform/auth"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// clock is a time that tests move on.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

var began = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// env is a service on a ledger of its own.
type env struct {
	*catalog.Service
	t     testing.TB
	db    *ledger.DB
	clock *clock
	log   *syncBuffer
	cfg   catalog.Config
}

type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newEnv(t testing.TB, db *ledger.DB, change ...func(*catalog.Config)) *env {
	t.Helper()
	e := &env{t: t, db: db, clock: &clock{at: began}, log: &syncBuffer{}, cfg: catalog.DefaultConfig()}
	e.cfg.HashKeyFile = filepath.Join(t.TempDir(), "hash.key")
	for _, c := range change {
		c(&e.cfg)
	}
	s, err := catalog.New(e.cfg, catalog.Deps{
		Ledger: db, Now: e.clock.Now, Log: zerolog.New(e.log), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.Service = s
	return e
}

func as(role auth.Role, account string) context.Context {
	return auth.WithPrincipal(context.Background(), auth.Principal{Name: "tokens/" + string(role), Role: role, Account: account})
}

var (
	admin    = as(auth.Admin, "")
	manager  = as(auth.ProductManager, "")
	finance  = as(auth.Finance, "")
	acmeUser = as(auth.Consumer, "acme")
)

// must fails the test if a call did not succeed.
func must[T any](t testing.TB) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// refused checks an error's code and text.
func refused(t testing.TB, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("got %v, want %s with %q", err, code, text)
	}
}

// fields are those that an error's violations name.
func fields(err error) []string {
	var out []string
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				out = append(out, v.GetField())
			}
		}
	}
	return out
}

func protoString(s string) protoreflect.Value { return protoreflect.ValueOfString(s) }

func at(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }

// offer is an API with two operations in a public product with two plans, of
// which basic has a version from January on.
func (e *env) offer() {
	e.t.Helper()
	must[*catalogv1.ApplyResponse](e.t)(e.Apply(admin, &catalogv1.ApplyRequest{Resources: offer()}))
}

func offer() []*catalogv1.Resource {
	return []*catalogv1.Resource{
		version("products/orders/plans/basic/versions/1", "2026-01-01T00:00:00Z", catalogv1.PlanVersionState_PUBLISHED),
		res(&catalogv1.Plan{Name: "products/orders/plans/basic", DisplayName: "Basic"}),
		version("products/orders/plans/pro/versions/1", "2026-01-01T00:00:00Z", catalogv1.PlanVersionState_PUBLISHED),
		res(&catalogv1.Plan{Name: "products/orders/plans/pro", DisplayName: "Pro"}),
		res(&catalogv1.Product{
			Name: "products/orders", DisplayName: "Orders", Visibility: catalogv1.Visibility_PUBLIC,
			Operations: []string{"apis/orders/operations/list", "apis/orders/operations/get"},
		}),
		res(&catalogv1.Operation{Name: "apis/orders/operations/list", Method: "GET", PathTemplate: "/orders"}),
		res(&catalogv1.Operation{Name: "apis/orders/operations/get", Method: "GET", PathTemplate: "/orders/{order}"}),
		res(&catalogv1.Api{Name: "apis/orders", DisplayName: "Orders", Hosts: []string{"api.example.com"}, BasePaths: []string{"/v1"}}),
		res(&catalogv1.Meter{Name: "meters/calls", Unit: "call", Aggregation: catalogv1.Aggregation_COUNT, Filter: `status < 400 AND denied = ""`}),
		res(&catalogv1.Account{Name: "accounts/acme", DisplayName: "Acme", Email: "billing@acme.example", Currency: "EUR", TimeZone: "Europe/Berlin"}),
		res(&catalogv1.Account{Name: "accounts/globex", DisplayName: "Globex"}),
		res(&catalogv1.App{Name: "accounts/acme/apps/shop", DisplayName: "Shop"}),
	}
}

func version(name, start string, state catalogv1.PlanVersionState) *catalogv1.Resource {
	from, err := time.Parse(time.RFC3339, start)
	if err != nil {
		panic(err)
	}
	return res(&catalogv1.PlanVersion{
		Name: name, State: state, StartTime: at(from), Currency: "EUR", RecurringFee: "10.00",
		Charges: []*catalogv1.Charge{{Id: "calls", Meter: "meters/calls", Model: catalogv1.ChargeModel_GRADUATED, Tiers: []*catalogv1.Tier{
			{UpTo: "1000", UnitPrice: "0"}, {UnitPrice: "0.002"},
		}}},
		Quotas: []*catalogv1.QuotaLimit{{Id: "daily", Meter: "meters/calls", Limit: 5000, Window: catalogv1.QuotaWindow_PER_DAY}},
	})
}

// res puts a message into a Resource.
func res(m proto.Message) *catalogv1.Resource {
	r := &catalogv1.Resource{}
	all := r.ProtoReflect().Descriptor().Fields()
	for i := range all.Len() {
		if f := all.Get(i); f.Message() == m.ProtoReflect().Descriptor() {
			r.ProtoReflect().Set(f, protoreflect.ValueOfMessage(m.ProtoReflect()))
		}
	}
	return r
}
