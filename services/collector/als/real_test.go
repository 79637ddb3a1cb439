package als_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"gopkg.in/yaml.v3"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/als"
	"github.com/tollway/tollway/services/collector/otlp"
	"github.com/tollway/tollway/services/collector/publish"
	"github.com/tollway/tollway/services/collector/served"
	"github.com/tollway/tollway/services/platform/testenv"
)

// collector is the three Envoy sources on one grpc server, as cmd wires them,
// with the calls kept per source.
type collector struct {
	addr string
	mu   sync.Mutex
	als  *call.Batch
	otlp *call.Batch
	// records are of the metrics sink; tokens what the streams authorized with.
	records []served.Served
	tokens  map[string]bool

	registry *prometheus.Registry
}

func (c *collector) AppendWait(_ context.Context, _ *publish.Delivery, call *call.Call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.als.Append(call)
	return nil
}

func (c *collector) Append(_ *publish.Delivery, call *call.Call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.otlp.Append(call)
	return nil
}

func (c *collector) Put(_ context.Context, records []served.Served) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records = append(c.records, records...)
	return nil
}

func (c *collector) counts() (als, otlp int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.als.Rows(), c.otlp.Rows()
}

func (c *collector) reports(t *testing.T) float64 {
	t.Helper()
	families, err := c.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "tollway_served_reports_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

func (c *collector) note(ctx context.Context) {
	md, _ := metadata.FromIncomingContext(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens[strings.Join(md.Get("authorization"), ",")] = true
}

// startCollector returns the collector and what stops it.
func startCollector(t *testing.T) (*collector, func()) {
	t.Helper()
	c := &collector{als: call.NewBatch(), otlp: call.NewBatch(), tokens: map[string]bool{}}
	trust := func(context.Context) bool { return true }
	registry := prometheus.NewRegistry()
	c.registry = registry
	cfg := als.DefaultConfig()
	cfg.DrainTimeout = 10 * time.Millisecond
	alsServer, err := als.New(cfg, als.Deps{Publisher: c, Trusted: trust, Metrics: registry, Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	otlpServer, err := otlp.New(otlp.DefaultConfig(), otlp.Deps{Publisher: c, Trusted: trust, Metrics: registry, Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	servedServer, err := served.New(served.DefaultConfig(), served.Deps{Sink: c, Metrics: registry, Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(append(als.ServerOptions(),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			c.note(ss.Context())
			return handler(srv, ss)
		}),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			c.note(ctx)
			return handler(ctx, req)
		}))...)
	alsServer.Register(server)
	otlpServer.Register(server)
	servedServer.Register(server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.addr = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := server.Serve(listener); err != nil {
			t.Error(err)
		}
	})
	for _, run := range []func(context.Context) error{alsServer.Run, servedServer.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			server.GracefulStop()
			running.Wait()
		})
	}
	t.Cleanup(stop)
	return c, stop
}

// config is a shipped configuration with free ports and the test's upstreams.
func config(t *testing.T, name string, collector, stable, canary string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "deploy", "envoy", name))
	if err != nil {
		t.Fatal(err)
	}
	port := func(addr string) string {
		_, p, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		return "port_value: " + p + "}"
	}
	text := string(b)
	for _, r := range [][2]string{
		{"address: 0.0.0.0, port_value: 8080}", "address: 127.0.0.1, port_value: 0}"},
		{"port_value: 9901}", "port_value: 0}"},
		{"port_value: 7601}", port(collector)},
		{"port_value: 9001}", port(stable)},
		{"port_value: 9002}", port(canary)},
		{"weight: 95}", "weight: 50}"},
		{"weight: 5}", "weight: 50}"},
	} {
		if !strings.Contains(text, r[0]) {
			t.Fatalf("%s has no %q", name, r[0])
		}
		text = strings.ReplaceAll(text, r[0], r[1])
	}
	return strings.ReplaceAll(text, "stats_flush_interval: 5s", "stats_flush_interval: 0.2s")
}

