package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"gopkg.in/yaml.v3"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/served"
	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// realPlant is a real broker, the engine, and the services in this process:
// what a small site runs, as `tollway serve` wires it.
type realPlant struct {
	t       *testing.T
	data    string // data folder of the services
	logs    string // folder of Envoy's access logs
	notes   string // folder of logs that no service reads
	cfg     Config
	db      *clickhouse.DB
	admin   string
	gateway string
	// stop ends the services in order and waits for them.
	stop func()
}

// onPlants runs a test on a real broker, with the embedded engine and with a
// cluster of two shards.
func onPlants(t *testing.T, test func(t *testing.T, p *realPlant)) {
	t.Run("one engine", func(t *testing.T) { test(t, startPlant(t, testenv.Kafka(t, 1).Addrs(), nil)) })
	t.Run("two shards", func(t *testing.T) {
		brokers := testenv.Kafka(t, 1).Addrs() // or the test is skipped
		cluster := testenv.ClusterConfig(t)
		test(t, startPlant(t, brokers, &cluster))
	})
}

// startPlant starts everything, with an engine of its own unless it is given a
// cluster. Each of the three sources of Envoy's log has its own name, so that
// reports can tell them apart.
func startPlant(t *testing.T, brokers []string, cluster *clickhouse.Config) *realPlant {
	t.Helper()
	p := &realPlant{t: t, data: t.TempDir(), logs: t.TempDir(), notes: t.TempDir()}
	ports := quietPorts(t, 3)
	file := filepath.Join(t.TempDir(), "tollway.yaml")
	text := fmt.Sprintf(`
listen: {grpc: "127.0.0.1:%d", http: "127.0.0.1:%d", admin: "127.0.0.1:%d"}
kafka: {brokers: [%q], partitions: 4}
als: {source: als}
otlp: {source: otlp}
collector:
  files:
    checkpoint: %s
    envoy: {source: file}
    files:
    - {path: %s, node: edge-1, cluster: edge, region: eu, zone: eu-1a, trusted: true}
`, ports[0], ports[1], ports[2], brokers[0], filepath.Join(p.data, "files.json"), filepath.Join(p.logs, "*.log"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.cfg, err = (&processFlags{config: file, data: p.data}).load(false); err != nil {
		t.Fatal(err)
	}
	if cluster != nil {
		reader := testenv.AsReader(*cluster, testenv.Engine(t))
		p.cfg.ClickHouse = ClickHouse{Config: *cluster, ReaderUsername: reader.Username, ReaderPassword: reader.Password}
	}
	stores, err := startEmbedded(t.Context(), &p.cfg, p.data, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stores.close)
	p.start()
	t.Cleanup(func() { p.stop() })
	p.db = testenv.Open(t, p.cfg.ClickHouse.AllShards())
	return p
}

// start runs the services until stop is called, and waits until they answer.
func (p *realPlant) start() {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	log := zerolog.New(zerolog.NewTestWriter(p.t)).Level(zerolog.WarnLevel)
	go func() {
		done <- serve(ctx, p.cfg, p.data, log, serviceNames(), func(context.Context) error { return nil })
	}()
	p.stop = sync.OnceFunc(func() {
		p.t.Helper()
		cancel()
		select {
		case err := <-done:
			if err != nil && !errors.Is(err, context.Canceled) {
				p.t.Errorf("the services ended with: %v", err)
			}
		case <-time.After(time.Minute):
			p.t.Errorf("the services do not stop")
		}
	})
	token := func(name string) string {
		text, err := os.ReadFile(filepath.Join(p.data, name))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text))
	}
	await(p.t, time.Minute, func() error {
		select {
		case err := <-done:
			done <- err
			p.t.Fatalf("the services do not start: %v", err)
		default:
		}
		p.admin, p.gateway = token("admin.token"), token("gateway.token")
		_, err := p.ask(http.MethodGet, "/v1/reports/metrics", nil)
		return err
	})
}

// await polls until check is satisfied.
func await(t *testing.T, patience time.Duration, check func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %v", patience, err)
		}
		<-tick.C
	}
}

// quietPorts are free ports below the range that outgoing connections get, so
// that they stay free while the services are down.
func quietPorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for try := 0; len(ports) < n; try++ {
		if try == 1000 {
			t.Fatal("no free ports")
		}
		port := 16000 + rand.IntN(16000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		defer func() { _ = l.Close() }()
		ports = append(ports, port)
	}
	return ports
}

// ask sends a request to the REST API as an administrator.
func (p *realPlant) ask(method, path string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(p.t.Context(), method, "http://"+p.cfg.Listen.HTTP+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+p.admin)
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: status %d: %s", method, path, answer.StatusCode, text)
	}
	return text, err
}

// tier is a table of reports, and the length of range and the dimensions that
// make it the one that answers.
type tier struct {
	table      string
	grain      time.Duration
	dimensions []string
}

var tiers = []tier{
	{"traffic_1m", time.Minute, nil},
	{"traffic_1h", time.Hour, nil},
	{"traffic_1d", 24 * time.Hour, nil},
	{"usage_15m", 15 * time.Minute, []string{"account"}},
	{"calls", time.Minute, []string{"host"}},
}

