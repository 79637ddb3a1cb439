package extauthz

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tollway/tollway/pipelines/attribute"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

var (
	now     = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	hashKey = []byte("0123456789abcdef0123456789abcdef")
)

func at(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(d)) }

func hashed(key string) []byte {
	m := hmac.New(sha256.New, hashKey)
	m.Write([]byte(key))
	return m.Sum(nil)
}

// secrets are the keys of the example company.
const (
	goodKey    = "tk_AAAAAAAA_good"
	revokedKey = "tk_AAAAAAAA_revoked"
	expiredKey = "tk_AAAAAAAA_expired"
	pendingKey = "tk_AAAAAAAA_pending"
	offKey     = "tk_AAAAAAAA_off"
	poorKey    = "tk_AAAAAAAA_poor"
	pausedKey  = "tk_AAAAAAAA_paused"
)

// company is a catalog with a caller for each outcome.
func company(t testing.TB) *attribute.Snapshot {
	t.Helper()
	b := attribute.NewBuilder()
	sequence := int64(0)
	put := func(name string, r *catalogv1.Resource, hash []byte) {
		sequence++
		if _, err := b.Apply(name, &catalogv1.Record{Resource: r, Sequence: sequence, SecretHash: hash}, 0); err != nil {
			t.Fatal(err)
		}
	}
	caller := func(account string, state catalogv1.AccountState, disabled bool, key string, change func(*catalogv1.Credential)) {
		name := "accounts/" + account
		put(name, &catalogv1.Resource{Kind: &catalogv1.Resource_Account{Account: &catalogv1.Account{Name: name, State: state}}}, nil)
		app := name + "/apps/app"
		put(app, &catalogv1.Resource{Kind: &catalogv1.Resource_App{App: &catalogv1.App{Name: app, Disabled: disabled}}}, nil)
		c := &catalogv1.Credential{Name: app + "/credentials/key", Kind: &catalogv1.Credential_ApiKey{ApiKey: &catalogv1.ApiKey{}}}
		if change != nil {
			change(c)
		}
		put(c.GetName(), &catalogv1.Resource{Kind: &catalogv1.Resource_Credential{Credential: c}}, hashed(key))
	}
	subscribe := func(account string, state catalogv1.SubscriptionState) {
		s := &catalogv1.Subscription{
			Name: "accounts/" + account + "/subscriptions/sub", Plan: "products/weather/plans/gold", StartTime: at(-time.Hour), State: state,
			Phases: []*catalogv1.SubscriptionPhase{{StartTime: at(-time.Hour), PlanVersion: "products/weather/plans/gold/versions/2"}},
		}
		put(s.GetName(), &catalogv1.Resource{Kind: &catalogv1.Resource_Subscription{Subscription: s}}, nil)
	}
	put("apis/forecast", &catalogv1.Resource{Kind: &catalogv1.Resource_Api{Api: &catalogv1.Api{Name: "apis/forecast", Hosts: []string{"api.example.com"}}}}, nil)
	put("apis/forecast/operations/get", &catalogv1.Resource{Kind: &catalogv1.Resource_Operation{Operation: &catalogv1.Operation{
		Name: "apis/forecast/operations/get", Method: "GET", PathTemplate: "/v1/forecast/{city}",
	}}}, nil)
	put("products/weather", &catalogv1.Resource{Kind: &catalogv1.Resource_Product{Product: &catalogv1.Product{
		Name: "products/weather", Operations: []string{"apis/forecast/operations/get"}, Environments: []string{"environments/live"},
	}}}, nil)
	const active = catalogv1.AccountState_ACCOUNT_ACTIVE
	caller("acme", active, false, goodKey, nil)
	caller("revoked", active, false, revokedKey, func(c *catalogv1.Credential) { c.RevokeTime = at(-time.Minute) })
	caller("expired", active, false, expiredKey, func(c *catalogv1.Credential) { c.ExpireTime = at(0) })
	caller("pending", catalogv1.AccountState_ACCOUNT_PENDING, false, pendingKey, nil)
	caller("off", active, true, offKey, nil)
	caller("poor", active, false, poorKey, nil)
	caller("paused", active, false, pausedKey, nil)
	caller("client", active, false, "", func(c *catalogv1.Credential) {
		c.Kind = &catalogv1.Credential_OauthClient{OauthClient: &catalogv1.OAuthClient{Issuer: "https://issuer.example", ClientId: "shop"}}
	})
	caller("subject", active, false, "", func(c *catalogv1.Credential) {
		c.Kind = &catalogv1.Credential_JwtSubject{JwtSubject: &catalogv1.JwtSubject{Issuer: "https://issuer.example", Subject: "alice"}}
	})
	caller("mesh", active, false, "", func(c *catalogv1.Credential) {
		c.Kind = &catalogv1.Credential_ClientCertificate{ClientCertificate: &catalogv1.ClientCertificate{UriSan: "spiffe://example/shop"}}
	})
	for _, account := range []string{"acme", "revoked", "expired", "pending", "off", "client", "subject", "mesh"} {
		subscribe(account, catalogv1.SubscriptionState_ACTIVE)
	}
	subscribe("paused", catalogv1.SubscriptionState_SUSPENDED)
	return b.Snapshot()
}

