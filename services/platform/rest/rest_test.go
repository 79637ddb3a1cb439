package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/platform/auth"
	"github.com/tollway/tollway/services/platform/certs"
	"github.com/tollway/tollway/services/platform/certs/certstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// catalog answers with what it was asked and by whom.
type catalog struct {
	catalogv1.UnimplementedCatalogServer
	mu   sync.Mutex
	seen metadata.MD
}

func (c *catalog) GetApp(ctx context.Context, r *catalogv1.GetAppRequest) (*catalogv1.App, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	c.mu.Lock()
	c.seen = md
	c.mu.Unlock()
	p, _ := auth.FromContext(ctx)
	return &catalogv1.App{Name: r.Name, DisplayName: p.Name}, nil
}

func (*catalog) UpdateApp(_ context.Context, r *catalogv1.UpdateAppRequest) (*catalogv1.App, error) {
	return r.App, nil
}

func (*catalog) ListProducts(context.Context, *catalogv1.ListProductsRequest) (*catalogv1.ListProductsResponse, error) {
	s, err := status.New(codes.InvalidArgument, "page_size: must not be negative").WithDetails(
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "page_size", Description: "must not be negative"}}})
	if err != nil {
		return nil, err
	}
	return nil, s.Err()
}

func (*catalog) Register(context.Context, *catalogv1.RegisterRequest) (*catalogv1.RegisterResponse, error) {
	return &catalogv1.RegisterResponse{}, nil
}

func (*catalog) CreateProduct(_ context.Context, r *catalogv1.CreateProductRequest) (*catalogv1.Product, error) {
	return &catalogv1.Product{Description: fmt.Sprint(len(r.Product.GetDescription()))}, nil
}

type fixture struct {
	service *catalog
	gateway *Gateway
	http    *httptest.Server
	grpc    string
}

var tokens = map[string]auth.Principal{
	"admin": {Name: "root", Role: auth.Admin},
	"acme":  {Name: "acme", Role: auth.Consumer, Account: "acme"},
}

func start(t testing.TB, network credentials.TransportCredentials, web *certs.Files) *fixture {
	t.Helper()
	chain := auth.NewChain(prometheus.NewRegistry(), auth.Static(tokens),
		auth.Certificates([]auth.Certificate{{Name: "spiffe://prod/acme", Role: auth.Consumer, Account: "acme"}}))
	both := []auth.Role{auth.Admin, auth.Consumer}
	guard, err := auth.NewGuard(chain, auth.Rules{
		catalogv1.Catalog_GetApp_FullMethodName:        {Roles: both, OwnAccount: true},
		catalogv1.Catalog_UpdateApp_FullMethodName:     {Roles: both, OwnAccount: true},
		catalogv1.Catalog_ListProducts_FullMethodName:  {Roles: both, SelfScoped: true},
		catalogv1.Catalog_CreateProduct_FullMethodName: {Roles: []auth.Role{auth.Admin}},
		catalogv1.Catalog_Register_FullMethodName:      {Roles: []auth.Role{auth.Anyone}},
	})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{service: &catalog{}}
	if f.gateway, err = New(guard); err != nil {
		t.Fatal(err)
	}
	if err := f.gateway.Register(t.Context(), catalogv1.RegisterCatalogHandler); err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(Credentials(network)), grpc.UnaryInterceptor(guard.Unary()), grpc.StreamInterceptor(guard.Stream()), grpc.MaxRecvMsgSize(64<<20))
	catalogv1.RegisterCatalogServer(server, f.service)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.grpc = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(listener) })
	wg.Go(func() {
		if err := f.gateway.Serve(ctx, server); err != nil {
			t.Error(err)
		}
	})
	f.http = httptest.NewUnstartedServer(f.gateway)
	if web != nil {
		f.http.TLS = web.Server()
		f.http.StartTLS()
	} else {
		f.http.Start()
	}
	t.Cleanup(func() {
		f.http.Close()
		cancel()
		wg.Wait()
		if err := f.gateway.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) call(t testing.TB, method, path, token, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, f.http.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	answer, err := f.http.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(text)
}

func TestCalls(t *testing.T) {
	f := start(t, insecure.NewCredentials(), nil)
	for _, tc := range []struct {
		method, path, token, body string
		code                      int
		want                      string
	}{
		{"GET", "/v1/accounts/acme/apps/x", "acme", "", 200, `"name":"accounts/acme/apps/x"`},
		{"GET", "/v1/accounts/hooli/apps/x", "admin", "", 200, `"display_name":"root"`},
		{"GET", "/v1/accounts/hooli/apps/x", "acme", "", 403, `"detail":"a consumer may reach its own account only"`},
		{"GET", "/v1/accounts%2Fhooli/apps/x", "acme", "", 403, `"code":"PermissionDenied"`},
		{"GET", "/v1/accounts/hooli%2Fapps/apps/x", "acme", "", 404, ""},
		{"GET", "/v1/accounts/acme/../hooli/apps/x", "acme", "", 400, `"title":"Malformed path"`},
		{"GET", "/v1/accounts/acme/apps/x?name=accounts/hooli/apps/x", "acme", "", 200, `"name":"accounts/acme/apps/x"`},
		{"PATCH", "/v1/accounts/acme/apps/x", "acme", `{"name":"accounts/hooli/apps/x","description":"mine"}`, 200, `"name":"accounts/acme/apps/x"`},
		{"PATCH", "/v1/accounts/hooli/apps/x", "acme", `{"name":"accounts/acme/apps/x"}`, 403, "own account only"},
		{"PATCH", "/v1/accounts/acme/apps/x", "acme", `{"labels":{"twin":"accounts/hooli/apps/x"}}`, 403, "own account only"},
		{"GET", "/v1/accounts/acme/apps/x", "", "", 401, `"status":401`},
		{"GET", "/v1/accounts/acme/apps/x", "guess", "", 401, `"title":"Unauthorized"`},
		{"POST", "/v1/products", "acme", `{}`, 403, "role consumer may not call"},
		{"GET", "/v1/products?page_size=-1", "acme", "", 400, `"violations":[{"description":"must not be negative","field":"page_size"}]`},
		{"POST", "/v1/accounts:register", "", `{}`, 200, "{"},
		{"POST", "/v1/products", "admin", `{"produkt":1}`, 400, `unknown field`},
		{"GET", "/v1/nothing", "admin", "", 404, `"detail":"there is no GET /v1/nothing"`},
		{"PUT", "/v1/products", "admin", "", 405, `"status":405`},
		{"POST", "/v1/accounts/hooli/apps/x", "acme", "", 405, ""},
	} {
		answer, text := f.call(t, tc.method, tc.path, tc.token, tc.body)
		if answer.StatusCode != tc.code || !strings.Contains(text, tc.want) {
			t.Errorf("%s %s as %q: %d %s", tc.method, tc.path, tc.token, answer.StatusCode, text)
		}
		if tc.code >= 400 && answer.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s is answered with %s", tc.method, tc.path, answer.Header.Get("Content-Type"))
		}
		if (answer.StatusCode == http.StatusUnauthorized) != (answer.Header.Get("WWW-Authenticate") == `Bearer realm="tollway"`) {
			t.Errorf("%s %s: WWW-Authenticate is %q", tc.method, tc.path, answer.Header.Get("WWW-Authenticate"))
		}
	}
}

