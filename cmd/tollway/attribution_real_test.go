package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/tollway/tollway/services/platform/testenv"
)

// guardedEnvoy is a real Envoy that asks Tollway about every call, by the
// configuration of deploy/envoy, in front of a server that remembers the headers
// and paths it gets.
type guardedEnvoy struct {
	p       *realPlant
	address string

	mu  sync.Mutex
	got []*http.Request
}

func startGuardedEnvoy(p *realPlant) *guardedEnvoy {
	t := p.t
	t.Helper()
	g := &guardedEnvoy{p: p}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.got = append(g.got, r.Clone(context.Background()))
		w.WriteHeader(http.StatusOK)
	}))
	t.Cleanup(upstream.Close)
	port := func(address string) string {
		return "port_value: " + address[strings.LastIndexByte(address, ':')+1:] + "}"
	}
	read := func(name string) (out map[string]any) {
		text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "envoy", name))
		if err != nil {
			t.Fatal(err)
		}
		local := strings.NewReplacer("port_value: 7601}", port(p.cfg.Listen.GRPC), "port_value: 9001}", port(upstream.URL), "port_value: 9002}", port(upstream.URL),
			"0.0.0.0, port_value: 8080}", "127.0.0.1, port_value: 0}", "prefix: /v1/orders", "prefix: /",
			// A busy machine may answer late, which is no reason to refuse a call.
			"timeout: 0.5s", "timeout: 20s", "timeout: 5s}", "timeout: 60s}")
		if err := yaml.Unmarshal([]byte(local.Replace(string(text))), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	root, part := read("envoy.yaml"), read("ext-authz.yaml")
	delete(root, "admin")
	m := manager(listeners(root)[0])
	m["http_filters"] = append(part["http_filters"].([]any), m["http_filters"].([]any)...)
	resources := root["static_resources"].(map[string]any)
	resources["clusters"] = append(resources["clusters"].([]any), part["clusters"].([]any)...)
	text, err := yaml.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TOLLWAY_TOKEN", p.gateway)
	g.address = testenv.Envoy(t, string(text)).ListenerAddr("http")
	return g
}

// call makes a call and returns its status, or what kept it from being one.
func (g *guardedEnvoy) call(host, path, header, value string) (int, error) {
	request, err := http.NewRequestWithContext(g.p.t.Context(), http.MethodGet, "http://"+g.address+path, nil)
	if err != nil {
		return 0, err
	}
	request.Host = host
	if header != "" {
		request.Header.Set(header, value)
	}
	request.Header.Set("X-Tollway-Subject", "somebody/else") // what a client says of itself
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	if refused := answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden; refused && (answer.Header.Get("Content-Type") != "application/problem+json" || !json.Valid(text)) {
		return 0, fmt.Errorf("status %d: %v, %s", answer.StatusCode, answer.Header, text)
	}
	return answer.StatusCode, nil
}

func (g *guardedEnvoy) calls(n, status int, host, path, header, value string) {
	g.p.t.Helper()
	for range n {
		if got, err := g.call(host, path, header, value); err != nil || got != status {
			g.p.t.Errorf("%s%s with %q: status %d, %v, want %d", host, strings.SplitN(path, "?", 2)[0], header, got, err, status)
		}
	}
}