// over is the range of whole buckets around from and to.
func (r tier) over(from, to time.Time) timeRange {
	return timeRange{from.UTC().Truncate(r.grain), to.UTC().Truncate(r.grain).Add(r.grain)}
}

func (p *realPlant) report(q reportRequest) (answer reportAnswer, err error) {
	q.Limit = 1000
	body, err := json.Marshal(q)
	if err != nil {
		return answer, err
	}
	text, err := p.ask(http.MethodPost, "/v1/reports:query", body)
	if err != nil {
		return answer, err
	}
	return answer, json.Unmarshal(text, &answer)
}

// counts adds up a report's calls by the dimensions named.
func counts(answer reportAnswer, dimensions ...string) map[string]int {
	out := map[string]int{}
	for _, row := range answer.Rows {
		out[rowKey(row, dimensions...)] += int(number(row["calls"]))
	}
	return out
}

func rowKey(row map[string]any, dimensions ...string) string {
	parts := make([]string, 0, len(dimensions))
	for _, d := range dimensions {
		parts = append(parts, fmt.Sprint(row[d]))
	}
	return strings.Join(parts, "|")
}

// number reads a number of an answer, NaN when it is none.
func number(v any) float64 {
	if f, ok := v.(float64); ok {
		return f
	}
	return math.NaN()
}

func sameCounts(t *testing.T, what string, got, want map[string]int) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s:\n  report %v\n  sent   %v", what, got, want)
	}
}

