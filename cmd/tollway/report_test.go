package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// api is a server that remembers the last request and gives a canned answer.
type api struct {
	*httptest.Server
	method, path, token string
	body                map[string]any
	code                int
	answer              string
}

func newAPI(t *testing.T, code int, answer string) *api {
	t.Helper()
	t.Chdir(t.TempDir()) // no token of a running Tollway is used
	t.Setenv("TOLLWAY_TOKEN", "")
	a := &api{code: code, answer: answer}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.method, a.path, a.token = r.Method, r.URL.RequestURI(), r.Header.Get("Authorization")
		a.body = nil
		text, err := io.ReadAll(r.Body)
		if err == nil && len(text) > 0 {
			err = json.Unmarshal(text, &a.body)
		}
		if err != nil {
			t.Errorf("read the request: %v", err)
		}
		w.WriteHeader(a.code)
		_, _ = io.WriteString(w, a.answer) // the client tells what it got
	}))
	t.Cleanup(a.Close)
	t.Setenv("TOLLWAY_SERVER", a.URL)
	return a
}

// run executes a command line and returns what it prints.
func run(t *testing.T, command *cobra.Command, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	command.SetOut(&out)
	command.SetErr(io.Discard)
	command.SetArgs(args)
	err := command.ExecuteContext(t.Context())
	return out.String(), err
}

const reportJSON = `{"rows":[
 {"product":"pay","calls":1234567,"error_rate":0.0123,"p50":0.5,"p99":1234.5,"request_bytes":1500,"response_bytes":2e9,"calls_per_second":14.28},
 {"product":"a\u001b[2Jb","calls":7,"error_rate":null,"p50":34,"p99":null,"request_bytes":0,"response_bytes":999,"calls_per_second":0.01}],
 "source_table":"traffic_1h+calls","complete_until":"2026-11-02T12:00:00Z"}`