// Nothing that a caller sends in headers is taken for what the process knows.
func TestForgedHeaders(t *testing.T) {
	f := start(t, insecure.NewCredentials(), nil)
	forged := []string{
		"Grpc-Metadata-Authorization", "Bearer admin",
		"Grpc-Metadata-Tollway-Caller-Name", "spiffe://prod/acme", "Tollway-Caller-Name", "spiffe://prod/acme",
		"Grpc-Metadata-Tollway-Caller-Address", "192.0.2.1:1", "Tollway-Caller-Address", "192.0.2.1:1",
		"X-Http-Method-Override", "GET",
	}
	if answer, text := f.call(t, "GET", "/v1/accounts/acme/apps/x", "", "", forged...); answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("%d %s", answer.StatusCode, text)
	}
	if answer, text := f.call(t, "GET", "/v1/accounts/acme/apps/x", "acme", "", append(forged, "Authorization", "Bearer admin")...); answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("two tokens: %d %s", answer.StatusCode, text)
	}
	answer, text := f.call(t, "GET", "/v1/accounts/acme/apps/x", "acme", "", forged...)
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", answer.StatusCode, text)
	}
	f.service.mu.Lock()
	defer f.service.mu.Unlock()
	if address := f.service.seen.Get("tollway-caller-address"); len(address) != 1 || !strings.HasPrefix(address[0], "127.0.0.1:") {
		t.Errorf("the caller's address is %q", address)
	}
	if names := f.service.seen.Get("tollway-caller-name"); len(names) != 0 {
		t.Errorf("the caller's names are %q", names)
	}

	// Over the network the same headers are nothing.
	conn, err := grpc.NewClient(f.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "tollway-caller-name", "spiffe://prod/acme", "tollway-caller-address", "192.0.2.1:1")
	_, err = catalogv1.NewCatalogClient(conn).GetApp(ctx, &catalogv1.GetAppRequest{Name: "accounts/acme/apps/x"})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("a certificate that is only told of: %v", err)
	}
}

