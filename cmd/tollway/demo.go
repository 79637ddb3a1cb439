package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The demo is a company that sells three APIs: a day of it at once, and then
// as it happens. Traffic follows the hours of the day; version v2 of orders
// gets a tenth of the calls and is slower; search sometimes fails upstream.
type demoOperation struct {
	api, method, operation string
	weight                 int
	medianUS               float64
	failing                float64
}

var demoOperations = []demoOperation{
	{"orders", "GET", "/v1/orders/{order}", 40, 18_000, 0.002},
	{"orders", "POST", "/v1/orders", 12, 55_000, 0.004},
	{"search", "GET", "/v1/search", 30, 90_000, 0.02},
	{"maps", "GET", "/v1/tiles/{z}/{x}/{y}", 50, 7_000, 0.001},
	{"maps", "GET", "/v1/geocode", 10, 35_000, 0.003},
}

var demoAccounts = []struct {
	account, product string
	weight           int
}{
	{"northwind", "gold", 35}, {"contoso", "gold", 25}, {"fabrikam", "silver", 15}, {"initech", "silver", 10},
	{"umbrella", "free", 8}, {"hooli", "free", 5}, {"globex", "free", 2},
}

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
	o := demoOperations[pick(d.rnd, len(demoOperations), func(i int) int { return demoOperations[i].weight })]
	a := demoAccounts[pick(d.rnd, len(demoAccounts), func(i int) int { return demoAccounts[i].weight })]
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
	line, _ := json.Marshal(map[string]any{ // strings and numbers only
		"id": fmt.Sprintf("demo-%d-%d", at.UnixNano(), d.sent), "source": "demo", "time": at.UTC().Format(time.RFC3339Nano),
		"api": o.api, "method": o.method, "operation": o.operation, "account": a.account, "product": a.product,
		"status": status, "fault": fault, "upstream": o.api, "version": version, "gateway": "demo-edge", "environment": "demo",
		"total_us": int64(total), "upstream_us": int64(total * 0.85), "request_bytes": 200 + d.rnd.IntN(800), "response_bytes": 500 + d.rnd.IntN(20_000),
	})
	return append(append(out, line...), '\n')
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
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, baseURL(cfg.Listen.AdminTLS, cfg.Listen.Admin)+"/metrics", nil)
	if err != nil {
		return false
	}
	answer, err := client.Do(request)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4<<20))
	if err != nil {
		return false
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if strings.HasPrefix(line, "tollway_delivery_lag_messages{") && !strings.HasSuffix(line, " 0") {
			return false
		}
	}
	return true
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