func TestReportTable(t *testing.T) {
	a := newAPI(t, 200, reportJSON)
	out, err := run(t, newReportCommand(), "traffic", "--by", "product", "--from", "2026-11-01", "--to", "2026-11-02T06:00", "--time-zone", "Europe/Berlin",
		"--filter", "status >= 500", "--limit", "5", "--order-by", "p99 desc")
	if err != nil {
		t.Fatal(err)
	}
	want := `2026-11-01T00:00:00+01:00 to 2026-11-02T06:00:00+01:00, from traffic_1h+calls, complete until 2026-11-02T13:00:00+01:00
product  calls  calls_per_second  error_rate      p50     p99  request_bytes  response_bytes
pay      1.23M            14.3/s      1.23 %   500 µs  1.23 s        1.50 kB         2.00 GB
a�[2Jb       7            0.01/s           -  34.0 ms       -            0 B           999 B
`
	if out != want {
		t.Errorf("printed\n%s\nwant\n%s", out, want)
	}
	got, err := json.Marshal(a.body)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"dimensions":["product"],"filter":"status \u003e= 500","granularity":"none","limit":5,` +
		`"metrics":["calls","calls_per_second","error_rate","p50","p99","request_bytes","response_bytes"],"order_by":"p99 desc",` +
		`"time_range":{"end_time":"2026-11-02T06:00:00+01:00","start_time":"2026-11-01T00:00:00+01:00"},"time_zone":"Europe/Berlin"}`; string(got) != want {
		t.Errorf("asked\n%s\nwant\n%s", got, want)
	}
	if a.path != "/v1/reports:query" {
		t.Errorf("asked %s", a.path)
	}
}

func TestReportOutputs(t *testing.T) {
	newAPI(t, 200, `{"rows":[{"upstream":"blue, new","version":"(not set)","calls":12345678901,"share":0.25,"error_rate":null,"p50":1.5,"p99":2}],"source_table":"traffic_1d","complete_until":null}`)
	csv, err := run(t, newReportCommand(), "split", "-o", "csv")
	if want := "upstream,version,calls,share,error_rate,p50,p99\n\"blue, new\",(not set),12345678901,0.25,,1.5,2\n"; err != nil || csv != want {
		t.Errorf("csv is %q, %v; want %q", csv, err, want)
	}
	out, err := run(t, newReportCommand(), "split", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(out)); err != nil {
		t.Fatal(err)
	}
	if want := `{"rows":[{"calls":12345678901,"error_rate":null,"p50":1.5,"p99":2,"share":0.25,"upstream":"blue, new","version":"(not set)"}],"source_table":"traffic_1d","complete_until":null}`; compact.String() != want {
		t.Errorf("json is %s, want %s", &compact, want)
	}
	table, err := run(t, newReportCommand(), "split")
	if err != nil || !strings.Contains(table, "from traffic_1d, not known how complete\n") {
		t.Errorf("table is %q, %v", table, err)
	}
}

func TestReportErrors(t *testing.T) {
	a := newAPI(t, 200, `{}`)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		code   int
		answer string
		args   []string
		exit   int
		want   string
	}{
		{200, "", []string{"--server", nobody}, 1, "nothing listens at " + nobody + ": start Tollway with `tollway up`"},
		{200, "", []string{"--server", "localhost:1"}, 2, `--server "localhost:1" is not an address`},
		{401, `{"title":"Unauthorized","detail":"a valid bearer token is needed"}`, nil, 1, "not authenticated: a valid bearer token is needed; give a token with --token-file"},
		{403, `{"message":"consumers may not"}`, nil, 1, "not allowed: consumers may not"},
		{400, `{"detail":"filter: column 3: no"}`, nil, 2, "filter: column 3: no"},
		{503, `<html>`, nil, 1, "service unavailable (status 503)"},
		{200, `<html>`, nil, 1, "is it the address of Tollway's API?"},
		{200, `{}`, []string{"-o", "xml"}, 2, `--output "xml" is not table, json or csv`},
		{200, `{}`, []string{"--since", "soon"}, 2, `--since "soon" is not a time such as`},
		{200, `{}`, []string{"--since", "-3d"}, 2, `--since "-3d" is not a time such as`},
		{200, `{}`, []string{"--from", "yesterday"}, 2, `--from "yesterday" is not a time such as`},
		{200, `{}`, []string{"--to", "2026-11-01"}, 2, `--to needs --from`},
		{200, `{}`, []string{"--from", "2026-11-01", "--to", "2026-11-01"}, 2, `the range is empty`},
		{200, `{}`, []string{"--time-zone", "Moon"}, 2, `--time-zone "Moon" is not an IANA time zone`},
		{200, `{}`, []string{"--token-file", "none"}, 2, `read the token: open none`},
		{200, `{}`, []string{"--from", "2026-11-01", "--since", "1h"}, 1, `[from since]`},
	}
	for _, c := range cases {
		a.code, a.answer = c.code, c.answer
		out, err := run(t, newReportCommand(), append([]string{"traffic"}, c.args...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) || exitCode(err) != c.exit {
			t.Errorf("%v, answer %d %s: %v, exit %d; want %q, exit %d", c.args, c.code, c.answer, err, exitCode(err), c.want, c.exit)
		}
		if out != "" && c.exit != 1 {
			t.Errorf("%v printed %q", c.args, out)
		}
	}
}

func TestToken(t *testing.T) {
	a := newAPI(t, 200, `{"rows":[]}`)
	ask := func(want string, args ...string) {
		t.Helper()
		if _, err := run(t, newReportCommand(), append([]string{"traffic"}, args...)...); err != nil {
			t.Fatal(err)
		}
		if a.token != want {
			t.Errorf("token is %q, want %q", a.token, want)
		}
	}
	ask("")
	if err := os.MkdirAll("data", 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join("data", "admin.token"), "admin\n")
	ask("Bearer admin")
	t.Setenv("TOLLWAY_TOKEN", "mine")
	ask("Bearer mine")
	write("other", " other\n")
	ask("Bearer other", "--token-file", "other")
}

func TestCompletion(t *testing.T) {
	newAPI(t, 200, "")
	root := &cobra.Command{Use: "tollway"}
	root.AddCommand(newReportCommand(), newEventsCommand())
	for args, want := range map[string]string{
		"report|traffic|--by|prod":        "product\n:6\n",
		"report|traffic|--by|product,reg": "product,region\n:6\n",
		"report|traffic|--metrics|p9":     "p90\np95\np99\np99.9\n:6\n",
		"report|l":                        "latency\thow long calls take, by percentiles\n:4\n",
	} {
		out, err := run(t, root, append([]string{"__complete"}, strings.Split(args, "|")...)...)
		if err != nil || out != want {
			t.Errorf("%s completes to %q, %v; want %q", args, out, err, want)
		}
	}
}

func TestSince(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 34, 56, 789, time.UTC)
	for since, want := range map[string]string{"15m": "2026-11-24T12:19:00Z", "24h": "2026-11-23T12:34:00Z", "7d": "2026-11-17T12:00:00Z", "4w": "2026-10-27T12:00:00Z"} {
		r, err := (&reportFlags{since: since, timeZone: "UTC"}).timeRange(now)
		if err != nil || r.Start.Format(time.RFC3339Nano) != want || r.End.Format(time.RFC3339Nano) != "2026-11-24T12:35:00Z" {
			t.Errorf("since %s is %s to %s, %v; want %s", since, r.Start, r.End, err, want)
		}
	}
}

func TestQuantity(t *testing.T) {
	cases := []struct {
		f    float64
		unit string
		want string
	}{
		{0, "calls", "0"}, {999, "calls", "999"}, {1200, "calls", "1.20k"}, {999_999, "calls", "1.00M"}, {-1500, "calls", "-1.50k"},
		{0.5, "ratio", "50.00 %"}, {34, "ms", "34.0 ms"}, {0.0005, "ms", "0 µs"}, {0.25, "ms", "250 µs"}, {61000, "ms", "61.0 s"},
		{1e18, "bytes", "1000 PB"}, {12.345, "calls/s", "12.3/s"}, {150_000, "calls/s", "150k/s"},
	}
	for _, c := range cases {
		if got := quantity(c.f, c.unit); got != c.want {
			t.Errorf("%v %s is %q, want %q", c.f, c.unit, got, c.want)
		}
	}
}

func TestTrace(t *testing.T) {
	a := newAPI(t, 200, `{"fate":"STORED","explanation":"The event is stored.","call_id":"ab","lag":"1.5s","complete_until":"2026-11-24T12:00:00Z","waiting_dead_letters":"0",
		"call":{"account":"","api":"pay","operation":"charge","method":"POST","status":201,"total_us":"1500"},
		"copies":[{"fate":"STORED","receive_time":"2026-11-24T11:00:00Z","provenance":{"epoch":0,"partition":3,"offset":"41","row":7}}]}`)
	out, err := run(t, newEventsCommand(), "trace", "edge", "a b&c")
	want := `fate       STORED
