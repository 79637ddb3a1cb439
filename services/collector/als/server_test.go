package als

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/publish"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// batchPublisher keeps calls as the real publisher does: in a batch, copied.
// While gate is locked it has no room.
type batchPublisher struct {
	gate  chan struct{} // nil: there is always room
	mu    sync.Mutex
	batch *call.Batch
}

func (p *batchPublisher) AppendWait(ctx context.Context, _ *publish.Delivery, c *call.Call) error {
	if p.gate != nil {
		select {
		case <-p.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.batch.Append(c)
	return nil
}

func (p *batchPublisher) rows() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.batch.Rows()
}

type harness struct {
	t         *testing.T
	publisher *batchPublisher
	registry  *prometheus.Registry
	conn      *grpc.ClientConn
	stop      context.CancelFunc // of the service
	stopped   chan error         // answers when Run has returned
}

func startServer(t *testing.T, cfg Config, gate chan struct{}, trusted bool) *harness {
	t.Helper()
	h := &harness{t: t, publisher: &batchPublisher{gate: gate, batch: call.NewBatch()},
		registry: prometheus.NewRegistry(), stopped: make(chan error, 1)}
	service, err := New(cfg, Deps{
		Publisher: h.publisher,
		Trusted:   func(context.Context) bool { return trusted },
		Clock:     func() time.Time { return now },
		Metrics:   h.registry,
		Logger:    zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(ServerOptions()...)
	service.Register(server)
	healthv1.RegisterHealthServer(server, health.NewServer())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	go func() { h.stopped <- service.Run(ctx) }()
	h.conn, err = grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		h.conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := <-h.stopped; err != nil {
			t.Error(err)
		}
		h.stopped <- nil
	})
	return h
}

func (h *harness) open() accesslogv3.AccessLogService_StreamAccessLogsClient {
	h.t.Helper()
	stream, err := accesslogv3.NewAccessLogServiceClient(h.conn).StreamAccessLogs(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	return stream
}

// eventually polls, because nothing tells when a stream's bytes were read.
func (h *harness) eventually(what string, ok func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("not in time: %s", what)
		}
	}
}

func identifierMessage() *accesslogv3.StreamAccessLogsMessage_Identifier {
	return &accesslogv3.StreamAccessLogsMessage_Identifier{LogName: "usage-v1", Node: &corev3.Node{
		Id: "edge-1", Cluster: "edge", Locality: &corev3.Locality{Region: "eu", Zone: "eu-1a"}}}
}

func httpMessage(entries ...*datav3.HTTPAccessLogEntry) *accesslogv3.StreamAccessLogsMessage {
	return &accesslogv3.StreamAccessLogsMessage{LogEntries: &accesslogv3.StreamAccessLogsMessage_HttpLogs{
		HttpLogs: &accesslogv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: entries}}}
}

func entryOf(kind datav3.AccessLogType, streamID string) *datav3.HTTPAccessLogEntry {
	e := typical()
	e.CommonProperties.AccessLogType = kind
	e.CommonProperties.StreamId = streamID
	return e
}

func TestStreamKeepsItsNode(t *testing.T) {
	h := startServer(t, DefaultConfig(), nil, true)
	stream := h.open()
	first := httpMessage(entryOf(datav3.AccessLogType_DownstreamEnd, "a"))
	first.Identifier = identifierMessage()
	tcp := &accesslogv3.StreamAccessLogsMessage{LogEntries: &accesslogv3.StreamAccessLogsMessage_TcpLogs{
		TcpLogs: &accesslogv3.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: []*datav3.TCPAccessLogEntry{{
			CommonProperties:     entryOf(datav3.AccessLogType_TcpConnectionEnd, "c").CommonProperties,
			ConnectionProperties: &datav3.ConnectionProperties{ReceivedBytes: 7, SentBytes: 9},
		}}}}}
	for _, m := range []*accesslogv3.StreamAccessLogsMessage{
		first,
		httpMessage(entryOf(datav3.AccessLogType_DownstreamStart, "b"), entryOf(datav3.AccessLogType_DownstreamPeriodic, "b"), entryOf(datav3.AccessLogType_DownstreamEnd, "b")),
		tcp,
	} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	b := h.publisher.batch
	if b.Rows() != 3 {
		t.Fatalf("%d calls, want 3", b.Rows())
	}
	for row, protocol := range []string{"HTTP/1.1", "HTTP/1.1", "TCP"} {
		for column, want := range map[call.StringColumn]string{call.Gateway: "edge-1", call.Source: "envoy/edge",
			call.Zone: "eu-1a", call.Account: "acme", call.Protocol: protocol} {
			if got := b.Strings[column].Value(row); got != want {
				t.Errorf("call %d: %v is %q, want %q", row, column, got, want)
			}
		}
	}
	if b.RequestBytes[2] != 7 || b.ResponseBytes[2] != 9 {
		t.Errorf("bytes of the TCP call: %d and %d", b.RequestBytes[2], b.ResponseBytes[2])
	}
	h.metric("tollway_collector_calls_in_total", 3)
	h.metric("tollway_collector_calls_out_total", 0) // which the log has yet to acknowledge
	h.metric("tollway_als_entries_skipped_total", 2)
	h.metric("tollway_als_streams_total", 1)
	h.metric("tollway_als_node_last_entry_timestamp_seconds", float64(now.Unix()))
}

