package events

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/publish"
)

var now = time.Date(2026, 11, 24, 5, 39, 49, 0, time.UTC)

// memory is a log that can be away.
type memory struct {
	mu   sync.Mutex
	rows *call.Batch
	away bool
}

func (m *memory) Produce(_ context.Context, _ string, _ int, messages []publish.Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return errors.New("broker away")
	}
	for _, msg := range messages {
		if _, err := m.rows.AppendMessage(msg.Value, 0); err != nil {
			return err
		}
	}
	return nil
}

type server struct {
	*Handler
	log *memory
	pub *publish.Publisher
	url string
}

func serve(t testing.TB, cfg Config, trusted bool) *server {
	require.NoError(t, cfg.Validate())
	log := &memory{rows: call.NewBatch()}
	reg := prometheus.NewRegistry()
	pc := publish.DefaultConfig()
	pc.AckLinger, pc.RetryMin, pc.RetryMax, pc.StopTimeout = 0, time.Millisecond, time.Millisecond, 10*time.Millisecond
	pub := publish.New(pc, 3, log, time.Now, reg, zerolog.Nop())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = pub.Run(ctx) }()
	h := New(cfg, Deps{Publisher: pub, Trusted: func(context.Context) bool { return trusted }, Clock: func() time.Time { return now }, Registry: reg, Logger: zerolog.Nop()})
	ts := httptest.NewServer(h)
	t.Cleanup(func() { ts.Close(); cancel(); <-done })
	return &server{Handler: h, log: log, pub: pub, url: ts.URL}
}

type answer struct {
	status                         int
	retryAfter                     string
	Accepted, Duplicates, Rejected int
	Detail                         string
	Position                       *int
	Results                        []struct {
		Index                     int
		ID, Status, Reason, Field string
	}
}

func (s *server) post(t testing.TB, body string, headers ...string) answer {
	return s.postTo(t, "", strings.NewReader(body), headers...)
}

func (s *server) postTo(t testing.TB, query string, body io.Reader, headers ...string) answer {
	req, err := http.NewRequest(http.MethodPost, s.url+query, body)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	a := answer{status: res.StatusCode, retryAfter: res.Header.Get("Retry-After")}
	require.NoError(t, json.NewDecoder(res.Body).Decode(&a))
	return a
}

const (
	ct     = "Content-Type"
	one    = "application/cloudevents+json"
	many   = "application/cloudevents-batch+json"
	ndjson = "application/x-ndjson"
)

