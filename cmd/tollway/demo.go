package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tollway/tollway/cmd/tollway/manifest"
	"github.com/tollway/tollway/deploy/examples/catalog"
	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// The demo is the company of deploy/examples/catalog: its catalog, a day of its
// traffic at once, and then traffic as it happens. Traffic follows the hours of
// the day; version v2 of orders gets a tenth of the calls and is slower; search
// sometimes fails upstream. Calls say by which credential what was called, as a
// gateway does; the catalog says whose that is.
type demoOperation struct {
	api                string
	method, host, path string // # in the path is a number
	weight             int
	medianUS           float64
	failing            float64
}

var demoOperations = []demoOperation{
	{"orders", "GET", "api.meridian.example", "/v1/orders/#", 40, 18_000, 0.002},
	{"orders", "POST", "api.meridian.example", "/v1/orders", 12, 55_000, 0.004},
	{"orders", "GET", "api.meridian.example", "/v1/orders", 6, 40_000, 0.002},
	{"orders", "POST", "api.meridian.example", "/v1/orders/#/cancel", 2, 30_000, 0.002},
	{"search", "GET", "api.meridian.example", "/v1/search", 30, 90_000, 0.02},
	{"search", "GET", "api.meridian.example", "/v1/search/suggestions", 20, 12_000, 0.005},
	{"maps", "GET", "maps.meridian.example", "/v1/tiles/12/#/#", 50, 7_000, 0.001},
	{"maps", "GET", "maps.meridian.example", "/v1/geocode", 10, 35_000, 0.003},
}

// A demoCaller calls some of the APIs.
type demoCaller struct {
	credential string
	apis       []string
	weight     int
}

const demoIssuer = "https://login.meridian.example"

var demoCallers = []demoCaller{
	{demoClient("northwind-shop"), []string{"orders", "search"}, 25},
	{string(call.AppendCertificate(nil, "spiffe://northwind.example/warehouse")), []string{"orders"}, 10},
	{demoClient("contoso-storefront"), []string{"orders", "search", "maps"}, 25},
	{string(call.AppendCertificate(nil, "spiffe://fabrikam.example/fleet")), []string{"maps"}, 15},
	{string(call.AppendSubject(nil, "https://tokens.initech.example", "service-assistant")), []string{"search", "maps"}, 10},
	{demoClient("umbrella-claims"), []string{"orders", "search"}, 6},
	{string(call.AppendSubject(nil, "https://tokens.hooli.example", "finder")), []string{"search"}, 5},
	{demoClient("globex-prototype"), []string{"maps"}, 2},
	{demoClient("acme-trial"), []string{"orders"}, 1},
	{"", []string{"maps"}, 1}, // somebody who says nothing
}

func demoClient(id string) string { return string(call.AppendClient(nil, demoIssuer, id)) }

const (
	demoBatch      = 1000
	demoPerDay     = 200_000
	demoRate       = 20 // calls per second while running
	demoDayMinutes = 24 * 60
)

// runDemo sends the past day unless that was done in this data folder before,
// prints the first report, and goes on until ctx ends.
func runDemo(ctx context.Context, client *http.Client, cfg Config, data string) error {
	token, err := os.ReadFile(filepath.Join(data, "gateway.token"))
	if err != nil {
		return err
	}
	d := &demo{client: client, url: baseURL(cfg.Listen.TLS, cfg.Listen.HTTP) + "/v1/events", token: strings.TrimSpace(string(token)), rnd: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))}
	marker := filepath.Join(data, "demo.sent")
	if !exists(marker) {
		if err := demoCatalog(ctx, client, cfg, data); err != nil {
			return err
		}
		fmt.Printf("Sending a day of demo traffic (%d calls) …\n", demoPerDay)
		if err := d.day(ctx); err != nil {
			return err
		}
		if err := os.WriteFile(marker, []byte(time.Now().UTC().Format(time.RFC3339)+"\n"), 0o600); err != nil {
			return err
		}
	}
	// Some of now, so that the first report shows a live system.
	if err := d.send(ctx, d.events(demoRate, func() time.Time { return time.Now() })); err != nil {
		return err
	}
	if err := firstReport(ctx, client, cfg, data); err != nil {
		return err
	}
	fmt.Printf("\nDemo traffic goes on at %d calls/s until Ctrl-C.\n", demoRate)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := d.send(ctx, d.events(demoRate, time.Now)); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