// fixed is a catalog that does not change.
type fixed struct {
	snapshot *attribute.Snapshot
	err      error
}

func (f fixed) Snapshot() *attribute.Snapshot { return f.snapshot }
func (f fixed) Ready(context.Context) error   { return f.err }

// issuer believes tokens that say what is in them: eyJ.SUBJECT.CLIENT.
type issuer struct{}

func (issuer) Verify(_ context.Context, token string) (string, string, string, error) {
	parts := strings.Split(token, ".")
	switch {
	case token == "away":
		return "", "", "", fmt.Errorf("keys: %w", ErrUnavailable)
	case len(parts) != 3 || parts[0] != "eyJ":
		return "", "", "", errors.New("not a token")
	}
	return "https://issuer.example", parts[1], parts[2], nil
}

func newServer(t testing.TB, change func(*Config, *Deps)) *Server {
	t.Helper()
	cfg := DefaultConfig()
	deps := Deps{Catalog: fixed{snapshot: company(t)}, Verifier: issuer{}, HashKey: hashKey, Clock: func() time.Time { return now }, Registry: prometheus.NewRegistry()}
	if change != nil {
		change(&cfg, &deps)
	}
	s, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// example is a call and what must become of it.
type example struct {
	name                     string
	headers                  map[string]string
	path, principal, host    string
	environment              string
	status                   int
	reason, account, product string
}

const here = "/v1/forecast/rome"

var examples = []example{
	{name: "key", headers: map[string]string{"x-api-key": goodKey}, status: 200, account: "acme", product: "weather"},
	{name: "key in the query", path: here + "?day=1&api_key=" + url.QueryEscape(goodKey), status: 200, account: "acme", product: "weather"},
	{name: "key as a bearer", headers: map[string]string{"authorization": "Bearer " + goodKey}, status: 200, account: "acme", product: "weather"},
	{name: "bearer in lower case", headers: map[string]string{"authorization": "bearer " + goodKey}, status: 200, account: "acme", product: "weather"},
	{name: "token of a client", headers: map[string]string{"authorization": "Bearer eyJ.bob.shop"}, status: 200, account: "client", product: "weather"},
	{name: "token of a subject", headers: map[string]string{"authorization": "Bearer eyJ.alice."}, status: 200, account: "subject", product: "weather"},
	{name: "subject behind an unknown client", headers: map[string]string{"authorization": "Bearer eyJ.alice.other"}, status: 200, account: "subject", product: "weather"},
	{name: "certificate", principal: "spiffe://example/shop", status: 200, account: "mesh", product: "weather"},
	{name: "nothing", status: 401, reason: noCredential, product: "weather"},
	{name: "basic", headers: map[string]string{"authorization": "Basic YTpi"}, status: 401, reason: noCredential, product: "weather"},
	{name: "unknown key", headers: map[string]string{"x-api-key": goodKey + "x"}, status: 401, reason: unknownCredential, product: "weather"},
	{name: "unknown key beside a known certificate", headers: map[string]string{"x-api-key": "nonsense"}, principal: "spiffe://example/shop", status: 401, reason: unknownCredential, product: "weather"},
	{name: "long key", headers: map[string]string{"x-api-key": strings.Repeat("k", 5000)}, status: 401, reason: unknownCredential, product: "weather"},
	{name: "unknown certificate", principal: "spiffe://example/other", status: 401, reason: unknownCredential, product: "weather"},
	{name: "certificate that looks like an id", principal: "acme/app/key", status: 401, reason: unknownCredential, product: "weather"},
	{name: "bad token", headers: map[string]string{"authorization": "Bearer nonsense"}, status: 401, reason: invalidToken, product: "weather"},
	{name: "unknown client", headers: map[string]string{"authorization": "Bearer eyJ.carol.other"}, status: 401, reason: unknownCredential, product: "weather"},
	{name: "revoked", headers: map[string]string{"x-api-key": revokedKey}, status: 401, reason: revokedCredential, account: "revoked", product: "weather"},
	{name: "expired just now", headers: map[string]string{"x-api-key": expiredKey}, status: 401, reason: expiredCredential, account: "expired", product: "weather"},
	{name: "account not approved", headers: map[string]string{"x-api-key": pendingKey}, status: 403, reason: inactiveAccount, account: "pending", product: "weather"},
	{name: "app disabled", headers: map[string]string{"x-api-key": offKey}, status: 403, reason: inactiveApp, account: "off", product: "weather"},
	{name: "no subscription", headers: map[string]string{"x-api-key": poorKey}, status: 403, reason: noSubscription, account: "poor", product: "weather"},
	{name: "suspended subscription", headers: map[string]string{"x-api-key": pausedKey}, status: 403, reason: suspendedSubscription, account: "paused", product: "weather"},
	{name: "operation in no product", headers: map[string]string{"x-api-key": goodKey}, path: "/v1/other", status: 403, reason: noSubscription, account: "acme"},
	{name: "nothing there", headers: map[string]string{"x-api-key": goodKey}, host: "other.example.com", status: 403, reason: unknownOperation, account: "acme"},
	{name: "not in this environment", headers: map[string]string{"x-api-key": goodKey}, environment: "sandbox", status: 403, reason: noSubscription, account: "acme"},
	{name: "in its environment", headers: map[string]string{"x-api-key": goodKey}, environment: "live", status: 200, account: "acme", product: "weather"},
}

func (e example) defaults() example {
	if e.path == "" {
		e.path = here
	}
	if e.host == "" {
		e.host = "api.example.com:8443"
	}
	if e.reason == "" {
		e.reason = reasonNone
	}
	return e
}

func (e example) check() *authv3.CheckRequest {
	a := &authv3.AttributeContext{
		Source:  &authv3.AttributeContext_Peer{Principal: e.principal},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Host: e.host, Path: e.path, Headers: e.headers}},
	}
	if e.environment != "" {
		a.ContextExtensions = map[string]string{"environment": e.environment}
	}
	return &authv3.CheckRequest{Attributes: a}
}