// metric sums the samples of one of the services' own metrics whose labels
// contain a text.
func (p *realPlant) metric(name, labels string) float64 {
	p.t.Helper()
	answer, err := http.Get("http://" + p.cfg.Listen.Admin + "/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	sum := 0.0
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		sample, value, _ := strings.Cut(lines.Text(), " ")
		if bare, rest, _ := strings.Cut(sample, "{"); bare != name || !strings.Contains(rest, labels) {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			p.t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// awaitTotal waits until calls since from are want, and then until everything
// that had been acknowledged by then is stored, so that a copy that is counted
// twice would show.
func (p *realPlant) awaitTotal(from time.Time, filter string, want int) {
	p.t.Helper()
	total := func() (int, *time.Time, error) {
		a, err := p.report(reportRequest{Metrics: []string{"calls"}, Filter: filter, TimeRange: tiers[0].over(from, time.Now())})
		if err != nil || len(a.Rows) != 1 {
			return 0, nil, fmt.Errorf("no total: %v, %v", a.Rows, err)
		}
		return int(number(a.Rows[0]["calls"])), a.CompleteUntil, nil
	}
	await(p.t, time.Minute, func() error {
		got, _, err := total()
		if err != nil || got < want {
			return fmt.Errorf("%d of %d calls are in the report: %w", got, want, errors.Join(err))
		}
		return nil
	})
	since := time.Now()
	await(p.t, time.Minute, func() error {
		if !stored(p.t.Context(), http.DefaultClient, p.cfg) {
			return errors.New("the pipelines lag")
		}
		_, until, err := total()
		if err != nil || until == nil || until.Before(since) {
			return fmt.Errorf("reports are complete until %v, not %v: %w", until, since, errors.Join(err))
		}
		return nil
	})
}

// upstreamServer answers as the path says, after a delay of its own, and tells
// how long it took until then and who it is.
func upstreamServer(t *testing.T, name, version string, delay time.Duration) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		status, wait := http.StatusOK, delay
		switch strings.Split(r.URL.Path, "/")[3] {
		case "missing":
			status = http.StatusNotFound
		case "failing":
			status = http.StatusServiceUnavailable
		case "slow":
			wait += 40 * time.Millisecond
		}
		time.Sleep(wait)
		w.Header().Set("X-Upstream", name)
		w.Header().Set("X-Version", version)
		w.Header().Set("X-Took", strconv.FormatInt(time.Since(begun).Microseconds(), 10))
		w.WriteHeader(status)
		_, _ = io.WriteString(w, strings.Repeat("x", 300)) // the client tells what it got
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// realEnvoy starts an Envoy with one listener per name in loggers, each with
// the access loggers of the shipped configurations that it asks for: als, otlp
// or file.
func (p *realPlant) realEnvoy(loggers map[string][]string) *testenv.EnvoyProxy {
	p.t.Helper()
	t := p.t
	stable := upstreamServer(t, "orders-stable", "v1", 5*time.Millisecond)
	canary := upstreamServer(t, "orders-canary", "v2", 12*time.Millisecond)
	port := func(address string) string {
		return "port_value: " + address[strings.LastIndexByte(address, ':')+1:] + "}"
	}
	read := func(name string, replace ...string) map[string]any {
		text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "envoy", name))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(replace); i += 2 {
			if !bytes.Contains(text, []byte(replace[i])) {
				t.Fatalf("%s has no %q", name, replace[i])
			}
		}
		var out map[string]any
		if err := yaml.Unmarshal([]byte(strings.NewReplacer(replace...).Replace(string(text))), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	root := read("envoy.yaml", "port_value: 7601}", port(p.cfg.Listen.GRPC), "port_value: 9001}", port(stable), "port_value: 9002}", port(canary),
		"weight: 95}", "weight: 90}", "weight: 5}", "weight: 10}", "stats_flush_interval: 5s", "stats_flush_interval: 0.5s",
		"0.0.0.0, port_value: 8080}", "127.0.0.1, port_value: 0}", "num_retries: 2}", "num_retries: 0}",
		// A busy machine may answer late, which is no reason to break a stream.
		"timeout: 5s}", "timeout: 60s}")
	delete(root, "admin")
	file := read("access-log-json.yaml")
	logs := map[string]func() any{
		"als":  func() any { return manager(listeners(read("envoy.yaml"))[0])["access_log"].([]any)[0] },
		"otlp": func() any { return manager(listeners(read("otlp.yaml"))[0])["access_log"].([]any)[0] },
		"file": func() any { return file["access_log"].([]any)[0] },
	}
	var all []any
	for _, name := range slices.Sorted(maps.Keys(loggers)) {
		listener := clone(t, listeners(root)[0])
		listener["name"] = name
		m := manager(listener)
		m["stat_prefix"] = name
		var access []any
		for _, kind := range loggers[name] {
			logger := clone(t, logs[kind]())
			if kind == "file" {
				typed := logger["typed_config"].(map[string]any)
				typed["path"] = filepath.Join(p.logs, name+".log")
				format := typed["log_format"].(map[string]any)["json_format"].(map[string]any)
				format["api"] = "%METADATA(ROUTE:tollway:api)%"
				format["version"] = "%METADATA(UPSTREAM_HOST:envoy.lb:version)%"
			}
			access = append(access, logger)
		}
		access = append(access, map[string]any{"name": "notes", "typed_config": map[string]any{
			"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
			"path":  filepath.Join(p.notes, name),
			"log_format": map[string]any{"text_format_source": map[string]any{
				"inline_string": "%REQ(:PATH)% %COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%\n"}},
		}})
		m["access_log"] = access
		route := m["route_config"].(map[string]any)["virtual_hosts"].([]any)[0].(map[string]any)["routes"].([]any)[0].(map[string]any)
		route["metadata"] = map[string]any{"filter_metadata": map[string]any{"tollway": map[string]any{"api": name}}}
		all = append(all, listener)
	}
	root["static_resources"].(map[string]any)["listeners"] = all
	text, err := yaml.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TOLLWAY_TOKEN", p.gateway)
	return testenv.Envoy(t, string(text))
}

func listeners(root map[string]any) []any {
	return root["static_resources"].(map[string]any)["listeners"].([]any)
}

func manager(listener any) map[string]any {
	chain := listener.(map[string]any)["filter_chains"].([]any)[0].(map[string]any)
	return chain["filters"].([]any)[0].(map[string]any)["typed_config"].(map[string]any)
}

func clone(t *testing.T, v any) map[string]any {
	t.Helper()
	text, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := yaml.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// request is what the generator knows of one call that it made.
type request struct {
	path, listener, upstream, version string
	status                            int
	took, latency                     int64 // of the upstream alone, and as the client saw it, µs
}

const notSet = "(not set)"

// kinds of requests, and how many of a hundred.
var kinds = []struct {
	path   string
	weight int
}{{"/v1/orders/fine/", 80}, {"/v1/orders/missing/", 8}, {"/v1/orders/failing/", 6}, {"/v1/orders/slow/", 3}, {"/nowhere/", 3}}

// drive sends calls through a listener, over one connection per worker, until
// each worker has sent n or more says no.
func drive(t *testing.T, listener, address string, workers, n int, local bool, more func() bool) []request {
	t.Helper()
	parts := make([][]request, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), uint64(len(listener))))
			transport := &http.Transport{MaxConnsPerHost: 1}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
			for i := 0; i < n && more(); i++ {
				kind := pick(rnd, len(kinds), func(k int) int {
					if !local && kinds[k].path == "/nowhere/" {
						return 0
					}
					return kinds[k].weight
				})
				path := fmt.Sprintf("%s%s-%d-%d", kinds[kind].path, listener, w, i)
				r, err := get(client, "http://"+address, path)
				if err != nil {
					t.Errorf("call %s: %v", path, err)
					return
				}
				r.listener = listener
				parts[w] = append(parts[w], r)
			}
		})
	}
	wg.Wait()
	return slices.Concat(parts...)
}

// get makes a call and measures it from before it is sent until the last byte
// of its answer is read.
func get(client *http.Client, base, path string) (request, error) {
	r := request{path: path, upstream: notSet, version: notSet}
	begun := time.Now()
	answer, err := client.Get(base + path)
	if err != nil {
		return r, err
	}
	defer func() { _ = answer.Body.Close() }()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return r, err
	}
	r.latency = time.Since(begun).Microseconds() + 1
	r.status = answer.StatusCode
	if name := answer.Header.Get("X-Upstream"); name != "" {
		r.upstream, r.version = name, answer.Header.Get("X-Version")
		r.took, err = strconv.ParseInt(answer.Header.Get("X-Took"), 10, 64)
	}
	return r, err
}