// tollway runs a command against the plant as its administrator.
func (p *realPlant) tollway(args ...string) string {
	p.t.Helper()
	out, err := run(p.t, newRootCommand(), args...)
	if err != nil {
		p.t.Fatalf("tollway %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// TestRealAttribution sends calls with keys of the sample company through a real
// Envoy. They must show up under account, app, product, plan and operation; a
// revoked key must be refused; and what the catalog learns later must be found
// for the past.
func TestRealAttribution(t *testing.T) {
	p := startPlant(t, testenv.Kafka(t, 1).Addrs(), nil)
	g := startGuardedEnvoy(p)
	t.Setenv("TOLLWAY_SERVER", "http://"+p.cfg.Listen.HTTP)
	t.Setenv("TOLLWAY_TOKEN", p.admin)
	begin := time.Now()

	p.tollway("apply", "-f", filepath.Join("..", "..", "deploy", "examples", "catalog"))
	var made struct{ Name, Key string }
	text := p.tollway("credential", "create", "fabrikam/fleet", "-o", "json")
	var credential struct {
		Name   string `json:"name"`
		APIKey struct {
			Key string `json:"key"`
		} `json:"api_key"`
	}
	if err := json.Unmarshal([]byte(text), &credential); err != nil || !strings.HasPrefix(credential.APIKey.Key, "tk_") {
		t.Fatalf("created %v", err)
	}
	made.Name, made.Key = credential.Name, credential.APIKey.Key
	id := strings.NewReplacer("accounts/", "", "apps/", "", "credentials/", "").Replace(made.Name)

	const maps, api = "maps.meridian.example", "api.meridian.example"
	created := time.Now()
	tries := 0
	await(t, time.Minute, func() error {
		tries++
		status, err := g.call(maps, "/v1/geocode", "X-Api-Key", made.Key)
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("status %d: %w", status, errors.Join(err))
		}
		return nil
	})
	t.Logf("a new key was good %s after it was made", time.Since(created).Round(time.Millisecond))

	g.calls(19, 200, maps, "/v1/geocode?q=rome", "X-Api-Key", made.Key)
	g.calls(10, 200, maps, "/v1/tiles/1/2/3?api_key="+made.Key, "", "")
	g.calls(5, 200, maps, "/v1/tiles/4/5/6", "Authorization", "Bearer "+made.Key)
	g.calls(4, 403, api, "/v1/orders", "X-Api-Key", made.Key)
	g.calls(7, 401, maps, "/v1/geocode", "", "")
	g.calls(3, 401, maps, "/v1/geocode", "X-Api-Key", made.Key+"x")

	p.tollway("credential", "revoke", id)
	revoked, late := time.Now(), 0
	await(t, time.Minute, func() error {
		status, err := g.call(maps, "/v1/geocode", "X-Api-Key", made.Key)
		if err == nil && status == http.StatusOK {
			late++
		}
		if err != nil || status != http.StatusUnauthorized {
			return fmt.Errorf("status %d: %w", status, errors.Join(err))
		}
		return nil
	})
	took := time.Since(revoked)
	t.Logf("a revoked key was refused %s after it was revoked; %d calls passed until then", took.Round(time.Millisecond), late)
	if took > 20*time.Second {
		t.Errorf("a revoked key was good for %s", took)
	}
	g.calls(2, 401, maps, "/v1/geocode", "X-Api-Key", made.Key)

	g.checkUpstream(id, made.Key)
	g.checkReports(begin, tries-1, late, id, made.Key)
	p.checkLateCatalog(begin)
}

// checkUpstream asserts that the upstream knows who called, and no key.
func (g *guardedEnvoy) checkUpstream(id, key string) {
	g.p.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.got) == 0 {
		g.p.t.Error("no call went on")
	}
	for _, r := range g.got {
		if strings.Contains(fmt.Sprint(r.Header, r.URL), key) {
			g.p.t.Errorf("the upstream got the key, by %s", r.URL.Path)
		}
		if r.Header.Get("X-Tollway-Subject") != "fabrikam/fleet" || r.Header.Get("X-Tollway-Credential") != id {
			g.p.t.Errorf("the upstream got %v", r.Header)
		}
	}
}

func (g *guardedEnvoy) checkReports(begin time.Time, early, late int, id, key string) {
	p, t := g.p, g.p.t
	t.Helper()
	p.awaitTotal(begin, `source = als`, early+1+19+10+5+4+7+3+late+1+2)
	// Those that came before the key was known everywhere, and wrong keys, belong to
	// nobody; those after its end belong to the app.
	want := map[string]int{
		"fabrikam|fabrikam/fleet|fabrikam/geocoding|geocoding|geocoding/annual/1|geocode|(not set)": 1 + 19 + late,
		"fabrikam|fabrikam/fleet|fabrikam/geocoding|geocoding|geocoding/annual/1|geocode|auth":      1 + 2,
		"fabrikam|fabrikam/fleet|fabrikam/maps|maps|maps/pay-as-you-go/1|get-tile|(not set)":        10 + 5,
		"fabrikam|fabrikam/fleet|(not set)|commerce|(not set)|list-orders|auth":                     4,
		"(not set)|(not set)|(not set)|geocoding|(not set)|geocode|auth":                            7 + 3 + early,
	}
	dimensions := []string{"account", "app", "subscription", "product", "plan", "operation", "denied"}
	a, err := p.report(reportRequest{Metrics: []string{"calls"}, Dimensions: dimensions, Filter: "source = als", TimeRange: tiers[3].over(begin, time.Now())})
	if err != nil {
		t.Fatal(err)
	}
	if a.SourceTable != "usage_15m" {
		t.Errorf("answered from %s", a.SourceTable)
	}
	sameCounts(t, "usage", counts(a, dimensions...), want)

	text := p.tollway("report", "unattributed", "--since", "1h", "-o", "json")
	var got unattributed
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	for _, r := range got.Reasons {
		if n := map[string]int64{"no credential": int64(7 + 3 + early), "no subscription": 4}[r.Reason]; r.Calls != n {
			t.Errorf("%d calls with %s, want %d", r.Calls, r.Reason, n)
		}
	}
	var credentials, secrets uint64
	err = p.db.QueryRow(t.Context(), `SELECT uniqExactIf(credential, credential != ''), countIf(positionCaseInsensitive(toString(tuple(*)), {key:String}) > 0 OR path LIKE '%api_key%') FROM calls`,
		map[string]any{"key": key}).Scan(&credentials, &secrets)
	if err != nil || credentials != 1 || secrets != 0 {
		t.Errorf("%d credentials are stored, and %d calls with the key or where it was: %v", credentials, secrets, err)
	}
	var named uint64
	if err := p.db.QueryRow(t.Context(), "SELECT countIf(credential = {id:String}) FROM calls", map[string]any{"id": id}).Scan(&named); err != nil || named == 0 {
		t.Errorf("%d calls have the credential: %v", named, err)
	}
}

// checkLateCatalog stores calls of a client that the catalog does not know yet,
// makes it known, and has the past attributed again.
func (p *realPlant) checkLateCatalog(begin time.Time) {
	t := p.t
	t.Helper()
	var lines []byte
	for i := range 25 {
		lines = fmt.Appendf(lines, `{"source":"late","id":"%d","time":%q,"status":200,"method":"GET","host":"maps.meridian.example","path":"/v1/geocode","credential":"client:https://late.example#shop"}`+"\n",
			i, time.Now().UTC().Format(time.RFC3339Nano))
	}
	if err := p.post(lines); err != nil {
		t.Fatal(err)
	}
	p.awaitTotal(begin, `source = late`, 25)
	unknown := p.tollway("report", "unattributed", "--since", "1h", "-o", "csv")
	if !strings.Contains(unknown, "unknown credential,25,client:https://late.example#shop,") {
		t.Errorf("unattributed:\n%s", unknown)
	}
	file := filepath.Join(t.TempDir(), "late.yaml")
	resource := "kind: Credential\nname: accounts/fabrikam/apps/fleet/credentials/late\noauth_client: {issuer: https://late.example, client_id: shop}\n"
	if err := os.WriteFile(file, []byte(resource), 0o600); err != nil {
		t.Fatal(err)
	}
	p.tollway("apply", "-f", file)
	config := filepath.Join(t.TempDir(), "tollway.yaml")
	settings, err := yaml.Marshal(map[string]any{
		"kafka": map[string]any{"brokers": p.cfg.Kafka.Brokers},
		"clickhouse": map[string]any{"addresses": p.cfg.ClickHouse.Addresses, "http_addresses": p.cfg.ClickHouse.HTTPAddresses, "database": p.cfg.ClickHouse.Database,
			"username": p.cfg.ClickHouse.Username, "password": p.cfg.ClickHouse.Password.Reveal()},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, settings, 0o600); err != nil {
		t.Fatal(err)
	}
	rebuild := func(args ...string) string {
		return p.tollway(append([]string{"rebuild", "--attribute", "--config", config, "--from", begin.UTC().Format(time.RFC3339)}, args...)...)
	}
	// The change is published a moment after it was made.
	await(t, time.Minute, func() error {
		if out := rebuild("--dry-run"); !strings.Contains(out, "25 call(s) would change") {
			return fmt.Errorf("a dry run says:\n%s", out)
		}
		return nil
	})
	out := rebuild()
	if !strings.Contains(out, "25 call(s) changed") || !strings.Contains(out, "fabrikam") {
		t.Errorf("rebuild says:\n%s", out)
	}
	if again := rebuild(); !strings.Contains(again, "Every call is attributed") {
		t.Errorf("rebuild says, once more:\n%s", again)
	}
	dimensions := []string{"account", "subscription", "plan"}
	a, err := p.report(reportRequest{Metrics: []string{"calls"}, Dimensions: dimensions, Filter: "source = late", TimeRange: tiers[3].over(begin, time.Now())})
	if err != nil {
		t.Fatal(err)
	}
	sameCounts(t, "usage after a rebuild", counts(a, dimensions...), map[string]int{"fabrikam|fabrikam/geocoding|geocoding/annual/1": 25})
}