type demo struct {
	client     *http.Client
	url, token string
	rnd        *rand.Rand
	sent       int
}

// day sends the last 24 hours, minute by minute in proportion to a day's
// shape: quiet at night, busy around 14:00 UTC.
func (d *demo) day(ctx context.Context) error {
	now := time.Now()
	weights, total := make([]float64, demoDayMinutes), 0.0
	for m := range weights {
		at := now.Add(time.Duration(m-demoDayMinutes) * time.Minute).UTC()
		hour := float64(at.Hour()) + float64(at.Minute())/60
		weights[m] = 1.15 + math.Cos((hour-14)/24*2*math.Pi)
		total += weights[m]
	}
	var pending []byte
	n, owed := 0, 0.0
	for m, w := range weights {
		owed += demoPerDay * w / total
		for ; owed >= 1; owed-- {
			at := now.Add(time.Duration(m-demoDayMinutes)*time.Minute + time.Duration(d.rnd.IntN(60_000))*time.Millisecond)
			pending = d.append(pending, at)
			if n++; n%demoBatch == 0 {
				if err := d.send(ctx, pending); err != nil {
					return err
				}
				pending = pending[:0]
			}
		}
	}
	return d.send(ctx, pending)
}

func (d *demo) events(n int, at func() time.Time) []byte {
	var out []byte
	for range n {
		out = d.append(out, at())
	}
	return out
}

// append adds one call as a line of JSON.
func (d *demo) append(out []byte, at time.Time) []byte {
	caller := demoCallers[pick(d.rnd, len(demoCallers), func(i int) int { return demoCallers[i].weight })]
	o := demoOperations[pick(d.rnd, len(demoOperations), func(i int) int {
		if !slices.Contains(caller.apis, demoOperations[i].api) {
			return 0
		}
		return demoOperations[i].weight
	})]
	version, slower := "v1", 1.0
	if o.api == "orders" && d.rnd.IntN(10) == 0 {
		version, slower = "v2", 1.6
	}
	status, fault := 200, "none"
	switch p := d.rnd.Float64(); {
	case p < o.failing:
		status, fault = 503, "upstream"
	case p < o.failing+0.015:
		status, fault = 404, "client"
	}
	total := o.medianUS * slower * math.Exp(0.5*d.rnd.NormFloat64())
	d.sent++
	event := map[string]any{
		"id": fmt.Sprintf("demo-%d-%d", at.UnixNano(), d.sent), "source": "demo", "time": at.UTC().Format(time.RFC3339Nano),
		"credential": caller.credential, "method": o.method, "host": o.host, "path": d.path(o.path),
		"status": status, "fault": fault, "upstream": o.api, "version": version, "gateway": "demo-edge", "environment": "production",
		"total_us": int64(total), "upstream_us": int64(total * 0.85), "request_bytes": 200 + d.rnd.IntN(800), "response_bytes": 500 + d.rnd.IntN(20_000),
	}
	if o.path == "/v1/search" && status == 200 {
		event["measures"] = map[string]int{"tokens": 50 + d.rnd.IntN(900)}
	}
	line, _ := json.Marshal(event) // strings and numbers only
	return append(append(out, line...), '\n')
}

// path puts numbers into a path.
func (d *demo) path(pattern string) string {
	for strings.Contains(pattern, "#") {
		pattern = strings.Replace(pattern, "#", strconv.Itoa(1000+d.rnd.IntN(3000)), 1)
	}
	return pattern
}

func pick(rnd *rand.Rand, n int, weight func(int) int) int {
	total := 0
	for i := range n {
		total += weight(i)
	}
	at := rnd.IntN(total)
	for i := range n {
		if at -= weight(i); at < 0 {
			return i
		}
	}
	return n - 1
}