func always() bool { return true }

// tally counts requests by what is to be compared.
func tally(requests []request, key func(request) string) map[string]int {
	out := map[string]int{}
	for _, r := range requests {
		out[key(r)]++
	}
	return out
}

// storedRow is a row of calls.
type storedRow struct {
	source, upstream, version string
	status                    int
	total                     int64
}

// storedCalls reads every row, duplicates included, by path.
func (p *realPlant) storedCalls(where string) map[string][]storedRow {
	p.t.Helper()
	rows, err := p.db.Query(p.t.Context(), "SELECT path, source, upstream, version, toInt64(status), total_us FROM calls WHERE "+where, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	out := map[string][]storedRow{}
	for rows.Next() {
		var path string
		var r storedRow
		var status int64
		if err := rows.Scan(&path, &r.source, &r.upstream, &r.version, &status, &r.total); err != nil {
			p.t.Fatal(err)
		}
		r.status = int(status)
		out[path] = append(out[path], r)
	}
	if err := rows.Err(); err != nil {
		p.t.Fatal(err)
	}
	return out
}

// nearestRank is the p-th of 10,000 parts of values, as reports define it.
func nearestRank(values []int64, p int) float64 {
	sorted := slices.Sorted(slices.Values(values))
	rank := max((len(sorted)*p+9999)/10000, 1)
	return float64(sorted[rank-1])
}

// TestRealEnvoyToReport: what a load generator sends through a real Envoy is
// what every table of the reports says, by every way a log can come.
func TestRealEnvoyToReport(t *testing.T) { onPlants(t, realEnvoyToReport) }

func realEnvoyToReport(t *testing.T, p *realPlant) {
	loggers := map[string][]string{"als": {"als"}, "otlp": {"otlp"}, "file": {"file"}, "shared": {"als", "otlp", "file"}}
	proxy := p.realEnvoy(loggers)
	begin := time.Now()

	// One call per listener, seen in the statistics before the load begins, so
	// that the increments of what Envoy says it served begin at one.
	sent := map[string][]request{}
	for name := range loggers {
		for _, r := range drive(t, "first-"+name, proxy.ListenerAddr(name), 1, 1, false, always) {
			r.listener = name
			sent[name] = append(sent[name], r)
		}
	}
	seen := p.metric("tollway_served_reports_total", "")
	await(t, 30*time.Second, func() error {
		if p.metric("tollway_served_reports_total", "") < seen+2 {
			return errors.New("Envoy sends no statistics")
		}
		return nil
	})

	const workers, each = 4, 500
	var wg sync.WaitGroup
	var mu sync.Mutex
	for name := range loggers {
		wg.Go(func() {
			got := drive(t, name, proxy.ListenerAddr(name), workers, each, name != "shared", always)
			mu.Lock()
			defer mu.Unlock()
			sent[name] = append(sent[name], got...)
		})
	}
	wg.Wait()
	loaded := time.Now()
	if t.Failed() {
		return
	}
	var all []request
	for name := range loggers {
		all = append(all, sent[name]...)
		if got := proxy.Stat("http." + name + ".downstream_cx_total"); got > 2*(workers+1) {
			t.Errorf("listener %s had %d connections, want about %d that are kept", name, got, workers+1)
		}
	}
	p.awaitTotal(begin, "", len(all))
	end := time.Now()
	t.Logf("%d calls, sent within %s, reported within %s", len(all), loaded.Sub(begin).Round(time.Millisecond), end.Sub(begin).Round(time.Millisecond))

	p.checkTiers(begin, end, sent)
	p.checkEachCall(sent)
	p.checkDurations(sent)
	p.checkPercentiles(begin, end, sent)
	p.checkCommand(begin, sent)
	p.checkEdges(proxy, sent)
	p.checkTrace()
	p.stop()
	p.checkServed(sent)
}

// checkTiers compares the totals in every table with what was sent.
func (p *realPlant) checkTiers(begin, end time.Time, sent map[string][]request) {
	p.t.Helper()
	var own []request
	for _, name := range []string{"als", "otlp", "file"} {
		own = append(own, sent[name]...)
	}
	for _, tier := range tiers {
		window := tier.over(begin, end)
		by := func(filter string, dimensions ...string) map[string]int {
			a, err := p.report(reportRequest{Metrics: []string{"calls"}, Dimensions: slices.Concat(dimensions, tier.dimensions), Filter: filter, TimeRange: window})
			if err != nil {
				p.t.Fatalf("%s: %v", tier.table, err)
			}
			if a.SourceTable != tier.table {
				p.t.Errorf("%s: answered from %s", tier.table, a.SourceTable)
			}
			return counts(a, dimensions...)
		}
		sameCounts(p.t, tier.table+" by source", by(`api != "shared"`, "source"), tally(own, func(r request) string { return r.listener }))
		sameCounts(p.t, tier.table+" by source and status", by(`api != "shared"`, "source", "status"),
			tally(own, func(r request) string { return r.listener + "|" + strconv.Itoa(r.status) }))
		// Three logs of one call are one call.
		sameCounts(p.t, tier.table+" by status, of calls logged three times", by(`api = "shared"`, "status"),
			tally(sent["shared"], func(r request) string { return strconv.Itoa(r.status) }))
		if tier.table == "usage_15m" {
			continue // knows no upstream
		}
		sameCounts(p.t, tier.table+" by source, status, upstream and version", by(`api != "shared"`, "source", "status", "upstream", "version"),
			tally(own, func(r request) string {
				return strings.Join([]string{r.listener, strconv.Itoa(r.status), r.upstream, r.version}, "|")
			}))
		sameCounts(p.t, tier.table+" by upstream and version, of calls logged three times", by(`api = "shared"`, "upstream", "version"),
			tally(sent["shared"], func(r request) string { return r.upstream + "|" + r.version }))
	}
}

// checkEachCall holds every row against the request it stands for. Envoy's
// time begins after the client's and ends before it, and holds that of the
// upstream.
func (p *realPlant) checkEachCall(sent map[string][]request) {
	p.t.Helper()
	rows := p.storedCalls("1")
	bad := 0
	complain := func(format string, args ...any) {
		if bad++; bad <= 10 {
			p.t.Errorf(format, args...)
		}
	}
	for name, requests := range sent {
		for _, r := range requests {
			got := rows[r.path]
			if len(got) == 0 {
				complain("%s is not stored", r.path)
				continue
			}
			i := slices.IndexFunc(got, func(s storedRow) bool {
				return (s.source == name || name == "shared") && s.status == r.status && orMissing(s.upstream) == r.upstream &&
					orMissing(s.version) == r.version && r.took <= s.total && s.total <= r.latency
			})
			if i < 0 {
				complain("%s: stored %+v, sent %+v", r.path, got, r)
				continue
			}
			rows[r.path] = slices.Delete(got, i, i+1)
		}
	}
	for path, left := range rows {
		if len(left) > 0 {
			complain("%s is stored %d times too often: %+v", path, len(left), left)
		}
	}
}

func orMissing(s string) string {
	if s == "" {
		return notSet
	}
	return s
}

// checkDurations holds the stored durations against what Envoy noted by itself,
// in a file that no service reads.
func (p *realPlant) checkDurations(sent map[string][]request) {
	p.t.Helper()
	rows := p.storedCalls("1")
	for _, name := range []string{"als", "otlp", "file"} {
		noted := map[string]int64{}
		await(p.t, 30*time.Second, func() error {
			clear(noted)
			text, err := os.ReadFile(filepath.Join(p.notes, name))
			if err != nil {
				return err
			}
			lines := strings.Fields(string(text))
			if len(lines) != 2*len(sent[name]) {
				return fmt.Errorf("Envoy noted %d calls of %s, sent were %d", len(lines)/2, name, len(sent[name]))
			}
			for i := 0; i < len(lines); i += 2 {
				us, err := strconv.ParseInt(lines[i+1], 10, 64)
				if err != nil {
					return err
				}
				noted[lines[i]] = us
			}
			return nil
		})
		var late []int64
		for path, want := range noted {
			if len(rows[path]) == 0 {
				continue // checkEachCall tells
			}
			// The entry of the gRPC log has the end of the call, which comes a
			// little after the last byte.
			got := rows[path][0].total
			if got < want || name != "als" && got != want {
				p.t.Errorf("%s took %d µs, Envoy noted %d µs", path, got, want)
			}
			late = append(late, got-want)
		}
		p.t.Logf("%s: stored less noted duration: p50 %.0f µs, p99 %.0f µs", name, nearestRank(late, 5000), nearestRank(late, 9900))
	}
}

// checkPercentiles compares percentiles in three ways: with the same rank of
// the stored durations, within the histogram's error; and with the generator's
// own, between what the upstreams took and what the clients saw. As each
// call's time lies between its two, so must every percentile; the width of the
// band is the overhead of client and network as measured in this run.
func (p *realPlant) checkPercentiles(begin, end time.Time, sent map[string][]request) {
	p.t.Helper()
	// A bucket's middle is at most 1.1 % from what is in it.
	slack := math.Exp2(1.0/64) * (1 + 1e-9)
	rows := p.storedCalls("api != 'shared'")
	totals := map[string][]int64{}
	for _, r := range slices.Concat(slices.Collect(maps.Values(rows))...) {
		totals[r.source] = append(totals[r.source], r.total)
	}
	for _, tier := range tiers {
		if tier.table == "usage_15m" {
			continue // has no latencies
		}
		dimensions := []string{"source"}
		filter := `api != "shared"`
		if tier.table == "calls" {
			filter += ` AND host = "*"`
		}
		a, err := p.report(reportRequest{Metrics: []string{"calls", "p50", "p99"}, Dimensions: dimensions, Filter: filter, TimeRange: tier.over(begin, end)})
		if err != nil {
			p.t.Fatal(err)
		}
		if a.SourceTable != tier.table || len(a.Rows) != 3 {
			p.t.Fatalf("percentiles: %d rows from %s, want 3 from %s", len(a.Rows), a.SourceTable, tier.table)
		}
		for _, row := range a.Rows {
			source := fmt.Sprint(row["source"])
			var took, latency []int64
			for _, r := range sent[source] {
				took, latency = append(took, r.took), append(latency, r.latency)
			}
			for name, rank := range map[string]int{"p50": 5000, "p99": 9900} {
				got := number(row[name]) * 1000
				low, exact, high := nearestRank(took, rank), nearestRank(totals[source], rank), nearestRank(latency, rank)
				if !(exact/slack <= got && got <= exact*slack) {
					p.t.Errorf("%s %s from %s is %.0f µs, of the stored calls %.0f µs: more than 1.1 %% apart", source, name, tier.table, got, exact)
				}
				if !(low/slack <= got && got <= high*slack) {
					p.t.Errorf("%s %s from %s is %.0f µs, not between the upstream's %.0f µs and the client's %.0f µs", source, name, tier.table, got, low, high)
				}
				if tier.table == "traffic_1m" {
					p.t.Logf("%s %s: upstream %.0f µs ≤ report %.0f µs (exact %.0f) ≤ client %.0f µs", source, name, low, got, exact, high)
				}
			}
		}
	}
}

// checkCommand asks by the command line what was asked by REST.
func (p *realPlant) checkCommand(begin time.Time, sent map[string][]request) {
	p.t.Helper()
	out, err := run(p.t, newReportCommand(), "split", "--by", "upstream,version", "--from", begin.Format(time.RFC3339), "--filter", `source = "als" AND api != "shared"`,
		"--server", "http://"+p.cfg.Listen.HTTP, "--token-file", filepath.Join(p.data, "admin.token"), "-o", "json")
	var answer reportAnswer
	if err = errors.Join(err, json.Unmarshal([]byte(out), &answer)); err != nil {
		p.t.Fatalf("tollway report split: %v\n%s", err, out)
	}
	sameCounts(p.t, "tollway report split", counts(answer, "upstream", "version"), tally(sent["als"], func(r request) string { return r.upstream + "|" + r.version }))
}

// checkEdges compares the counters of Envoy, the collector and the pipelines.
func (p *realPlant) checkEdges(proxy *testenv.EnvoyProxy, sent map[string][]request) {
	p.t.Helper()
	shared := len(sent["shared"])
	for stat, want := range map[string]int{
		"access_logs.grpc_access_log.logs_written":           len(sent["als"]) + shared,
		"access_logs.grpc_access_log.logs_dropped":           0,
		"access_logs.open_telemetry_access_log.logs_written": len(sent["otlp"]) + shared,
		"access_logs.open_telemetry_access_log.logs_dropped": 0,
	} {
		if got := proxy.Stat(stat); got != int64(want) {
			p.t.Errorf("Envoy's %s is %d, want %d", stat, got, want)
		}
	}
	copies := -float64(len(slices.Concat(slices.Collect(maps.Values(sent))...)))
	for _, source := range []string{"als", "otlp", "file"} {
		want := float64(len(sent[source]) + shared)
		label := `source_kind="` + source + `"`
		in, out := p.metric("tollway_collector_calls_in_total", label), p.metric("tollway_collector_calls_out_total", label)
		rejected := p.metric("tollway_collector_calls_rejected_total", label)
		copies += in
		// Envoy sends OpenTelemetry records again where an answer is late.
		if in != out+rejected || in < want || source != "otlp" && (in > want || rejected > 0) {
			p.t.Errorf("collector of %s: %v in, %v out, %v rejected; want %v in and out", source, in, out, rejected, want)
		}
	}
	var duplicates, others uint64
	err := p.db.QueryRow(p.t.Context(), "SELECT countIf(fate = 'duplicate'), countIf(fate != 'duplicate') FROM discards", nil).Scan(&duplicates, &others)
	if err != nil || duplicates < uint64(2*shared) || float64(duplicates) > copies || others != 0 {
		p.t.Errorf("%d duplicates and %d others are discarded, error %v; want %d to %v, and 0", duplicates, others, err, 2*shared, copies)
	}
}

// checkTrace sends an event beside Envoy's and asks for its fate.
func (p *realPlant) checkTrace() {
	p.t.Helper()
	lines := fmt.Appendf(nil, `{"source":"shop","id":"order-1","time":%q,"status":201,"total_us":1500}`+"\n", time.Now().UTC().Format(time.RFC3339Nano))
	for range 2 {
		if err := p.post(lines); err != nil {
			p.t.Fatal(err)
		}
	}
	var answer traceAnswer
	await(p.t, 30*time.Second, func() error {
		text, err := p.ask(http.MethodGet, "/v1/events:trace?"+url.Values{"source": {"shop"}, "id": {"order-1"}}.Encode(), nil)
		if err == nil {
			answer = traceAnswer{}
			err = json.Unmarshal(text, &answer)
		}
		if err == nil && len(answer.Copies) != 2 {
			err = fmt.Errorf("%d of 2 copies have a fate: %s", len(answer.Copies), text)
		}
		return err
	})
	if answer.Fate != "STORED" || answer.Call == nil || answer.Call.Status != 201 || answer.CallID != call.NewID("shop", "order-1").String() {
		p.t.Errorf("the trace says %+v", answer)
	}
	fates := []string{answer.Copies[0].Fate, answer.Copies[1].Fate}
	if slices.Sort(fates); !slices.Equal(fates, []string{"DUPLICATE", "STORED"}) {
		p.t.Errorf("the copies' fates are %v", fates)
	}
}

// checkServed adds up what Envoy said it served, once the collector has
// stopped and closed the last minute.
func (p *realPlant) checkServed(sent map[string][]request) {
	p.t.Helper()
	last, ended := map[string]served.Served{}, map[string]int64{}
	for _, message := range p.topic(served.Topic) {
		r, err := served.Decode(message.Value)
		if err != nil {
			p.t.Fatal(err)
		}
		if r.Node != "edge-1" || r.Restarts != 0 {
			p.t.Errorf("a record of what was served says %+v", r)
		}
		if r.First != (last[r.Prefix].Reports == 0) {
			p.t.Errorf("record %+v follows %+v", r, last[r.Prefix])
		}
		last[r.Prefix] = r
		ended[r.Prefix] += r.Ended
	}
	for name, requests := range sent {
		r := last[name]
		if got := int(r.Total) - int(r.Active); got != len(requests) {
			p.t.Errorf("Envoy says that %s served %d calls (%+v), sent were %d", name, got, r, len(requests))
		}
		// All but the first call, which was over before the first report.
		if got := int(ended[name]); got != len(requests)-1 {
			p.t.Errorf("minute by minute %s served %d calls, sent were %d after the first", name, got, len(requests)-1)
		}
	}
	if len(last) != len(sent) {
		p.t.Errorf("records are there of %v", slices.Sorted(maps.Keys(last)))
	}
}

// topic reads the only partition of a topic, from its start to the end that it has now.
func (p *realPlant) topic(name string) (messages []kafkaio.Fetched) {
	p.t.Helper()
	client, err := kafkaio.Open(p.cfg.Kafka.Config, zerolog.Nop())
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	f := kafkaio.NewFetcher(client, name, 0, kafkaio.FirstOffset, kafkaio.FetchConfig{})
	for {
		res, err := f.Next(ctx)
		if err != nil {
			p.t.Fatal(err)
		}
		messages = append(messages, res.Messages...)
		if res.NextOffset >= res.HighWatermark {
			return messages
		}
	}
}

// post sends events as a gateway does.
func (p *realPlant) post(lines []byte) error {
	request, err := http.NewRequest(http.MethodPost, "http://"+p.cfg.Listen.HTTP+"/v1/events", bytes.NewReader(lines))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+p.gateway)
	request.Header.Set("Content-Type", "application/x-ndjson")
	client := http.Client{Timeout: 20 * time.Second}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusAccepted {
		err = fmt.Errorf("status %d: %s", answer.StatusCode, text)
	}
	return err
}