func event(id, data string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"gw","type":"tollway.call.v1","time":"2026-11-24T05:39:48.5Z","data":%s}`, id, data)
}

func TestEveryFormatGivesTheSameCall(t *testing.T) {
	data := `{"method":"GET","host":"api.example.com","path":"\/v1\/orders?api_key=x","status":200,"grpc_status":0,"total_us":1500,"request_bytes":10,"response_bytes":20,
		"attempts":2,"client_ip":"203.0.113.77","fault":"none","account":"acme","credential":"acme/mobile/key-1","measures":{"tokens":"12.5","rows":3},"attributes":{"tier":"gold"}}`
	flat := strings.ReplaceAll(`{"id":"1","source":"gw","time":"2026-11-24T05:39:48.5Z",`+data[1:], "\n", "")
	zipped := func(s string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(s))
		_ = z.Close()
		return b.String()
	}
	zs, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	defer zs.Close()
	for name, c := range map[string]struct {
		body    string
		headers []string
	}{
		"structured": {event("1", data), []string{ct, one + "; charset=utf-8"}},
		"batch":      {"[" + event("1", data) + "]", []string{ct, many}},
		"line":       {strings.ReplaceAll(event("1", data), "\n", ""), []string{ct, ndjson}},
		"flat line":  {flat + "\r\n\n", []string{ct, ndjson}},
		"binary": {data, []string{ct, "application/json", "Ce-Specversion", "1.0", "Ce-Id", "%31", "Ce-Source", "gw",
			"Ce-Type", "tollway.call.v1", "Ce-Time", "2026-11-24T05:39:48.5Z"}},
		"gzip": {zipped(event("1", data)), []string{ct, one, "Content-Encoding", "gzip"}},
		"zstd": {string(zs.EncodeAll([]byte(event("1", data)), nil)), []string{ct, one, "Content-Encoding", "zstd"}},
	} {
		for _, trusted := range []bool{true, false} {
			t.Run(name+" "+strconv.FormatBool(trusted), func(t *testing.T) {
				s := serve(t, DefaultConfig(), trusted)
				a := s.post(t, c.body, c.headers...)
				require.Equal(t, http.StatusAccepted, a.status, "%+v", a)
				require.Equal(t, 1, a.Accepted)
				b := s.log.rows
				require.Equal(t, []call.ID{call.NewID("gw", "1")}, b.ID)
				require.Equal(t, now.Add(-500*time.Millisecond).UnixMicro(), b.Time[0])
				require.Equal(t, now.UnixMicro(), b.ReceivedAt[0])
				require.Equal(t, "gw", b.Strings[call.Source].Value(0))
				require.Equal(t, "GET", b.Strings[call.Method].Value(0))
				require.Equal(t, "/v1/orders", b.Path.Value(0))
				require.Equal(t, "203.0.113.0", b.ClientIP.Value(0))
				require.EqualValues(t, 200, b.Status[0])
				require.EqualValues(t, 0, b.GRPCStatus[0])
				require.EqualValues(t, 2, b.Attempts[0])
				require.EqualValues(t, 1500, b.Latency[call.Total][0])
				require.EqualValues(t, call.NotMeasured, b.Latency[call.TTFB][0])
				require.Equal(t, "12.5", call.FormatDecimal(b.Measures.Values[0]))
				account := ""
				if trusted {
					account = "acme"
				}
				require.Equal(t, account, b.Strings[call.Account].Value(0))
				require.Equal(t, trusted, b.Strings[call.Credential].Value(0) != "")
			})
		}
	}
}

func TestABadItemDoesNotHarmItsNeighbours(t *testing.T) {
	bad := []struct{ item, field, reason string }{
		{`{"specversion":"1.0","source":"gw","type":"tollway.call.v1","data":{}}`, "id", "missing"},
		{`{"specversion":"1.0","id":"a","type":"tollway.call.v1","data":{}}`, "source", "missing"},
		{`{"specversion":"0.3","id":"a","source":"gw","type":"tollway.call.v1","data":{}}`, "specversion", "must be 1.0"},
		{`{"specversion":"1.0","id":"a","source":"gw","type":"other","data":{}}`, "type", "unknown type"},
		{`{"specversion":"1.0","id":"a","source":"gw","type":"tollway.call.v1"}`, "data", "missing"},
		{`{"specversion":"1.0","id":"a","source":"gw","type":"tollway.call.v1","data_base64":"e30="}`, "data_base64", "must be sent as data"},
		{`{"specversion":"1.0","id":"a","source":"gw","type":"tollway.call.v1","datacontenttype":"text/xml","data":{}}`, "datacontenttype", "must be application/json"},
		{`{"specversion":"1.0","id":1,"source":"gw","type":"tollway.call.v1","data":{}}`, "id", "must be a string"},
		{`{"specversion":"1.0","id":"a","source":"gw","type":"tollway.call.v1","time":"yesterday","data":{}}`, "time", "not an RFC 3339 time"},
		{`{"specversion":"1.0","id":"a","source":"gw","type":"tollway.call.v1","time":"2026-11-24T05:44:50Z","data":{}}`, "time", "time in the future"},
		{`{"specversion":"1.0","id":"a","source":"gw","type":"tollway.call.v1","time":"2026-10-20T05:39:48Z","data":{}}`, "time", "older than retention"},
		{event("a", `[]`), "data", "must be an object"},
		{event("a", `{"nonsense":1}`), "data.nonsense", "unknown field"},
		{event("a", `{"received_at":"2026-11-24T05:39:48Z"}`), "data.received_at", "unknown field"},
		{event("a", `{"id":"b"}`), "data.id", "unknown field"},
		{event("a", `{"status":99}`), "status", "must be 0 or from 100 to 599"},
		{event("a", `{"status":600}`), "status", "too large"},
		{event("a", `{"status":"200"}`), "status", "must be a number"},
		{event("a", `{"total_us":1.5}`), "total_us", "not a whole number"},
		{event("a", `{"total_us":-1}`), "total_us", "negative"},
		{event("a", `{"request_bytes":99999999999999999999}`), "request_bytes", "too large"},
		{event("a", `{"grpc_status":-2}`), "grpc_status", "negative"},
		{event("a", `{"client_ip":"localhost"}`), "client_ip", "not an IP address"},
		{event("a", `{"fault":"mine"}`), "fault", "not one of the known values"},
		{event("a", `{"method":{"a":[1,{"b":null}]}}`), "method", "must be a string"},
		{event("a", `{"measures":{"tokens":"many"}}`), "measures.tokens", "not a decimal number of at most 29 digits before and 9 after the point"},
		{event("a", `{"measures":{"tokens":-1}}`), "measures.tokens", "negative"},
		{event("a", `{"measures":[1]}`), "measures", "must be an object"},
		{event("a", `{"attributes":{"x":1}}`), "attributes.x", "must be a string"},
		{`"text"`, "the event", "must be an object"},
	}
	items := []string{event("first", `{}`)}
	for _, b := range bad {
		items = append(items, b.item)
	}
	items = append(items, event("last", `{}`), event("first", `{"status":500}`))
	s := serve(t, DefaultConfig(), true)
	a := s.post(t, "["+strings.Join(items, ",")+"]", ct, many)
	require.Equal(t, 202, a.status)
	require.Equal(t, [3]int{2, 1, len(bad)}, [3]int{a.Accepted, a.Duplicates, a.Rejected})
	require.Len(t, a.Results, len(bad))
	for i, b := range bad {
		r := a.Results[i]
		require.Equal(t, []any{i + 1, "rejected", b.field, b.reason}, []any{r.Index, r.Status, r.Field, r.Reason}, b.item)
	}
	require.Len(t, s.log.rows.ID, 2)

	// The same, with malformed ones among them, as lines.
	a = s.postTo(t, "?results=all", strings.NewReader(event("x", `{}`)+"\n{\"id\":\n"+event("y", `{}`)+"\n"+event("y", `{}`)+"\n"), ct, ndjson)
	require.Equal(t, 202, a.status)
	require.Equal(t, [3]int{2, 1, 1}, [3]int{a.Accepted, a.Duplicates, a.Rejected})
	require.Len(t, a.Results, 4)
	require.Contains(t, a.Results[1].Reason, "malformed JSON: byte 6")
	require.Equal(t, "duplicate", a.Results[3].Status)

	a = s.post(t, "["+bad[0].item+"]", ct, many)
	require.Equal(t, 400, a.status)
	require.Equal(t, "id", a.Results[0].Field)
}

// What comes before the place where a batch stops being JSON is accepted, and
// the answer says where that is.
func TestMalformedBatch(t *testing.T) {
	s := serve(t, DefaultConfig(), true)
	a := s.post(t, "["+event("1", `{}`)+","+event("2", `{}`)+`,{"specversion" "1.0"}]`, ct, many)
	require.Equal(t, 400, a.status)
	require.Equal(t, 2, a.Accepted)
	require.Len(t, s.log.rows.ID, 2)
	require.Contains(t, a.Detail, "expected ':'")
	require.NotNil(t, a.Position)
	for _, body := range []string{"", "[", "{", "[]x", `{"a":1`, "\xff", "null"} {
		for _, kind := range []string{one, many} {
			a := s.post(t, body, ct, kind)
			require.Equal(t, 400, a.status, "%q as %s", body, kind)
		}
	}
	require.Equal(t, 202, s.post(t, "[]", ct, many).status)
	require.Equal(t, 202, s.post(t, "\n\n", ct, ndjson).status)
}

func TestLimits(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxBodyBytes, cfg.MaxBufferedBytes, cfg.MaxItems = 2000, 20_000, 5
	s := serve(t, cfg, true)
	require.Equal(t, 413, s.post(t, strings.Repeat(" ", 2001), ct, many).status)
	require.Equal(t, 413, s.postTo(t, "", io.MultiReader(strings.NewReader(strings.Repeat(" ", 2001))), ct, many).status)
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(bytes.Repeat([]byte(" "), 1<<20))
	require.NoError(t, z.Close())
	require.Equal(t, 413, s.postTo(t, "", &bomb, ct, many, "Content-Encoding", "gzip").status)
	a := s.post(t, "["+strings.Repeat(event("1", `{}`)+",", 5)+event("1", `{}`)+"]", ct, many)
	require.Equal(t, 413, a.status)
	require.Equal(t, 1, a.Accepted)
	require.Equal(t, 415, s.post(t, "{}", ct, "text/plain").status)
	require.Equal(t, 415, s.post(t, "{}", ct, "application/json").status)
	require.Equal(t, 415, s.post(t, "{}", ct, one, "Content-Encoding", "br").status)
	require.Equal(t, 400, s.post(t, "not gzip", ct, one, "Content-Encoding", "gzip").status)
	require.EqualValues(t, 0, s.buffered.Load())

	s.buffered.Store(20_000)
	a = s.post(t, event("1", `{}`), ct, one)
	require.Equal(t, 429, a.status)
	require.Equal(t, "1", a.retryAfter)
	s.buffered.Store(0)

	res, err := http.Get(s.url)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusMethodNotAllowed, res.StatusCode)
}

func TestNotAcknowledgedIs503AndRetryIsFine(t *testing.T) {
	cfg := DefaultConfig()
	cfg.AckTimeout = 20 * time.Millisecond
	s := serve(t, cfg, true)
	s.log.mu.Lock()
	s.log.away = true
	s.log.mu.Unlock()
	a := s.post(t, event("1", `{}`), ct, one)
	require.Equal(t, 503, a.status)
	require.Equal(t, "1", a.retryAfter)
	require.Zero(t, a.Accepted)
	s.log.mu.Lock()
	s.log.away = false
	s.log.mu.Unlock()
	require.Eventually(t, func() bool { return s.post(t, event("1", `{}`), ct, one).status == 202 }, 5*time.Second, time.Millisecond)
}

type refusing struct{ err error }

func (r refusing) Append(*publish.Delivery, *call.Call) error { return r.err }

func TestBusyIs429(t *testing.T) {
	for err, status := range map[error]int{publish.ErrBusy: 429, publish.ErrStopped: 503} {
		h := New(DefaultConfig(), Deps{Publisher: refusing{err}, Clock: time.Now, Registry: prometheus.NewRegistry(), Logger: zerolog.Nop()})
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/v1/events", strings.NewReader(`{"id":"1","source":"gw"}`))
		r.Header.Set(ct, ndjson)
		h.ServeHTTP(w, r)
		require.Equal(t, status, w.Code)
		require.NotEmpty(t, w.Header().Get("Retry-After"))
	}
}

func TestEveryColumnHasAField(t *testing.T) {
	for c := range call.StringColumns {
		name := call.StringColumn(c).String()
		require.Equal(t, name, fields.find(name).name)
	}
	for _, name := range []string{"", "x", "statu", "status_", "received_at", "measure"} {
		require.Equal(t, unknown, fields.find(name).kind, name)
	}
}

func TestIDSet(t *testing.T) {
	var s idSet
	for range 2 {
		for i := range 5000 {
			require.True(t, s.add(call.NewID("a", strconv.Itoa(i))))
		}
		for i := range 5000 {
			require.False(t, s.add(call.NewID("a", strconv.Itoa(i))))
		}
		s.reset()
	}
}

func typical(i int) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":"%08d","source":"gw-1","type":"tollway.call.v1","time":"2026-11-24T05:39:%02d.%03dZ","data":{"method":"GET","host":"api.example.com","path":"/v1/orders/%d","status":200,"total_us":%d,"response_bytes":%d}}`,
		i, i%49, i%1000, i, 1000+i, 2000+i)
}