// send posts calls and tries again while the collector is busy: copies are
// counted once.
func (d *demo) send(ctx context.Context, lines []byte) error {
	if len(lines) == 0 {
		return nil
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url, bytes.NewReader(lines))
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+d.token)
		request.Header.Set("Content-Type", "application/x-ndjson")
		answer, err := d.client.Do(request)
		if err == nil {
			text, _ := io.ReadAll(io.LimitReader(answer.Body, 2000)) // for the error below
			answer.Body.Close()
			switch {
			case answer.StatusCode == http.StatusAccepted:
				return nil
			case answer.StatusCode != http.StatusTooManyRequests && answer.StatusCode != http.StatusServiceUnavailable:
				return fmt.Errorf("send demo traffic: status %d: %s", answer.StatusCode, text)
			}
		} else if explained := explainTLS(d.url, err); explained != nil {
			return explained
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// demoDocuments are the resources of the made-up company.
func demoDocuments() ([]manifest.Document, error) {
	names, err := fs.Glob(catalog.Files, "*.yaml")
	if err != nil {
		return nil, err
	}
	var files []textFile
	for _, name := range names {
		text, err := catalog.Files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		files = append(files, textFile{name, text})
	}
	return parseFiles(files)
}

// demoCatalog applies the company's catalog and waits until the pipelines have
// it: calls that come earlier would belong to nobody.
func demoCatalog(ctx context.Context, client *http.Client, cfg Config, data string) error {
	documents, err := demoDocuments()
	if err != nil {
		return err
	}
	before, err := feedVersion(ctx, client, cfg)
	if err != nil {
		return err
	}
	c := &catalogClient{clientFlags{
		server: baseURL(cfg.Listen.TLS, cfg.Listen.HTTP), tokenFile: filepath.Join(data, "admin.token"), timeout: time.Minute,
		tls: clientTLS{client: func() (*http.Client, error) { return client, nil }},
	}}
	response, err := c.apply(ctx, documents, &catalogv1.ApplyRequest{Set: "demo"})
	if err != nil {
		return fmt.Errorf("apply the demo's catalog: %w", err)
	}
	changed := 0
	for _, c := range response.GetChanges() {
		if c.GetAction() != catalogv1.ChangeAction_UNCHANGED {
			changed++
		}
	}
	fmt.Printf("Made the catalog of a company that sells APIs (%d resources).\n", changed)
	for {
		now, err := feedVersion(ctx, client, cfg)
		if err != nil || now >= before+float64(changed) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// feedVersion is the number of the last change of the catalog that the process
// works with.
func feedVersion(ctx context.Context, client *http.Client, cfg Config) (float64, error) {
	text, err := ownMetrics(ctx, client, cfg)
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(text, "\n") {
		if value, ok := strings.CutPrefix(line, "tollway_feed_version "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, errors.New("the process has no catalog")
}

// firstReport waits until the day is stored and prints what a product manager
// would ask first, by the same command that anybody can run.
func firstReport(ctx context.Context, client *http.Client, cfg Config, data string) error {
	for range 100 {
		out, err := ask(ctx, cfg, data, "traffic", "--by", "api", "--since", "24h", "-o", "json")
		if err == nil && strings.Contains(out, `"api"`) && !strings.Contains(out, `"rows": []`) && stored(ctx, client, cfg) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
	for _, args := range [][]string{
		{"traffic", "--by", "api", "--since", "24h"},
		{"traffic", "--by", "account,product,plan", "--metrics", "calls,share,error_rate", "--since", "24h"},
		{"split", "--by", "version", "--since", "24h", "--filter", `api = "orders"`},
		{"latency", "--by", "api", "--since", "24h"},
	} {
		fmt.Printf("$ tollway report %s\n", shellWords(args))
		out, err := ask(ctx, cfg, data, args...)
		if err != nil {
			return err
		}
		fmt.Println(out)
	}
	return nil
}

// shellWords prints arguments so that they can be pasted into a shell.
func shellWords(args []string) string {
	words := make([]string, len(args))
	for i, a := range args {
		if words[i] = a; strings.ContainsAny(a, " \"") {
			words[i] = "'" + a + "'"
		}
	}
	return strings.Join(words, " ")
}

// stored tells from the process's own metrics whether nothing is on its way.
func stored(ctx context.Context, client *http.Client, cfg Config) bool {
	text, err := ownMetrics(ctx, client, cfg)
	if err != nil {
		return false
	}
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, "tollway_delivery_lag_messages{") && !strings.HasSuffix(line, " 0") {
			return false
		}
	}
	return true
}

func ownMetrics(ctx context.Context, client *http.Client, cfg Config) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, baseURL(cfg.Listen.AdminTLS, cfg.Listen.Admin)+"/metrics", nil)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4<<20))
	return string(text), err
}

func ask(ctx context.Context, cfg Config, data string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := newReportCommand()
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetArgs(append(args, "--server", baseURL(cfg.Listen.TLS, cfg.Listen.HTTP), "--token-file", filepath.Join(data, "admin.token")))
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}