// metric adds up all series of a name.
func (h *harness) metric(name string, want float64) {
	h.t.Helper()
	if got := h.value(name); got != want {
		h.t.Errorf("%s is %v, want %v", name, got, want)
	}
}

func (h *harness) value(name string) (sum float64) {
	h.t.Helper()
	families, err := h.registry.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

func TestUntrustedStreamCannotSayWhoCalled(t *testing.T) {
	h := startServer(t, DefaultConfig(), nil, false)
	stream := h.open()
	if err := stream.Send(httpMessage(typical())); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	for _, column := range []call.StringColumn{call.Account, call.App, call.Plan, call.Product, call.Credential, call.API, call.Version} {
		if got := h.publisher.batch.Strings[column].Value(0); got != "" {
			t.Errorf("%v is %q", column, got)
		}
	}
}

// bytesCodec sends messages that are already encoded.
type bytesCodec struct{}

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, errors.New("not bytes")
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}
func (bytesCodec) Unmarshal(mem.BufferSlice, any) error { return nil }
func (bytesCodec) Name() string                         { return "proto" }

func TestMalformedEntriesDoNotTakeTheirNeighbours(t *testing.T) {
	h := startServer(t, DefaultConfig(), nil, true)
	stream, err := h.conn.NewStream(context.Background(), &grpc.StreamDesc{ClientStreams: true},
		accesslogv3.AccessLogService_StreamAccessLogs_FullMethodName, grpc.ForceCodecV2(bytesCodec{}))
	if err != nil {
		t.Fatal(err)
	}
	good, err := proto.Marshal(typical())
	if err != nil {
		t.Fatal(err)
	}
	future := typical()
	future.CommonProperties.StartTime.Seconds += 3600
	late, err := proto.Marshal(future)
	if err != nil {
		t.Fatal(err)
	}
	var list []byte
	for _, e := range [][]byte{good, {0x0a, 3, 0x2a, 1, 0x08}, good, {}, late, good} {
		list = protowire.AppendBytes(protowire.AppendTag(list, 1, protowire.BytesType), e)
	}
	message := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), list)
	garbage := append(append([]byte{}, message...), 0x0a, 0x7f) // all of it, then a length past the end
	for _, b := range [][]byte{{0xff}, message, garbage, message} {
		if err := stream.SendMsg(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(nil); err != nil {
		t.Fatal(err)
	}
	if rows := h.publisher.rows(); rows != 9 {
		t.Errorf("%d calls, want 9", rows)
	}
	h.metric("tollway_collector_calls_in_total", 20)
	h.metric("tollway_collector_calls_rejected_total", 11)
	want := map[[2]string]float64{
		{"malformed", "start_time"}: 3, {"missing", "start_time"}: 3, {"future", "start_time"}: 3, {"malformed", "message"}: 2,
	}
	families, err := h.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "tollway_als_entries_rejected_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			key := [2]string{m.GetLabel()[1].GetValue(), m.GetLabel()[0].GetValue()}
			if want[key] != m.GetCounter().GetValue() {
				t.Errorf("%v: %v, want %v", key, m.GetCounter().GetValue(), want[key])
			}
			delete(want, key)
		}
	}
	if len(want) != 0 {
		t.Errorf("not counted: %v", want)
	}
}