call       ab
account    (not set)
product    (not set)
operation  pay charge
outcome    POST 201
STORED     partition 3, offset 41, row 7, received 2026-11-24T11:00:00Z
pipelines  complete until 2026-11-24T12:00:00Z, 1.5s behind
The event is stored.
`
	if err != nil || out != want {
		t.Errorf("printed\n%s%v\nwant\n%s", out, err, want)
	}
	if a.path != "/v1/events:trace?id=a+b%26c&source=edge" {
		t.Errorf("asked %s", a.path)
	}
	a.answer = `{"fate":"NOT_SEEN","explanation":"No trace."}`
	if out, err = run(t, newEventsCommand(), "trace", "edge", "x"); exitCode(err) != 1 || !strings.Contains(out, "No trace.") {
		t.Errorf("not seen: %q, %v", out, err)
	}
}

func TestDLQ(t *testing.T) {
	a := newAPI(t, 200, `{"dead_letters":[{"id":"0-7","reason":"bad\u0007","create_time":"2026-11-24T12:00:00Z","origin_topic":"calls","origin_partition":2,"origin_offset":"9","size_bytes":"120"}],"next_page_token":""}`)
	out, err := run(t, newEventsCommand(), "dlq", "list")
	if want := "id   since                 from       bytes  reason\n0-7  2026-11-24T12:00:00Z  calls/2@9    120  bad�\n"; err != nil || out != want {
		t.Errorf("printed %q, %v; want %q", out, err, want)
	}
	a.answer = `{"results":[{"id":"0-7","provenance":{"partition":1,"offset":"5"},"error":""},{"id":"0-8","error":"not there"}]}`
	out, err = run(t, newEventsCommand(), "dlq", "redrive", "0-7", "0-8")
	if want := "0-7  sent again\n0-8  not sent: not there\n"; exitCode(err) != 1 || out != want {
		t.Errorf("printed %q, %v; want %q", out, err, want)
	}
	if _, err = run(t, newEventsCommand(), "dlq", "redrive"); exitCode(err) != exitUsage {
		t.Errorf("redrive of nothing: %v", err)
	}
}
