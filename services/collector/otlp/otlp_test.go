package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	logsv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	recordv1 "go.opentelemetry.io/proto/otlp/logs/v1"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/publish"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC)

// gatedLog acknowledges while its gate is open.
type gatedLog struct {
	gate chan struct{}
	mu   sync.Mutex
	rows int
}

func (l *gatedLog) Produce(ctx context.Context, _ string, _ int, messages []publish.Message) error {
	select {
	case <-l.gate:
	case <-ctx.Done():
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows += len(messages)
	return nil
}

// spy shows the calls on their way to the publisher.
type spy struct {
	to    Publisher
	mu    sync.Mutex
	calls *call.Batch
	err   error
}

func (s *spy) Append(d *publish.Delivery, c *call.Call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.calls.Append(c)
	return s.to.Append(d, c)
}

type harness struct {
	server   *Server
	spy      *spy
	gate     chan struct{}
	registry *prometheus.Registry
}

func start(t *testing.T, change func(*Config)) *harness {
	t.Helper()
	h := &harness{gate: make(chan struct{}), registry: prometheus.NewRegistry()}
	publisher := publish.New(publish.DefaultConfig(), 2, &gatedLog{gate: h.gate}, time.Now, h.registry, zerolog.Nop())
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- publisher.Run(ctx) }()
	t.Cleanup(func() {
		h.open()
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	h.spy = &spy{to: publisher, calls: call.NewBatch()}
	cfg := DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	var err error
	h.server, err = New(cfg, Deps{Publisher: h.spy, Trusted: func(context.Context) bool { return true },
		Clock: func() time.Time { return now }, Metrics: h.registry, Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// open lets the log acknowledge.
func (h *harness) open() {
	select {
	case <-h.gate:
	default:
		close(h.gate)
	}
}

func str(key, value string) *commonv1.KeyValue {
	return &commonv1.KeyValue{Key: key, Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: value}}}
}

func num(key string, value int64) *commonv1.KeyValue {
	return &commonv1.KeyValue{Key: key, Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_IntValue{IntValue: value}}}
}

// record is a record as our Envoy configuration makes it: all text.
func record(streamID string, more ...*commonv1.KeyValue) *recordv1.LogRecord {
	return &recordv1.LogRecord{
		TimeUnixNano: uint64(now.Add(-time.Second).UnixNano()),
		Attributes: append([]*commonv1.KeyValue{
			str("access_log_type", "DownstreamEnd"), str("stream_id", streamID), str("protocol", "HTTP/2"),
			str("method", "GET"), str("authority", "api.example.com"), str("path", "/v1/orders?x=1"), str("user_agent", "curl/8.5.0"),
			str("upstream_cluster", "outbound|8080|v2|orders.shop.svc.cluster.local"), str("upstream_host", "10.0.3.4:8080"),
			str("status", "503"), str("details", "upstream_reset"), str("flags", "UF,URX"), str("attempts", "3"),
			str("client_address", "203.0.113.77"), str("request_header_bytes", "100"), str("request_body_bytes", "20"),
			str("response_header_bytes", "200"), str("response_body_bytes", "-"),
			str("duration_us", "1500"), str("time_to_last_rx_byte_us", "100"), str("time_to_first_upstream_tx_byte_us", "-"),
			str("ratelimit_account", "acme"), str("api", "orders"), str("jwt_sub", "-"), str("something_else", "x"),
		}, more...),
	}
}

func request(records ...*recordv1.LogRecord) *logsv1.ExportLogsServiceRequest {
	return &logsv1.ExportLogsServiceRequest{ResourceLogs: []*recordv1.ResourceLogs{{
		Resource:  &resourcev1.Resource{Attributes: []*commonv1.KeyValue{str("service.name", "no"), str("node_name", "edge-1"), str("cluster_name", "edge"), str("zone_name", "eu-1a")}},
		ScopeLogs: []*recordv1.ScopeLogs{{LogRecords: records}},
	}}}
}

func TestRecordBecomesCall(t *testing.T) {
	h := start(t, nil)
	h.open()
	answer, err := h.server.Export(context.Background(), request(record("s1")))
	if err != nil || answer.GetPartialSuccess() != nil {
		t.Fatalf("%v, %v", answer, err)
	}
	b := h.spy.calls
	got := map[string]string{"path": b.Path.Value(0), "client_ip": b.ClientIP.Value(0)}
	for i := range b.Strings {
		if v := b.Strings[i].Value(0); v != "" {
			got[call.StringColumn(i).String()] = v
		}
	}
	want := map[string]string{
		"source": "envoy/edge", "gateway": "edge-1", "zone": "eu-1a", "protocol": "HTTP/2", "api": "orders", "method": "GET",
		"host": "api.example.com", "account": "acme", "user_agent": "curl", "device": "server", "flags": "UF,URX", "fault": "upstream",
		"upstream": "orders.shop.svc.cluster.local", "version": "v2", "upstream_host": "10.0.3.4:8080", "path": "/v1/orders", "client_ip": "203.0.113.0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// The same call over the gRPC access log has the same identity.
	if want := call.NewID("edge-1", "s1", "1795499999000000"); b.ID[0] != want {
		t.Errorf("id %v, want %v", b.ID[0], want)
	}
	if b.Status[0] != 503 || b.Attempts[0] != 3 || b.RequestBytes[0] != 120 || b.ResponseBytes[0] != 200 ||
		b.Latency[call.Total][0] != 1500 || b.Latency[call.ClientIn][0] != 100 || b.Latency[call.GatewayIn][0] != call.NotMeasured {
		t.Errorf("numbers: %v %v %v %v %v", b.Status, b.Attempts, b.RequestBytes, b.ResponseBytes, b.Latency)
	}
}

func TestPartialSuccess(t *testing.T) {
	h := start(t, nil)
	h.open()
	old := record("s")
	old.TimeUnixNano = 1
	inBody := &recordv1.LogRecord{TimeUnixNano: uint64(now.UnixNano()), Body: &commonv1.AnyValue{Value: &commonv1.AnyValue_KvlistValue{
		KvlistValue: &commonv1.KeyValueList{Values: []*commonv1.KeyValue{num("status", 200), str("method", "PUT")}}}}}
	answer, err := h.server.Export(context.Background(), request(
		record("a"), record("b", str("status", "many")), old, nil, inBody,
		&recordv1.LogRecord{TimeUnixNano: uint64(now.UnixNano()), Attributes: []*commonv1.KeyValue{str("message", "hello")}},
		record("c", str("access_log_type", "DownstreamPeriodic")), record("d")))
	if err != nil {
		t.Fatal(err)
	}
	want := &logsv1.ExportLogsPartialSuccess{RejectedLogRecords: 4,
		ErrorMessage: "record 1: status is malformed; record 2: start_time is before the retention period; record 3: attributes is missing; record 5: attributes is missing"}
	if diff := cmp.Diff(want, answer.GetPartialSuccess(), cmpopts.IgnoreUnexported(logsv1.ExportLogsPartialSuccess{})); diff != "" {
		t.Error(diff)
	}
	if rows := h.spy.calls.Rows(); rows != 3 {
		t.Errorf("%d calls, want 3", rows)
	}
	for name, want := range map[string]float64{
		"tollway_collector_calls_in_total": 7, "tollway_collector_calls_out_total": 3, "tollway_collector_calls_rejected_total": 4,
		"tollway_otlp_records_rejected_total": 4, "tollway_otlp_records_skipped_total": 1,
	} {
		if got := h.value(t, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func (h *harness) value(t *testing.T, name string) (sum float64) {
	t.Helper()
	families, err := h.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func TestAnswerWaitsForTheLog(t *testing.T) {
	h := start(t, func(c *Config) { c.AckTimeout = 20 * time.Millisecond })
	_, err := h.server.Export(context.Background(), request(record("a")))
	wantTryAgain(t, err)
	h.open()
	h.server.cfg.AckTimeout = time.Minute
	if _, err := h.server.Export(context.Background(), request(record("a"))); err != nil {
		t.Error(err)
	}
}

func wantTryAgain(t *testing.T, err error) {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != codes.Unavailable || len(st.Details()) != 1 {
		t.Fatalf("got %v", err)
	}
	if _, ok := st.Details()[0].(*errdetails.RetryInfo); !ok {
		t.Errorf("details %v", st.Details())
	}
}

func TestBusy(t *testing.T) {
	h := start(t, func(c *Config) { c.MaxRequests = 1 })
	h.open()
	h.spy.err = publish.ErrBusy
	_, err := h.server.Export(context.Background(), request(record("a")))
	wantTryAgain(t, err)
	h.spy.err = nil
	h.server.slots <- struct{}{} // another request is under way
	_, err = h.server.Export(context.Background(), request(record("a")))
	wantTryAgain(t, err)
	<-h.server.slots
	if _, err = h.server.Export(context.Background(), request(record("a"))); err != nil {
		t.Error(err)
	}
}

func TestOverGRPC(t *testing.T) {
	h := start(t, nil)
	h.open()
	server := grpc.NewServer()
	h.server.Register(server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := logsv1.NewLogsServiceClient(conn).Export(context.Background(), request(record("a"), record("b"))); err != nil {
		t.Error(err)
	}
	conn.Close()
	server.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if rows := h.spy.calls.Rows(); rows != 2 {
		t.Errorf("%d calls", rows)
	}
}

func packed(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

func TestOverHTTP(t *testing.T) {
	h := start(t, func(c *Config) { c.MaxBody = 10_000 })
	h.open()
	inProtobuf, err := proto.Marshal(request(record("a")))
	if err != nil {
		t.Fatal(err)
	}
	inJSON, err := protojson.Marshal(request(record("b")))
	if err != nil {
		t.Fatal(err)
	}
	// The way the specification writes JSON: ids in hexadecimal, fields that
	// later versions have.
	foreign := []byte(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"1795499999000000000","newField":1,
		"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174",
		"attributes":[{"key":"status","value":{"intValue":"200"}}]}]}]}]}`)
	const pb, js = "application/x-protobuf", "application/json"
	tests := []struct {
		name                        string
		method, contentType, coding string
		body                        []byte
		code                        int
		answer                      string // part of it
	}{
		{"protobuf", "POST", pb, "", inProtobuf, 200, ""},
		{"protobuf, packed", "POST", pb, "gzip", packed(inProtobuf), 200, ""},
		{"json", "POST", js + "; charset=utf-8", "", inJSON, 200, "{}"},
		{"json, packed", "POST", js, "gzip", packed(inJSON), 200, "{}"},
		{"json as specified", "POST", js, "", foreign, 200, "{}"},
		{"nothing", "POST", pb, "", nil, 200, ""},
		{"rejected", "POST", js, "", []byte(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[{}]}]}]}`), 200, `"rejectedLogRecords":"1"`},
		{"wrong method", "GET", pb, "", nil, 405, "only POST"},
		{"wrong type", "POST", "text/plain", "", nil, 415, "content type"},
		{"wrong coding", "POST", js, "br", nil, 415, "content encoding"},
		{"malformed protobuf", "POST", pb, "", []byte{0x0a, 0x7f}, 400, "read the request"},
		{"malformed json", "POST", js, "", []byte(`{"resourceLogs":`), 400, "read the request"},
		{"protobuf as json", "POST", js, "", append(inProtobuf, 0xff), 400, "read the request"},
		{"wrong json", "POST", js, "", []byte(`{"resourceLogs":7}`), 400, "read the request"},
		{"not packed", "POST", js, "gzip", inJSON, 400, "unpack"},
		{"cut off", "POST", js, "gzip", packed(inJSON)[:40], 400, "read the body"},
		{"too large", "POST", js, "", make([]byte, 10_001), 413, "more than 10000 bytes"},
		{"too large unpacked", "POST", js, "gzip", packed(make([]byte, 1_000_000)), 413, "more than 10000 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(tt.method, Path, bytes.NewReader(tt.body))
			r.Header.Set("Content-Type", tt.contentType)
			r.Header.Set("Content-Encoding", tt.coding)
			w := httptest.NewRecorder()
			h.server.ServeHTTP(w, r)
			if w.Code != tt.code || !strings.Contains(strings.ReplaceAll(w.Body.String(), " ", ""), strings.ReplaceAll(tt.answer, " ", "")) {
				t.Errorf("%d %q, want %d %q", w.Code, w.Body, tt.code, tt.answer)
			}
		})
	}
	if rows := h.spy.calls.Rows(); rows != 5 {
		t.Errorf("%d calls, want 5", rows)
	}
	h.spy.err = publish.ErrBusy
	r := httptest.NewRequest(http.MethodPost, Path, bytes.NewReader(inProtobuf))
	r.Header.Set("Content-Type", pb)
	w := httptest.NewRecorder()
	h.server.ServeHTTP(w, r)
	if w.Code != 503 || w.Header().Get("Retry-After") != "1" {
		t.Errorf("%d, %v", w.Code, w.Header())
	}
}

func FuzzHTTP(f *testing.F) {
	b, err := proto.Marshal(request(record("a")))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, false)
	f.Add(b, true) // bytes that are no text, quoted in the error
	f.Add([]byte(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[{}]}]}]}`), true)
	server, err := New(DefaultConfig(), Deps{Publisher: nowhere{}, Metrics: prometheus.NewRegistry(), Logger: zerolog.Nop()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, asJSON bool) {
		r := httptest.NewRequest(http.MethodPost, Path, bytes.NewReader(b))
		r.Header.Set("Content-Type", protobuf.contentType)
		if asJSON {
			r.Header.Set("Content-Type", jsonProto.contentType)
		}
		w := httptest.NewRecorder()
		server.ServeHTTP(w, r)
		if w.Code != 200 && w.Code != 400 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

type nowhere struct{}

func (nowhere) Append(*publish.Delivery, *call.Call) error { return nil }