// TestRealRestart stops the services in order in the middle of load, and
// starts them again, three times. Events are sent until they are answered 2xx,
// and Envoy goes on writing its file: each of those calls must be stored once.
// Of what Envoy sends as OpenTelemetry records, only what it counts as dropped
// may be missing, which is nothing as it sends a failed batch again. Of its gRPC
// log, entries under way when a stream breaks are in no count: some may be
// missing, and none may be doubled.
func TestRealRestart(t *testing.T) { onPlants(t, realRestart) }

func realRestart(t *testing.T, p *realPlant) {
	loggers := map[string][]string{"als": {"als"}, "file": {"file"}, "otlp": {"otlp"}}
	proxy := p.realEnvoy(loggers)
	begin := time.Now()
	var over atomic.Bool
	more := func() bool { return !over.Load() }

	const posters, batch = 4, 20
	var acknowledged, refused atomic.Int64
	events := make([]int, posters)
	var wg sync.WaitGroup
	for w := range posters {
		wg.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for more() {
				var lines []byte
				for range batch {
					lines = fmt.Appendf(lines, `{"source":"shop","id":"%d-%d","time":%q,"status":%d,"total_us":1500}`+"\n",
						w, events[w], time.Now().UTC().Format(time.RFC3339Nano), 200+events[w]%3)
					events[w]++
				}
				for p.post(lines) != nil {
					refused.Add(1)
					<-tick.C
				}
				acknowledged.Add(batch)
				<-tick.C
			}
		})
	}
	sent := map[string][]request{}
	var mu sync.Mutex
	for name := range loggers {
		wg.Go(func() {
			got := drive(t, name, proxy.ListenerAddr(name), 2, 1<<20, true, more)
			mu.Lock()
			defer mu.Unlock()
			sent[name] = got
		})
	}
	load := func() {
		t.Helper()
		want := acknowledged.Load() + 4000
		await(t, time.Minute, func() error {
			if got := acknowledged.Load(); got < want {
				return fmt.Errorf("%d events are acknowledged, want %d", got, want)
			}
			return nil
		})
	}
	load()
	for range 3 {
		stopping := time.Now()
		p.stop()
		if t.Failed() {
			break
		}
		down := time.Now()
		p.start()
		t.Logf("stopped in %s, answering again in %s", down.Sub(stopping).Round(time.Millisecond), time.Since(down).Round(time.Millisecond))
		load()
	}
	over.Store(true)
	wg.Wait()
	if t.Failed() {
		return
	}
	sentEvents := 0
	for _, n := range events {
		sentEvents += n
	}
	if refused.Load() == 0 {
		t.Error("no event was refused: the services were never down under load")
	}
	const exact = "source:(shop OR file)"
	p.awaitTotal(begin, exact, sentEvents+len(sent["file"]))
	end := time.Now()
	t.Logf("%d events (%d batches sent again) and %d calls in the file in %s over 3 restarts", sentEvents, refused.Load(), len(sent["file"]), end.Sub(begin).Round(time.Millisecond))

	p.checkIDs(events)
	want := tally(sent["file"], func(r request) string { return "file|" + strconv.Itoa(r.status) })
	for w := range events {
		for i := range events[w] {
			want["shop|"+strconv.Itoa(200+i%3)]++
		}
	}
	for _, tier := range tiers {
		a, err := p.report(reportRequest{Metrics: []string{"calls"}, Dimensions: append([]string{"source", "status"}, tier.dimensions...), Filter: exact, TimeRange: tier.over(begin, end)})
		if err != nil {
			t.Fatal(err)
		}
		if a.SourceTable != tier.table {
			t.Errorf("%s: answered from %s", tier.table, a.SourceTable)
		}
		sameCounts(t, tier.table, counts(a, "source", "status"), want)
	}
	if missing := p.checkOnce("file", sent["file"]); missing != 0 {
		t.Errorf("%d calls of the file are lost", missing)
	}
	// The file is written out last, every 10 s, so the others are long there.
	missing, dropped := p.checkOnce("otlp", sent["otlp"]), proxy.Stat("access_logs.open_telemetry_access_log.logs_dropped")
	t.Logf("otlp: %d sent, %d not stored, of which Envoy says it dropped %d", len(sent["otlp"]), missing, dropped)
	if int64(missing) > dropped {
		t.Errorf("%d calls are lost that Envoy sent as records and did not drop", int64(missing)-dropped)
	}
	missing, dropped = p.checkOnce("als", sent["als"]), proxy.Stat("access_logs.grpc_access_log.logs_dropped")
	t.Logf("als: %d sent, %d not stored, of which Envoy says it dropped %d", len(sent["als"]), missing, dropped)
}