func TestWhatWasReceivedOutlivesItsStream(t *testing.T) {
	gate := make(chan struct{})
	h := startServer(t, DefaultConfig(), gate, true)
	ctx, cut := context.WithCancel(context.Background())
	stream, err := accesslogv3.NewAccessLogServiceClient(h.conn).StreamAccessLogs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(httpMessage(typical(), typical(), typical())); err != nil {
		t.Fatal(err)
	}
	gate <- struct{}{} // the first is in, the others wait for room
	cut()
	gate <- struct{}{}
	gate <- struct{}{}
	h.eventually("three calls", func() bool { return h.publisher.rows() == 3 })
	h.eventually("the stream is closed", func() bool { return h.value("tollway_als_open_streams") == 0 })
	h.eventually("the cause is counted", func() bool { return h.value("tollway_als_streams_closed_total") == 1 })
}

// What a stream sends next after the stop is stored, and then the stream is
// over, long before the drain timeout.
func TestStopReadsOnUntilTheNextMessage(t *testing.T) {
	cfg := DefaultConfig()
	cfg.DrainTimeout = time.Minute
	h := startServer(t, cfg, nil, true)
	stream, ending := h.open(), h.open()
	for _, s := range []accesslogv3.AccessLogService_StreamAccessLogsClient{stream, ending} {
		if err := s.Send(httpMessage(typical())); err != nil {
			t.Fatal(err)
		}
	}
	h.eventually("the first calls", func() bool { return h.publisher.rows() == 2 })
	h.stop()
	h.eventually("new streams are refused", func() bool {
		_, err := h.open().CloseAndRecv()
		return err != nil
	})
	if err := stream.Send(httpMessage(typical())); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(&accesslogv3.StreamAccessLogsResponse{}); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ends with %v, want Unavailable", err)
	}
	if _, err := ending.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	if err := <-h.stopped; err != nil {
		t.Error(err)
	}
	h.stopped <- nil
	if rows := h.publisher.rows(); rows != 3 {
		t.Errorf("%d calls, want 3", rows)
	}
}

func TestStopEndsStreamsAtTheDeadline(t *testing.T) {
	cfg := DefaultConfig()
	cfg.DrainTimeout = 50 * time.Millisecond
	h := startServer(t, cfg, make(chan struct{}), true) // there is never room
	idle, blocked := h.open(), h.open()
	if err := blocked.Send(httpMessage(typical(), typical())); err != nil {
		t.Fatal(err)
	}
	h.eventually("both streams and the message", func() bool {
		return h.value("tollway_als_open_streams") == 2 && h.value("tollway_als_messages_total") == 1
	})
	h.stop()
	if err := <-h.stopped; err != nil {
		t.Error(err)
	}
	h.stopped <- nil
	for _, stream := range []accesslogv3.AccessLogService_StreamAccessLogsClient{idle, blocked} {
		if err := stream.RecvMsg(nil); err == nil {
			t.Error("a stream did not end")
		}
	}
	h.metric("tollway_collector_calls_rejected_total", 2)
	h.metric("tollway_collector_calls_in_total", 2)
}

func TestOtherServicesKeepTheirCodec(t *testing.T) {
	h := startServer(t, DefaultConfig(), nil, true)
	answer, err := healthv1.NewHealthClient(h.conn).Check(context.Background(), &healthv1.HealthCheckRequest{})
	if err != nil || answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", answer, err)
	}
}

func TestNodesShareAGaugeWhenThereAreMany(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxNodes = 2
	h := startServer(t, cfg, nil, true)
	for _, id := range []string{"a", "b", "c", "d"} {
		stream := h.open()
		m := httpMessage(typical())
		m.Identifier = &accesslogv3.StreamAccessLogsMessage_Identifier{Node: &corev3.Node{Id: id}}
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.CloseAndRecv(); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := testutil.GatherAndCount(h.registry, "tollway_als_node_last_entry_timestamp_seconds"); err != nil || n != 3 {
		t.Errorf("%d series, %v; want a, b and other", n, err)
	}
}