// noSecret fails when an answer repeats what the client sent as its secret.
func noSecret(t *testing.T, answer string) {
	t.Helper()
	for _, secret := range []string{"tk_AAAAAAAA", "eyJ.", "nonsense", "kkkk"} {
		if strings.Contains(answer, secret) {
			t.Errorf("the answer has %q in it: %s", secret, answer)
		}
	}
}

func TestCheck(t *testing.T) {
	s := newServer(t, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	s.Register(server)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client := authv3.NewAuthorizationClient(conn)
	for _, e := range examples {
		e := e.defaults()
		t.Run(e.name, func(t *testing.T) {
			before := testutil.ToFloat64(s.metrics.decisions.WithLabelValues(statusText[e.status], e.reason))
			answer, err := client.Check(t.Context(), e.check())
			if err != nil {
				t.Fatal(err)
			}
			noSecret(t, prototext.Format(answer))
			m := answer.GetDynamicMetadata().GetFields()
			for name, want := range map[string]string{"account": e.account, "product": e.product} {
				if got := m[name].GetStringValue(); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if e.status == 200 {
				if answer.GetStatus().GetCode() != int32(codes.OK) || answer.GetOkResponse() == nil || m["decision"].GetStringValue() != "allowed" {
					t.Errorf("not admitted: %s", prototext.Format(answer))
				}
				if got := m["subscription"].GetStringValue() + " " + m["plan"].GetStringValue() + " " + m["operation"].GetStringValue(); got != e.account+"/sub weather/gold/2 get" {
					t.Errorf("got %s", got)
				}
			} else {
				denied := answer.GetDeniedResponse()
				if int(denied.GetStatus().GetCode()) != e.status || answer.GetStatus().GetCode() == int32(codes.OK) || !strings.Contains(denied.GetBody(), `"`+e.reason+`"`) {
					t.Errorf("got %s", prototext.Format(answer))
				}
				if m["decision"].GetStringValue() != "denied" || m["reason"].GetStringValue() != e.reason {
					t.Errorf("metadata %v", m)
				}
			}
			if after := testutil.ToFloat64(s.metrics.decisions.WithLabelValues(statusText[e.status], e.reason)); after != before+1 {
				t.Errorf("counted %v decisions, want one more than %v", after, before)
			}
		})
	}
}

// The upstream gets who called, and not with which key.
func TestAdmission(t *testing.T) {
	s := newServer(t, nil)
	for name, e := range map[string]example{
		"header": {headers: map[string]string{"x-api-key": goodKey, "authorization": "Bearer for-the-upstream"}},
		"bearer": {headers: map[string]string{"authorization": "Bearer " + goodKey}},
	} {
		answer, err := s.Check(t.Context(), e.defaults().check())
		if err != nil {
			t.Fatal(err)
		}
		ok := answer.GetOkResponse()
		removed := strings.Join(ok.GetHeadersToRemove(), ",")
		want := "x-api-key"
		if name == "bearer" {
			want = "authorization,x-api-key"
		}
		if removed != want || strings.Join(ok.GetQueryParametersToRemove(), ",") != "api_key" {
			t.Errorf("%s: removes %s and %v", name, removed, ok.GetQueryParametersToRemove())
		}
		for _, h := range ok.GetHeaders() {
			if h.GetAppendAction().String() != "OVERWRITE_IF_EXISTS_OR_ADD" {
				t.Errorf("%s: the client can set %s", name, h.GetHeader().GetKey())
			}
		}
	}
}

func TestHTTP(t *testing.T) {
	server := httptest.NewServer(newServer(t, nil))
	defer server.Close()
	for _, e := range examples {
		e := e.defaults()
		if e.principal != "" || e.environment != "" {
			continue // not in this protocol
		}
		t.Run(e.name, func(t *testing.T) {
			for _, style := range []string{"original", "forwarded", "repeated"} {
				target := server.URL + Path
				if style == "repeated" {
					target += e.path
				}
				in, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
				if err != nil {
					t.Fatal(err)
				}
				for name, v := range e.headers {
					if name == "authorization" {
						name = "x-original-authorization"
					}
					in.Header.Set(name, v)
				}
				switch style {
				case "original":
					in.Header.Set("X-Original-Method", http.MethodGet)
					in.Header.Set("X-Original-Host", e.host)
					in.Header.Set("X-Original-URI", e.path)
				case "forwarded":
					in.Header.Set("X-Forwarded-Method", http.MethodGet)
					in.Header.Set("X-Forwarded-Host", e.host)
					in.Header.Set("X-Forwarded-Uri", e.path)
				default:
					in.Host = e.host
					// From the client, who would like to be judged for another call.
					in.Header.Set("X-Original-Uri", "/elsewhere")
					in.Header.Set("X-Forwarded-Method", http.MethodDelete)
				}
				out, err := http.DefaultClient.Do(in)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(out.Body)
				_ = out.Body.Close()
				if err != nil {
					t.Fatal(err)
				}
				noSecret(t, fmt.Sprint(out.Header, string(body)))
				if out.StatusCode != e.status || out.Header.Get("X-Tollway-Account") != e.account || out.Header.Get("X-Tollway-Product") != e.product {
					t.Errorf("%s: status %d, %v, %s", style, out.StatusCode, out.Header, body)
				}
				if e.status != 200 && (!strings.Contains(string(body), e.reason) || out.Header.Get("Content-Type") != "application/problem+json") {
					t.Errorf("%s: %v, %s", style, out.Header, body)
				}
				if e.status == 401 && out.Header.Get("Www-Authenticate") == "" {
					t.Errorf("%s: 401 without a challenge", style)
				}
			}
		})
	}
}

// A gateway passes on what its client sends, so a client that adds headers about
// the call is not believed, whatever the gateway itself sets.
func TestHTTPWhichCall(t *testing.T) {
	s := newServer(t, nil)
	original := map[string]string{"X-Original-Method": "GET", "X-Original-Host": "api.example.com", "X-Original-Uri": here}
	forwarded := map[string]string{"X-Forwarded-Method": "GET", "X-Forwarded-Host": "api.example.com", "X-Forwarded-Uri": here}
	for name, c := range map[string]struct {
		set    map[string]string
		client [2]string
		status int
	}{
		"original":                            {original, [2]string{}, 200},
		"forwarded":                           {forwarded, [2]string{}, 200},
		"original, behind a proxy":            {original, [2]string{"X-Forwarded-Host", "edge.example.com"}, 200},
		"original, and a client's path":       {original, [2]string{"X-Forwarded-Uri", "/elsewhere"}, 400},
		"forwarded, and a client's path":      {forwarded, [2]string{"X-Original-Uri", here}, 400},
		"forwarded, and a client's method":    {forwarded, [2]string{"X-Original-Method", "POST"}, 200},
		"original, with a path of the client": {original, [2]string{"X-Original-Uri", here}, 400},
		"a path alone":                        {map[string]string{"X-Original-Uri": here}, [2]string{}, 400},
		"no method":                           {map[string]string{"X-Original-Uri": here, "X-Original-Host": "api.example.com"}, [2]string{"X-Forwarded-Method", "GET"}, 400},
		"nothing":                             {nil, [2]string{}, 400},
	} {
		in := httptest.NewRequest(http.MethodGet, Path, nil)
		in.Header.Set("X-Api-Key", goodKey)
		for header, v := range c.set {
			in.Header.Set(header, v)
		}
		if c.client[0] != "" {
			in.Header.Add(c.client[0], c.client[1])
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, in)
		if w.Code != c.status {
			t.Errorf("%s: status %d, want %d: %s", name, w.Code, c.status, w.Body)
		}
	}
}

// Without a catalog, or an issuer's keys, nobody is let through and nobody is
// refused for good.
func TestUndecided(t *testing.T) {
	away := newServer(t, func(_ *Config, d *Deps) {
		d.Catalog = fixed{attribute.Empty(), errors.New("the catalog is being read")}
	})
	e := example{headers: map[string]string{"x-api-key": goodKey}}.defaults()
	if _, err := away.Check(t.Context(), e.check()); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	w := httptest.NewRecorder()
	away.ServeHTTP(w, httptest.NewRequest(http.MethodGet, Path+here, nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("status %d", w.Code)
	}
	e.headers = map[string]string{"authorization": "Bearer away"}
	s := newServer(t, nil)
	if _, err := s.Check(t.Context(), e.check()); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	if n := testutil.ToFloat64(s.metrics.failures); n != 1 {
		t.Errorf("%v failures counted", n)
	}
}

func TestWithoutSubscriptions(t *testing.T) {
	s := newServer(t, func(c *Config, _ *Deps) { c.RequireSubscription = false })
	for key, want := range map[string]int32{poorKey: 0, pausedKey: 0, revokedKey: 7, offKey: 7} {
		answer, err := s.Check(t.Context(), example{headers: map[string]string{"x-api-key": key}, path: "/elsewhere"}.defaults().check())
		if err != nil || answer.GetStatus().GetCode() != want {
			t.Errorf("%s: %v, %v", key, answer.GetStatus(), err)
		}
	}
}

func TestConfig(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"lower case":    func(c *Config) { c.KeyHeaders = []string{"X-Api-Key"} },
		"authorization": func(c *Config) { c.KeyHeaders = []string{"authorization"} },
		"empty":         func(c *Config) { c.KeyParameters = []string{""} },
	} {
		cfg := DefaultConfig()
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func FuzzParameter(f *testing.F) {
	f.Add("a=1&api_key=x%20y", "api_key")
	f.Fuzz(func(t *testing.T, query, name string) {
		got := parameter(query, []string{name})
		values, err := url.ParseQuery(query)
		if err != nil || strings.Contains(query, ";") {
			return
		}
		want := ""
		for _, v := range values[name] {
			if v != "" {
				want = v
				break
			}
		}
		if got != want {
			t.Errorf("%q in %q: %q, want %q", name, query, got, want)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	s := newServer(b, func(_ *Config, d *Deps) { d.Clock = time.Now })
	for _, name := range []string{"key", "token of a client", "revoked"} {
		for _, e := range examples {
			if e.name != name {
				continue
			}
			in := e.defaults().check()
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := s.Check(b.Context(), in); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