// checkOnce holds the stored calls of a source against those that were made,
// and returns how many are missing.
func (p *realPlant) checkOnce(source string, requests []request) (missing int) {
	p.t.Helper()
	rows := p.storedCalls("source = '" + source + "'")
	stored := 0
	for _, r := range requests {
		got := rows[r.path]
		if len(got) == 0 {
			missing++
		} else if len(got) > 1 || got[0].status != r.status || orMissing(got[0].upstream) != r.upstream || orMissing(got[0].version) != r.version {
			p.t.Errorf("%s is stored as %+v, want once %+v", r.path, got, r)
		}
		stored += len(got)
		delete(rows, r.path)
	}
	if len(rows) > 0 {
		p.t.Errorf("%d calls of %s are stored that nobody made", len(rows), source)
	}
	var rollup int64
	err := p.db.QueryRow(p.t.Context(), "SELECT sum(calls) FROM traffic_1m WHERE source = {source:String}", map[string]any{"source": source}).Scan(&rollup)
	if err != nil || rollup != int64(stored) {
		p.t.Errorf("%d calls of %s are stored and %d in the minutes' table, error %v", stored, source, rollup, err)
	}
	return missing
}

// checkIDs compares identities, each of which must be stored once.
func (p *realPlant) checkIDs(events []int) {
	p.t.Helper()
	want := map[string]bool{}
	for w, n := range events {
		for i := range n {
			want[call.NewID("shop", fmt.Sprintf("%d-%d", w, i)).String()] = true
		}
	}
	rows, err := p.db.Query(p.t.Context(), "SELECT lower(hex(id)), count() FROM calls WHERE source = 'shop' GROUP BY id", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	doubled, unknown := 0, 0
	for rows.Next() {
		var id string
		var n uint64
		if err := rows.Scan(&id, &n); err != nil {
			p.t.Fatal(err)
		}
		if n != 1 {
			doubled++
		}
		if !want[id] {
			unknown++
		}
		delete(want, id)
	}
	if err := rows.Err(); err != nil {
		p.t.Fatal(err)
	}
	if len(want) > 0 || doubled > 0 || unknown > 0 {
		p.t.Errorf("%d events are lost, %d stored more than once, %d unknown", len(want), doubled, unknown)
	}
}