// withLoggerOf adds the access loggers of one configuration to another.
func withLoggerOf(t *testing.T, to, from string) string {
	t.Helper()
	logs := func(text string) (root map[string]any, manager map[string]any) {
		if err := yaml.Unmarshal([]byte(text), &root); err != nil {
			t.Fatal(err)
		}
		listener := root["static_resources"].(map[string]any)["listeners"].([]any)[0].(map[string]any)
		filter := listener["filter_chains"].([]any)[0].(map[string]any)["filters"].([]any)[0].(map[string]any)
		return root, filter["typed_config"].(map[string]any)
	}
	root, manager := logs(to)
	_, other := logs(from)
	manager["access_log"] = append(manager["access_log"].([]any), other["access_log"].([]any)...)
	b, err := yaml.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func upstream(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if strings.HasSuffix(r.URL.Path, "/missing") {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write(bytes.Repeat([]byte("x"), 1000))
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// row is what two sources should agree on about a call.
type row struct {
	Strings  [call.StringColumns]string
	Time     int64
	Path     string
	ClientIP string
	Status   uint16
	Attempts uint16
	Bytes    [2]int64
	Latency  [call.LatencyColumns]int64
}

func rowsOf(t *testing.T, b *call.Batch) map[call.ID]row {
	rows := map[call.ID]row{}
	for i, id := range b.ID {
		r := row{Time: b.Time[i], Path: b.Path.Value(i), ClientIP: b.ClientIP.Value(i), Status: b.Status[i],
			Attempts: b.Attempts[i], Bytes: [2]int64{b.RequestBytes[i], b.ResponseBytes[i]}}
		for s := range b.Strings {
			r.Strings[s] = b.Strings[s].Value(i)
		}
		for l := range b.Latency {
			r.Latency[l] = b.Latency[l][i]
		}
		if _, ok := rows[id]; ok {
			t.Errorf("id %v is there twice", id)
		}
		rows[id] = r
	}
	return rows
}

// TestRealEnvoyConfigs drives requests through a real Envoy with the shipped
// configurations, both loggers side by side.
func TestRealEnvoyConfigs(t *testing.T) {
	t.Setenv("TOLLWAY_TOKEN", "secret")
	t.Setenv("TOLLWAY_ENVIRONMENT", "prod")
	c, stop := startCollector(t)
	stable, canary := upstream(t), upstream(t)
	both := withLoggerOf(t, config(t, "envoy.yaml", c.addr, stable, canary), config(t, "otlp.yaml", c.addr, stable, canary))
	envoy := testenv.Envoy(t, both)
	// The second file as it stands has to start too.
	testenv.Envoy(t, config(t, "otlp.yaml", c.addr, stable, canary)).Stop(true)

	base := "http://" + envoy.ListenerAddr("http")
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	const each = 50
	for i := range 3 * each {
		path := []string{"/v1/orders/7?token=secret", "/v1/orders/missing", "/elsewhere"}[i%3]
		r, err := http.NewRequest(http.MethodPost, base+path, strings.NewReader("12345"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("User-Agent", "acme-sdk/1.0")
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		a, o := c.counts()
		if a >= 3*each && o >= 3*each {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d calls by the gRPC log, %d by OpenTelemetry, want %d", a, o, 3*each)
		}
		time.Sleep(10 * time.Millisecond)
	}
	// A report that is on its way may be older than the last call; the second
	// one after it is not.
	for seen := c.reports(t); c.reports(t) < seen+2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("Envoy's statistics did not come")
		}
	}
	envoy.Stop(true)
	stop()

	byALS, byOTLP := rowsOf(t, c.als), rowsOf(t, c.otlp)
	if len(byALS) != 3*each {
		t.Errorf("%d calls, want %d", len(byALS), 3*each)
	}
	if diff := cmp.Diff(comparable(byALS), comparable(byOTLP)); diff != "" {
		t.Errorf("the two logs differ (-gRPC +OpenTelemetry)\n%s", diff)
	}
	checkRows(t, byALS, each)
	if diff := cmp.Diff(map[string]bool{"Bearer secret": true}, c.tokens); diff != "" {
		t.Error(diff)
	}
	checkServed(t, c.records, 3*each)
}

// comparable leaves out what one of the logs cannot say: the environment of a
// variable, and durations to the microsecond, which each logger reads anew.
func comparable(rows map[call.ID]row) map[call.ID]row {
	out := map[call.ID]row{}
	for id, r := range rows {
		r.Strings[call.Environment] = ""
		for l := range r.Latency {
			r.Latency[l] = min(0, r.Latency[l])
		}
		out[id] = r
	}
	return out
}

func checkRows(t *testing.T, rows map[call.ID]row, each int) {
	t.Helper()
	type kind struct {
		status               uint16
		path, fault, flags   string
		api, route, upstream string
	}
	got := map[kind]int{}
	versions := map[string]int{}
	for _, r := range rows {
		s := r.Strings
		got[kind{r.Status, r.Path, s[call.Fault], s[call.Flags], s[call.API], s[call.Route], strings.TrimSuffix(strings.TrimSuffix(s[call.Upstream], "-stable"), "-canary")}]++
		versions[s[call.Version]]++
		if s[call.Gateway] != "edge-1" || s[call.Source] != "envoy/edge" || s[call.Region] != "eu" || s[call.Zone] != "eu-1a" ||
			s[call.Environment] != "prod" || s[call.Method] != "POST" || s[call.Protocol] != "HTTP/1.1" || s[call.UserAgent] != "acme-sdk" || r.ClientIP != "127.0.0.0" {
			t.Errorf("call %+v", r)
		}
		if r.Status == 200 {
			if r.Bytes[0] < 6 || r.Bytes[1] < 1001 || s[call.UpstreamHost] == "" || r.Attempts != 1 {
				t.Errorf("call %+v", r)
			}
			for l, us := range r.Latency {
				if us < 0 || us > 10_000_000 {
					t.Errorf("%v is %d", call.LatencyColumn(l), us)
				}
			}
		}
	}
	want := map[kind]int{
		{200, "/v1/orders/7", "none", "", "orders", "orders-v1", "orders"}:         each,
		{404, "/v1/orders/missing", "client", "", "orders", "orders-v1", "orders"}: each,
		{404, "/elsewhere", "gateway", "NR", "", "", ""}:                           each,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if versions["v1"] == 0 || versions["v2"] == 0 || versions["v1"]+versions["v2"] != 2*each {
		t.Errorf("versions %v", versions)
	}
}

func checkServed(t *testing.T, records []served.Served, want uint64) {
	t.Helper()
	if len(records) == 0 {
		t.Fatal("Envoy's statistics did not come")
	}
	last := records[len(records)-1]
	if last.Node != "edge-1" || last.Prefix != "edge" || last.Total != want || last.Active != 0 || last.LogsWritten != want || last.LogsDropped != 0 {
		t.Errorf("the last record is %+v, want %d calls", last, want)
	}
}
