package served

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/service/metrics/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	metrics "github.com/prometheus/client_model/go"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC)

func counter(name string, v float64, labels ...string) *metrics.MetricFamily {
	return family(name, &metrics.Metric{Counter: &metrics.Counter{Value: proto.Float64(v)}}, labels)
}

func gauge(name string, v float64, labels ...string) *metrics.MetricFamily {
	return family(name, &metrics.Metric{Gauge: &metrics.Gauge{Value: proto.Float64(v)}}, labels)
}

func family(name string, m *metrics.Metric, labels []string) *metrics.MetricFamily {
	for i := 0; i+1 < len(labels); i += 2 {
		m.Label = append(m.Label, &metrics.LabelPair{Name: proto.String(labels[i]), Value: proto.String(labels[i+1])})
	}
	return &metrics.MetricFamily{Name: proto.String(name), Metric: []*metrics.Metric{m}}
}

func TestReadBothForms(t *testing.T) {
	for name, families := range map[string][]*metrics.MetricFamily{
		"labels": {
			counter("http.downstream_rq_total", 100, prefixLabel, "edge"), gauge("http.downstream_rq_active", 7, prefixLabel, "edge"),
			counter("http.downstream_rq_total", 3, prefixLabel, "admin"), counter("http.downstream_rq_2xx", 5, prefixLabel, "edge"),
			counter("access_logs.grpc_access_log.logs_written", 90), counter("access_logs.grpc_access_log.logs_dropped", 2),
		},
		"names": {
			counter("http.edge.downstream_rq_total", 100), gauge("http.edge.downstream_rq_active", 7),
			counter("http.admin.downstream_rq_total", 3), counter("http.edge.not_downstream_rq_total", 5),
			counter("access_logs.grpc_access_log.logs_written", 90), counter("access_logs.grpc_access_log.logs_dropped", 2),
			counter("cluster.orders.upstream_rq_total", 99), nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := read(families, map[string]bool{"admin": true})
			if len(r.prefixes) != 1 || r.prefixes["edge"] == nil || *r.prefixes["edge"] != (count{100, 7, true, true}) || r.written != 90 || r.dropped != 2 {
				t.Errorf("got %+v", r)
			}
		})
	}
}

// The calls in all records of a listener are those that ended between the
// first and the last report, whatever minutes and restarts lie between.
func TestLedgerAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLedger(10)
		var records []Served
		now, begun, ended, want, firstEnded := start.UnixMilli(), uint64(0), uint64(0), int64(0), true
		split := rapid.Bool().Draw(t, "split") // totals and gauges in messages of their own
		report := func() {
			all := count{begun, begun - ended, true, true}
			messages := []count{all}
			if split {
				messages = []count{{total: all.total, hasTotal: true}, {active: all.active, hasActive: true}}
			}
			for _, c := range messages {
				records = append(records, l.add("n", "c", now, reading{prefixes: map[string]*count{"edge": &c}})...)
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "reports") {
			now += rapid.Int64Range(1, 70_000).Draw(t, "ms")
			if rapid.IntRange(0, 9).Draw(t, "restart") == 0 && begun > 0 {
				begun, ended = 0, 0
			} else {
				begun += rapid.Uint64Range(0, 100).Draw(t, "begun")
				finished := rapid.Uint64Range(0, begun-ended).Draw(t, "ended")
				ended += finished
				if !firstEnded {
					want += int64(finished)
				}
			}
			firstEnded = false
			report()
		}
		records = append(records, l.expire(now+3_600_000, 0)...)
		got, last := int64(0), int64(0)
		for i, r := range records {
			got += r.Ended
			if r.Minute <= last || r.First != (i == 0) || r.Reports == 0 {
				t.Fatalf("record %d: %+v", i, r)
			}
			last = r.Minute
		}
		if got != want {
			t.Errorf("records say %d, ended were %d", got, want)
		}
	})
}

func TestLedgerIsBounded(t *testing.T) {
	l := newLedger(1)
	r := reading{prefixes: map[string]*count{"a": {1, 0, true, true}}}
	l.add("n1", "", 0, r)
	l.add("n2", "", 0, r)
	if len(l.series) != 1 || l.full != 1 {
		t.Errorf("%d series, %d refused", len(l.series), l.full)
	}
	l.expire(120_000, 0)
	l.expire(120_000, 1)
	if len(l.series) != 0 {
		t.Error("a silent listener was kept")
	}
}

type memorySink struct {
	mu      sync.Mutex
	fail    int
	records []Served
}

func (s *memorySink) Put(_ context.Context, records []Served) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail > 0 {
		s.fail--
		return errors.New("away")
	}
	s.records = append(s.records, records...)
	return nil
}

func (s *memorySink) taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records)
}

func TestStreamToSink(t *testing.T) {
	sink := &memorySink{fail: 1}
	service, err := New(DefaultConfig(), Deps{Sink: sink, Clock: func() time.Time { return start }, Tick: 10 * time.Millisecond,
		Metrics: prometheus.NewRegistry(), Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	service.Register(server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- service.Run(ctx) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := metricsv3.NewMetricsServiceClient(conn).StreamMetrics(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	message := func(after time.Duration, total float64) *metricsv3.StreamMetricsMessage {
		m := &metricsv3.StreamMetricsMessage{EnvoyMetrics: []*metrics.MetricFamily{counter("http.edge.downstream_rq_total", total), gauge("http.edge.downstream_rq_active", 1)}}
		m.EnvoyMetrics[0].Metric[0].TimestampMs = proto.Int64(start.Add(after).UnixMilli())
		return m
	}
	first := message(-100*time.Second, 10)
	first.Identifier = &metricsv3.StreamMetricsMessage_Identifier{Node: &corev3.Node{Id: "edge-1", Cluster: "edge"}}
	for _, m := range []*metricsv3.StreamMetricsMessage{first, message(-80*time.Second, 30), message(-10*time.Second, 50)} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	// The first Put is refused; a later tick puts the records again.
	for deadline := time.Now().Add(10 * time.Second); sink.taken() == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	conn.Close()
	server.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	m := start.Unix()
	want := []Served{
		{Minute: m - 120, Node: "edge-1", Cluster: "edge", Prefix: "edge", Total: 30, Active: 1, Ended: 20, First: true, Reports: 2},
		{Minute: m - 60, Node: "edge-1", Cluster: "edge", Prefix: "edge", Total: 50, Active: 1, Ended: 20, Reports: 1},
	}
	if diff := cmp.Diff(want, sink.records); diff != "" {
		t.Error(diff)
	}
}

func TestRecordIsStableJSON(t *testing.T) {
	r := Served{Minute: 60, Node: "n", Cluster: "c", Prefix: "p", Total: 5, Active: 1, Ended: 4, Restarts: 1, Reports: 12, LogsWritten: 5, LogsDropped: 2}
	b, err := Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"minute":60,"node":"n","cluster":"c","prefix":"p","total":5,"active":1,"ended":4,"restarts":1,"reports":12,"logs_written":5,"logs_dropped":2}`
	if string(b) != want {
		t.Errorf("got %s", b)
	}
	if back, err := Decode(b); err != nil || back != r {
		t.Errorf("got %+v, %v", back, err)
	}
	if string(r.Key()) != "n|p" {
		t.Errorf("key %s", r.Key())
	}
}
