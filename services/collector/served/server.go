package served

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/service/metrics/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tollway/tollway/pipelines/call"
)

// Config of the metrics sink.
type Config struct {
	// IgnorePrefixes are connection managers that log no calls, such as
	// Envoy's own admin interface.
	IgnorePrefixes []string `yaml:"ignore_prefixes"`
	// MaxSeries bounds how many pairs of node and prefix are kept.
	MaxSeries int `yaml:"max_series"`
	// MaxPending bounds how many records wait while the sink takes none; then
	// the oldest are dropped and counted.
	MaxPending int `yaml:"max_pending"`
	// Grace is how long after a minute its last report may come.
	Grace time.Duration `yaml:"grace"`
}

// DefaultConfig is what is used where nothing is configured.
func DefaultConfig() Config {
	return Config{IgnorePrefixes: []string{"admin", "async-client"}, MaxSeries: 10_000, MaxPending: 10_000, Grace: 20 * time.Second}
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	switch {
	case c.MaxSeries <= 0:
		return fmt.Errorf("max_series: %d is not positive", c.MaxSeries)
	case c.MaxPending <= 0:
		return fmt.Errorf("max_pending: %d is not positive", c.MaxPending)
	case c.Grace <= 0:
		return fmt.Errorf("grace: %v is not positive", c.Grace)
	}
	return nil
}

// silence is after how long without a report a listener is forgotten.
const silence = time.Hour

// Sink takes records. It returns an error when it took none of them; they are
// then put again.
type Sink interface {
	Put(ctx context.Context, records []Served) error
}

// Deps are what a Server needs from others.
type Deps struct {
	Sink    Sink
	Clock   func() time.Time
	Tick    time.Duration // how often ended minutes are looked for; 0: 5 s
	Metrics prometheus.Registerer
	Logger  zerolog.Logger
}

// Server is the metrics sink.
type Server struct {
	metricsv3.UnimplementedMetricsServiceServer
	cfg    Config
	deps   Deps
	ignore map[string]bool
	stop   chan struct{}

	mu      sync.Mutex
	stopped bool
	ledger  *ledger
	pending []Served
	streams sync.WaitGroup

	reports, records, dropped, full prometheus.Counter
	open                            prometheus.Gauge
}

// New makes a sink; register it with Register and run it with Run.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Clock == nil {
		deps.Clock = time.Now
	}
	if deps.Tick == 0 {
		deps.Tick = 5 * time.Second
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "tollway_served_" + name, Help: help})
	}
	s := &Server{
		cfg: cfg, deps: deps, ignore: map[string]bool{}, stop: make(chan struct{}), ledger: newLedger(cfg.MaxSeries),
		reports: counter("reports_total", "Reports of Envoys received."),
		records: counter("records_total", "Records taken by the sink."),
		dropped: counter("records_dropped_total", "Records dropped because the sink took none for too long."),
		full:    counter("series_refused_total", "Reports of listeners beyond max_series."),
		open:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollway_served_open_streams", Help: "Envoys that report now."}),
	}
	for _, p := range cfg.IgnorePrefixes {
		s.ignore[p] = true
	}
	deps.Metrics.MustRegister(s.reports, s.records, s.dropped, s.full, s.open)
	return s, nil
}

// Register adds the service to a grpc server.
func (s *Server) Register(r grpc.ServiceRegistrar) { metricsv3.RegisterMetricsServiceServer(r, s) }

// Run hands records to the sink until ctx ends; then it ends the streams and
// hands over what there is, the minute under way included.
func (s *Server) Run(ctx context.Context) error {
	ticker := time.NewTicker(s.deps.Tick)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			now := s.deps.Clock()
			s.expire(now.Add(-s.cfg.Grace), now.Add(-silence))
			s.flush(ctx)
		case <-ctx.Done():
			s.mu.Lock()
			s.stopped = true
			s.mu.Unlock()
			close(s.stop)
			s.streams.Wait()
			s.expire(s.deps.Clock().Add(2*time.Minute), time.Time{})
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			s.flush(last)
			return nil
		}
	}
}

func (s *Server) expire(before, silent time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep(s.ledger.expire(before.UnixMilli(), silent.UnixMilli()))
}

// keep queues records, dropping the oldest when there are too many. The caller
// holds the lock.
func (s *Server) keep(records []Served) {
	s.pending = append(s.pending, records...)
	if over := len(s.pending) - s.cfg.MaxPending; over > 0 {
		s.pending = append(s.pending[:0:0], s.pending[over:]...)
		s.dropped.Add(float64(over))
	}
}

func (s *Server) flush(ctx context.Context) {
	s.mu.Lock()
	records := s.pending
	s.pending = nil
	s.mu.Unlock()
	if len(records) == 0 {
		return
	}
	if err := s.deps.Sink.Put(ctx, records); err != nil {
		s.deps.Logger.Error().Err(err).Int("records", len(records)).Msg("records of served calls kept for later")
		s.mu.Lock()
		newer := s.pending
		s.pending = nil
		s.keep(append(records, newer...))
		s.mu.Unlock()
		return
	}
	s.records.Add(float64(len(records)))
}

var errStopping = status.Error(codes.Unavailable, "the collector is stopping")

// StreamMetrics reads the reports of one Envoy.
func (s *Server) StreamMetrics(stream metricsv3.MetricsService_StreamMetricsServer) error {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return errStopping
	}
	s.streams.Add(1)
	s.mu.Unlock()
	s.open.Inc()
	result := make(chan error, 1)
	// A blocked read ends only when the handler returns.
	go func() {
		defer s.streams.Done()
		defer s.open.Dec()
		result <- s.read(stream)
	}()
	select {
	case err := <-result:
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&metricsv3.StreamMetricsResponse{})
		}
		return err
	case <-s.stop:
		return errStopping
	}
}

func (s *Server) read(stream metricsv3.MetricsService_StreamMetricsServer) error {
	var node, cluster string
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if n := m.GetIdentifier().GetNode(); n != nil {
			node, cluster = clean(n.GetId()), clean(n.GetCluster())
		}
		s.report(node, cluster, read(m.GetEnvoyMetrics(), s.ignore))
	}
}

func clean(s string) string { return strings.Clone(call.Clean(s, call.MaxString)) }

func (s *Server) report(node, cluster string, r reading) {
	s.reports.Inc()
	// The Envoy's clock says to which minute the numbers belong, unless it is
	// plainly wrong.
	now := s.deps.Clock().UnixMilli()
	if r.at > now-5*60_000 && r.at < now+60_000 {
		now = r.at
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep(s.ledger.add(node, cluster, now, r))
	s.full.Add(float64(s.ledger.full))
	s.ledger.full = 0
}