func TestLockOut(t *testing.T) {
	f := start(t, insecure.NewCredentials(), nil)
	for n := 0; ; n++ {
		answer, text := f.call(t, "GET", "/v1/accounts/acme/apps/x", fmt.Sprint("guess", n), "")
		if answer.StatusCode == http.StatusUnauthorized && n < 20 {
			continue
		}
		if answer.StatusCode != http.StatusTooManyRequests || answer.Header.Get("Retry-After") != "60" || !strings.Contains(text, "too many failed attempts") {
			t.Errorf("after %d guesses: %d %v %s", n, answer.StatusCode, answer.Header, text)
		}
		break
	}
	if answer, text := f.call(t, "GET", "/v1/accounts/acme/apps/x", "acme", ""); answer.StatusCode != http.StatusOK {
		t.Errorf("a good token: %d %s", answer.StatusCode, text)
	}
}

func TestBodies(t *testing.T) {
	f := start(t, insecure.NewCredentials(), nil)
	product := func(size int) string {
		return `{"description":"` + strings.Repeat("x", size) + `"}`
	}
	for _, tc := range []struct {
		token string
		size  int
		code  int
	}{
		{"admin", maxStrangers, 200}, {"admin", 8 << 20, 200}, {"admin", maxBody, 413},
		{"", maxStrangers, 401}, {"guess", maxStrangers, 401}, {"", 10, 401},
	} {
		if answer, text := f.call(t, "POST", "/v1/products", tc.token, product(tc.size)); answer.StatusCode != tc.code {
			t.Errorf("%d bytes as %q: %d %.200s", tc.size, tc.token, answer.StatusCode, text)
		}
	}
	// Without a length, it is read no further than allowed, and by strangers not at all.
	for token, code := range map[string]int{"admin": 413, "": 401} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.http.URL+"/v1/products", io.MultiReader(strings.NewReader(product(maxBody))))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		answer, err := f.http.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != code {
			t.Errorf("as %q: %d", token, answer.StatusCode)
		}
	}
}

func TestTLS(t *testing.T) {
	ca := certstest.NewAuthority(t)
	cert, key := ca.Issue(t, "127.0.0.1")
	clientCert, clientKey := ca.Issue(t, "spiffe://prod/acme")
	listen := certs.Config{CertFile: cert, KeyFile: key, ClientCAFile: ca.File, RequireClientCert: true}
	network, err := certs.Open(listen, zerolog.Nop(), "h2")
	if err != nil {
		t.Fatal(err)
	}
	web, err := certs.Open(listen, zerolog.Nop(), "h2", "http/1.1")
	if err != nil {
		t.Fatal(err)
	}
	f := start(t, credentials.NewTLS(network.Server()), web)
	client, err := certs.Client(certs.ClientConfig{CAFile: ca.File, CertFile: clientCert, KeyFile: clientKey})
	if err != nil {
		t.Fatal(err)
	}

	// The certificate is the caller, over gRPC and over HTTP.
	conn, err := grpc.NewClient(f.grpc, grpc.WithTransportCredentials(credentials.NewTLS(client.Clone())))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	app, err := catalogv1.NewCatalogClient(conn).GetApp(t.Context(), &catalogv1.GetAppRequest{Name: "accounts/acme/apps/x"})
	if err != nil || app.DisplayName != "spiffe://prod/acme" {
		t.Errorf("over gRPC: %v %v", app, err)
	}
	_, err = catalogv1.NewCatalogClient(conn).GetApp(t.Context(), &catalogv1.GetAppRequest{Name: "accounts/hooli/apps/x"})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("a foreign account over gRPC: %v", err)
	}
	for _, protocols := range []string{"h2", "http/1.1"} {
		cfg := client.Clone()
		cfg.NextProtos = []string{protocols}
		transport := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: protocols == "h2"}
		f.http.Client().Transport = transport
		answer, text := f.call(t, "GET", "/v1/accounts/acme/apps/x", "", "")
		if answer.StatusCode != http.StatusOK || !strings.Contains(text, `"display_name":"spiffe://prod/acme"`) {
			t.Errorf("over %s: %d %s", answer.Proto, answer.StatusCode, text)
		}
		if answer, _ := f.call(t, "GET", "/v1/accounts/hooli/apps/x", "", ""); answer.StatusCode != http.StatusForbidden {
			t.Errorf("a foreign account: %d", answer.StatusCode)
		}
		transport.CloseIdleConnections()
	}

	plain, err := grpc.NewClient(f.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := catalogv1.NewCatalogClient(plain).Register(t.Context(), &catalogv1.RegisterRequest{}); err == nil {
		t.Error("a connection without TLS is served")
	}
}

func TestJSON(t *testing.T) {
	text, err := JSON().Marshal(&catalogv1.App{DisplayName: "x"})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil || got["display_name"] != "x" || got["disabled"] != false {
		t.Errorf("%s %v", text, err)
	}
}

func BenchmarkCall(b *testing.B) {
	f := start(b, insecure.NewCredentials(), nil)
	r := httptest.NewRequest(http.MethodGet, "/v1/accounts/acme/apps/x", nil)
	r.Header.Set("Authorization", "Bearer acme")
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		f.gateway.ServeHTTP(w, r)
		if w.Code != 200 {
			b.Fatal(w.Code, w.Body)
		}
	}
}