type discard struct{}

func (discard) Append(*publish.Delivery, *call.Call) error { return nil }

// One request of 1,000 events: decoding, identity and duplicates, without HTTP
// and without the publisher.
func BenchmarkDecode(b *testing.B) {
	var batched, lined []string
	for i := range 1000 {
		batched = append(batched, typical(i))
		lined = append(lined, strings.Replace(strings.Replace(typical(i), `"specversion":"1.0",`, "", 1), `"type":"tollway.call.v1",`, "", 1))
		lined[i] = strings.Replace(strings.TrimSuffix(lined[i], "}"), `"data":{`, "", 1)
	}
	bodies := map[string]string{many: "[" + strings.Join(batched, ",") + "]", ndjson: strings.Join(lined, "\n")}
	for _, kind := range []string{many, ndjson} {
		b.Run(kind, func(b *testing.B) {
			h := New(DefaultConfig(), Deps{Publisher: discard{}, Clock: func() time.Time { return now }, Registry: prometheus.NewRegistry(), Logger: zerolog.Nop()})
			q := h.requests.Get().(*request)
			r := httptest.NewRequest(http.MethodPost, "/v1/events", nil)
			b.SetBytes(int64(len(bodies[kind]) / 1000))
			b.ReportAllocs()
			for i := 0; i < b.N; i += 1000 {
				q.begin(r)
				q.body = append(q.body, bodies[kind]...)
				var p *problem
				if kind == many {
					p = q.batch()
				} else {
					p = q.lines()
				}
				if p != nil || q.accepted != 1000 {
					b.Fatal(p, q.accepted, string(q.results))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/event")
		})
	}
}
