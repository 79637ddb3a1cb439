package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

var (
	adminP    = Principal{Name: "root", Role: Admin}
	gatewayP  = Principal{Name: "edge", Role: Gateway}
	consumerP = Principal{Name: "acme", Role: Consumer, Account: "acme", TokenName: "acme"}
)

func testTokens(t *testing.T) (*Tokens, string) {
	t.Helper()
	dir := t.TempDir()
	if err := FirstStart(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, TokensFile)
	tokens, err := OpenTokens(path, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	return tokens, path
}

func TestFirstStart(t *testing.T) {
	dir := t.TempDir()
	read := func(name string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", name, info.Mode(), err)
		}
		return string(b)
	}
	if err := FirstStart(dir); err != nil {
		t.Fatal(err)
	}
	admin, gateway, file := read("admin.token"), read("gateway.token"), read(TokensFile)
	if !regexp.MustCompile(`^tw_adm_[0-9a-zA-Z]{27}\n$`).MatchString(admin) || !strings.HasPrefix(gateway, "tw_gw_") {
		t.Errorf("tokens %q %q", admin, gateway)
	}
	if strings.Contains(file, strings.TrimSpace(admin)) || strings.Contains(file, strings.TrimSpace(gateway)) {
		t.Error("a token stands in the file of hashes")
	}
	if err := FirstStart(dir); err != nil || read("admin.token") != admin || read(TokensFile) != file {
		t.Errorf("a second start changes the tokens: %v", err)
	}
	// A start that was cut short before the file of hashes was written.
	if err := os.Remove(filepath.Join(dir, TokensFile)); err != nil {
		t.Fatal(err)
	}
	if err := FirstStart(dir); err != nil || read("admin.token") != admin {
		t.Errorf("the token that was shown is void after an interrupted start: %v", err)
	}
	tokens, err := OpenTokens(filepath.Join(dir, TokensFile), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	if p, err := tokens.Authenticate(context.Background(), strings.TrimSpace(admin)); err != nil || p.Role != Admin {
		t.Errorf("%v %v", p, err)
	}
}

func TestTokensFollowTheFile(t *testing.T) {
	var out bytes.Buffer
	tokens, path := testTokens(t)
	tokens.log = zerolog.New(&out)
	clock := time.Now()
	tokens.now = func() time.Time { return clock }
	ctx := context.Background()
	token, err := CreateToken(path, Token{Name: "acme", Role: Consumer, Account: "accounts/acme", Expires: clock.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	is := func(want bool) {
		t.Helper()
		clock = clock.Add(recheck)
		p, err := tokens.Authenticate(ctx, token)
		if want && (err != nil || !cmp.Equal(p, consumerP)) || !want && !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("got %v, %v", p, err)
		}
	}
	is(true)
	if err := os.WriteFile(path, []byte("tokens: [{name: x, role: king}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	is(true) // a broken file changes nothing
	if !strings.Contains(out.String(), `role is \"king\"`) || strings.Contains(out.String(), token) {
		t.Errorf("log: %s", out.String())
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := FirstStart(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	is(false)
	token, err = CreateToken(path, Token{Name: "acme", Role: Consumer, Account: "accounts/acme", Expires: clock.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	is(true)
	clock = clock.Add(time.Hour)
	is(false)
	clock = clock.Add(-time.Hour)
	is(true)
	if err := RevokeToken(path, "acme"); err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(time.Minute)
	is(false)
	if err := RevokeToken(path, "acme"); err == nil {
		t.Error("a token was revoked twice")
	}
}

func TestBadTokens(t *testing.T) {
	_, path := testTokens(t)
	for _, tc := range []struct {
		token Token
		want  string
	}{
		{Token{Name: "admin", Role: Finance}, `token name "admin" is empty or used twice`},
		{Token{Role: Finance}, `token name "" is empty or used twice`},
		{Token{Name: "x", Role: "king"}, `role is "king", must be admin, product_manager, finance, gateway or consumer`},
		{Token{Name: "x", Role: Consumer}, "token x: an account belongs to a consumer's token and to no other"},
		{Token{Name: "x", Role: Admin, Account: "a"}, "token x: an account belongs to a consumer's token and to no other"},
		{Token{Name: "x", Role: Admin, Scopes: []string{"reports"}}, `token x: scope is "reports", must be like reports.read`},
	} {
		if token, err := CreateToken(path, tc.token); err == nil || err.Error() != tc.want || token != "" {
			t.Errorf("%+v: %q %v", tc.token, token, err)
		}
	}
	for _, text := range []string{"tokens: [{name: a, role: admin, hash: 'sha256:00'}]", "tokens: [{name: a, role: admin, hash: md5}]", "tokenz: []", "tokens: 3"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenTokens(path, zerolog.Nop()); err == nil {
			t.Errorf("%s was accepted", text)
		}
	}
}

func only(roles ...Role) Rule { return Rule{Roles: roles} }

func TestRules(t *testing.T) {
	g, err := NewGuard(Static(map[string]Principal{"a": adminP, "g": gatewayP, "r": {Role: Admin, Scopes: []string{"svc.read"}}}), Rules{
		"/svc/*": only(Admin), "/svc/Read": {Roles: []Role{Admin, Gateway}, Scope: "svc.read"}, "/svc/Re*": only(Gateway), "/open/*": only(Anyone),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		call, token string
		want        error
	}{
		{"/svc/Write", "a", nil}, {"/svc/Write", "g", errForbidden}, {"/svc/Write", "r", errForbidden},
		{"/svc/Read", "g", nil}, {"/svc/Read", "a", nil}, {"/svc/Read", "r", nil},
		{"/svc/Reset", "g", nil}, {"/svc/Reset", "a", errForbidden},
		{"/open/x", "", nil}, {"/none/x", "a", errForbidden},
		{"/none/x", "", ErrUnauthenticated}, {"/svc/Read", "", ErrUnauthenticated}, {"/svc/Read", strings.Repeat("a", 4096), ErrUnauthenticated},
	} {
		if _, _, err := g.admit(context.Background(), tc.call, tc.token); !errors.Is(err, tc.want) {
			t.Errorf("%s with %.4q: %v, want %v", tc.call, tc.token, err, tc.want)
		}
		p, err := g.auth.Authenticate(context.Background(), tc.token)
		if allowed := g.Allowed(tc.call, p); err == nil && allowed != (tc.want == nil) {
			t.Errorf("%s with %.4q: allowed is %v", tc.call, tc.token, allowed)
		}
	}
	for key, rule := range map[string]Rule{
		"svc": only(Admin), "get /x": only(Admin), "/a/*/b": only(Admin), "/x": {}, "/y": only("king"), "/z": {Roles: []Role{Admin}, Scope: "everything"},
		"/c/Neither": only(Consumer), "/c/Both": {Roles: []Role{Consumer}, OwnAccount: true, SelfScoped: true},
		"/c/*": {Roles: []Role{Consumer}, OwnAccount: true}, "GET /c": {Roles: []Role{Consumer}, OwnAccount: true},
	} {
		if _, err := NewGuard(nil, Rules{key: rule}); err == nil {
			t.Errorf("rule %q %v was accepted", key, rule)
		}
	}
	if got := (Rules{"/a/B": {Scope: "b.read"}, "/a/C": {Scope: "a.read"}, "/a/D": {Scope: "b.read"}, "/a/E": {}}).Scopes(); !cmp.Equal(got, []string{"a.read", "b.read"}) {
		t.Errorf("scopes %v", got)
	}
}

func TestHTTP(t *testing.T) {
	tokens, path := testTokens(t)
	consumer, err := CreateToken(path, Token{Name: "acme", Role: Consumer, Account: "accounts/acme"})
	if err != nil {
		t.Fatal(err)
	}
	tokens.next.Store(0)
	g, err := NewGuard(NewChain(prometheus.NewRegistry(), tokens), Rules{
		"GET /v1/usage*": {Roles: []Role{Consumer}, SelfScoped: true}, "POST /v1/events": only(Gateway), "GET /healthz": only(Anyone),
	})
	if err != nil {
		t.Fatal(err)
	}
	h := g.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := FromContext(r.Context())
		_ = json.NewEncoder(w).Encode(p)
	}))
	call := func(method, target, authorization string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, target, nil)
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if strings.Contains(w.Body.String(), consumer) {
			t.Error("the token is in the answer")
		}
		return w
	}
	for _, tc := range []struct {
		method, target, authorization string
		code                          int
		body                          string
	}{
		{"GET", "/v1/usage?x=1", "Bearer " + consumer, 200, `"Account":"acme"`},
		{"GET", "/v1/usage/", "bearer  " + consumer, 200, `"Name":"acme"`},
		{"GET", "/healthz", "", 200, `"Name":""`},
		{"GET", "/v1/usage", "", 401, `"title":"Unauthorized"`},
		{"GET", "/v1/usage", "Basic " + consumer, 401, `"status":401`},
		{"POST", "/v1/events", "Bearer " + consumer, 403, `"detail":"role consumer may not call POST /v1/events"`},
		{"DELETE", "/v1/usage", "Bearer " + consumer, 403, `no rule allows DELETE /v1/usage`},
		{"GET", "/v1/usage/../events", "Bearer " + consumer, 400, `"title":"Malformed path"`},
		{"GET", "/v1/usage%2F..%2Fevents", "Bearer " + consumer, 400, `"title":"Malformed path"`},
	} {
		w := call(tc.method, tc.target, tc.authorization)
		if w.Code != tc.code || !strings.Contains(w.Body.String(), tc.body) {
			t.Errorf("%s %s: %d %s", tc.method, tc.target, w.Code, w.Body)
		}
		if (w.Code == 401) != (w.Header().Get("WWW-Authenticate") == `Bearer realm="tollway"`) {
			t.Errorf("%s %s: WWW-Authenticate is %q", tc.method, tc.target, w.Header().Get("WWW-Authenticate"))
		}
	}
	for range failuresAllowed {
		call("GET", "/v1/usage", "Bearer tw_con_x")
	}
	if w := call("GET", "/v1/usage", "Bearer tw_con_x"); w.Code != 429 || w.Header().Get("Retry-After") != "60" {
		t.Errorf("locked out: %d %v", w.Code, w.Header())
	}
}

func TestGRPC(t *testing.T) {
	const check, watch = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
	g, err := NewGuard(Static(map[string]Principal{"a": adminP, "g": gatewayP}), Rules{check: only(Admin), watch: only(Admin)})
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.InTapHandle(g.Tap()), grpc.UnaryInterceptor(g.Unary()), grpc.StreamInterceptor(g.Stream()))
	healthpb.RegisterHealthServer(srv, health.NewServer())
	if bare, _ := NewGuard(nil, Rules{check: only(Admin)}); !cmp.Equal(bare.Missing(srv), []string{"/grpc.health.v1.Health/List", watch}) {
		t.Errorf("methods without a rule: %v", bare.Missing(srv))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	defer func() { srv.Stop(); <-done }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := healthpb.NewHealthClient(conn)
	for _, tc := range []struct {
		header []string
		want   codes.Code
	}{
		{[]string{"Bearer a"}, codes.OK}, {[]string{"Bearer g"}, codes.PermissionDenied}, {[]string{"Bearer x"}, codes.Unauthenticated},
		{nil, codes.Unauthenticated}, {[]string{"Bearer a", "Bearer g"}, codes.Unauthenticated},
	} {
		ctx := context.Background()
		for _, h := range tc.header {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", h)
		}
		if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); status.Code(err) != tc.want {
			t.Errorf("unary with %v: %v", tc.header, err)
		}
		stream, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != tc.want {
			t.Errorf("stream with %v: %v", tc.header, err)
		}
		if _, err := client.List(ctx, &healthpb.HealthListRequest{}); err == nil {
			t.Error("a method without a rule was let through")
		}
	}
}

// What a stranger sends is not read: here it would be too large for a caller who
// is known.
func TestStrangersAreNotRead(t *testing.T) {
	const check, list = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List"
	anyone := Rule{Roles: []Role{Anyone}}
	g, err := NewGuard(Static(map[string]Principal{"a": adminP, "g": gatewayP}), Rules{check: only(Admin), list: anyone})
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.InTapHandle(g.Tap()), grpc.UnaryInterceptor(g.Unary()), grpc.MaxRecvMsgSize(1000))
	healthpb.RegisterHealthServer(srv, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	defer func() { srv.Stop(); <-done }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := healthpb.NewHealthClient(conn)
	large := &healthpb.HealthCheckRequest{Service: strings.Repeat("x", 2000)}
	for header, want := range map[string]codes.Code{
		"Bearer a": codes.ResourceExhausted, "Bearer g": codes.PermissionDenied, "Bearer x": codes.Unauthenticated, "": codes.Unauthenticated,
	} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", header)
		if _, err := client.Check(ctx, large); status.Code(err) != want {
			t.Errorf("%q: got %v, want %s", header, err, want)
		}
	}
	if _, err := client.List(t.Context(), &healthpb.HealthListRequest{}); err != nil {
		t.Errorf("what anyone may call: %v", err)
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	tokens, path := testTokens(t)
	b, err := os.ReadFile(filepath.Join(filepath.Dir(path), "gateway.token"))
	if err != nil {
		t.Fatal(err)
	}
	token, ctx := strings.TrimSpace(string(b)), context.Background()
	now := time.Now()
	tokens.now = func() time.Time { return now }
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := tokens.Authenticate(ctx, token); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per call", n)
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	dir := b.TempDir()
	if err := FirstStart(dir); err != nil {
		b.Fatal(err)
	}
	tokens, err := OpenTokens(filepath.Join(dir, TokensFile), zerolog.Nop())
	if err != nil {
		b.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "gateway.token"))
	if err != nil {
		b.Fatal(err)
	}
	token, ctx := strings.TrimSpace(string(text)), context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tokens.Authenticate(ctx, token); err != nil {
			b.Fatal(err)
		}
	}
}
