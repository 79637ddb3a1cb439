package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tollway/tollway/services/platform/admin"
	"github.com/tollway/tollway/services/platform/certs"
	"github.com/tollway/tollway/services/platform/certs/certstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a server on a free port and returns its base address.
func start(t *testing.T, change func(*admin.Config)) (*admin.Server, *prometheus.Registry, string) {
	t.Helper()
	cfg := admin.DefaultConfig()
	cfg.Listen = "127.0.0.1:0"
	if change != nil {
		change(&cfg)
	}
	reg := prometheus.NewRegistry()
	s, err := admin.New(cfg, reg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	addr, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait(); http.DefaultClient.CloseIdleConnections() })
	return s, reg, "http://" + addr.String()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestPaths(t *testing.T) {
	_, reg, base := start(t, nil)
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "tollway_test_things_total"})
	reg.MustRegister(c)
	c.Add(3)
	for _, tc := range []struct {
		path string
		code int
		want string
	}{
		{"/metrics", 200, "tollway_test_things_total 3"},
		{"/healthz", 200, `{"state":"live"}`},
		{"/readyz", 200, `{"checks":{},"state":"ready"}`},
		{"/debug/pprof/", 404, ""},
		{"/other", 404, ""},
	} {
		if code, body := get(t, base+tc.path); code != tc.code || !strings.Contains(body, tc.want) {
			t.Errorf("%s answered %d %s", tc.path, code, body)
		}
	}
	_, _, profiled := start(t, func(c *admin.Config) { c.Pprof = true })
	if code, body := get(t, profiled+"/debug/pprof/goroutine?debug=1"); code != 200 || !strings.Contains(body, "goroutine profile") {
		t.Errorf("profiles answered %d %.60s", code, body)
	}
}

func TestTLS(t *testing.T) {
	ca := certstest.NewAuthority(t)
	cert, key := ca.Issue(t, "127.0.0.1")
	_, _, plain := start(t, func(c *admin.Config) {
		c.TLS = certs.Config{CertFile: cert, KeyFile: key, ClientCAFile: ca.File, RequireClientCert: true}
	})
	url := strings.Replace(plain, "http:", "https:", 1) + "/healthz"
	for _, tc := range []struct {
		files certs.ClientConfig
		ok    bool
	}{
		{certs.ClientConfig{}, false}, {certs.ClientConfig{CAFile: ca.File}, false},
		{certs.ClientConfig{CAFile: ca.File, CertFile: cert, KeyFile: key}, true},
	} {
		cfg, err := certs.Client(tc.files)
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{TLSClientConfig: cfg}
		res, err := (&http.Client{Transport: transport}).Get(url)
		if err == nil {
			res.Body.Close()
		}
		transport.CloseIdleConnections()
		if ok := err == nil && res.StatusCode == http.StatusOK; ok != tc.ok {
			t.Errorf("%+v: %v", tc.files, err)
		}
	}
	if code, _ := get(t, plain+"/healthz"); code != http.StatusBadRequest {
		t.Errorf("a plain request is answered with %d", code)
	}
	if _, err := admin.New(admin.Config{Listen: "127.0.0.1:0", CheckTimeout: 1, TLS: certs.Config{CertFile: "none", KeyFile: "none"}}, prometheus.NewRegistry(), zerolog.Nop()); err == nil {
		t.Error("a port without its certificate was made")
	}
}

func TestReadiness(t *testing.T) {
	s, _, base := start(t, func(c *admin.Config) { c.CheckTimeout = 50 * time.Millisecond })
	s.AddCheck("kafka", func(context.Context) error { return nil })
	s.AddCheck("clickhouse", func(context.Context) error { return errors.New("connection refused") })
	s.AddCheck("slow", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	code, body := get(t, base+"/readyz")
	var got struct {
		State  string
		Checks map[string]admin.CheckResult
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]admin.CheckResult{
		"kafka":      {State: "ready"},
		"clickhouse": {State: "not_ready", Reason: "connection refused"},
		"slow":       {State: "not_ready", Reason: "context deadline exceeded"},
	}
	if code != 503 || got.State != "not_ready" || len(got.Checks) != len(want) {
		t.Fatalf("%d %s", code, body)
	}
	for name, w := range want {
		if got.Checks[name] != w {
			t.Errorf("%s: %+v", name, got.Checks[name])
		}
	}
	if code, _ := get(t, base+"/healthz"); code != 200 {
		t.Errorf("a process that is not ready is still live, got %d", code)
	}
}

func TestGRPCHealth(t *testing.T) {
	s, _, _ := start(t, nil)
	srv := grpc.NewServer()
	run := s.RegisterHealth(srv)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	wg.Go(func() { _ = run(ctx) })
	defer wg.Wait()
	defer srv.Stop()
	defer cancel()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for {
		res, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if res.Status == healthpb.HealthCheckResponse_SERVING {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func TestValidate(t *testing.T) {
	err := admin.Config{Listen: "9100"}.Validate()
	if want := "listen is \"9100\", must be host:port\ncheck_timeout is 0s, must be above zero"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}
