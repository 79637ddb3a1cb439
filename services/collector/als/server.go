package als

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/envoy"
	"github.com/tollway/tollway/services/collector/publish"
)

// Publisher takes calls, copying what it keeps, and blocks while it has no
// room: that holds the stream's window, and so the Envoy, back.
type Publisher interface {
	AppendWait(ctx context.Context, d *publish.Delivery, c *call.Call) error
}

// Deps are what a Server needs from others.
type Deps struct {
	Publisher Publisher
	// Trusted says whether the principal of a stream, found by the server's
	// interceptors, may say who called. Nil trusts nobody.
	Trusted func(context.Context) bool
	Clock   func() time.Time
	Metrics prometheus.Registerer
	Logger  zerolog.Logger
}

// Server is the access log service.
type Server struct {
	cfg     Config
	deps    Deps
	mapper  *envoy.Mapper
	metrics *metrics
	receipt *publish.Delivery // of all streams: no Envoy can be told
	logger  zerolog.Logger    // sampled: an Envoy that sends nonsense sends much

	// Streams publish under a context of the server, not of the stream: what
	// was received is kept when its stream breaks.
	publish context.Context
	abort   context.CancelFunc
	stop    chan struct{} // closed when streams have to end

	mu      sync.Mutex
	stopped bool
	streams sync.WaitGroup
}

// New makes a service; register it with Register and run it with Run.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	mapper, err := envoy.NewMapper(cfg.Config)
	if err != nil {
		return nil, err
	}
	if deps.Trusted == nil {
		deps.Trusted = func(context.Context) bool { return false }
	}
	if deps.Clock == nil {
		deps.Clock = time.Now
	}
	s := &Server{
		cfg: cfg, deps: deps, mapper: mapper,
		metrics: newMetrics(deps.Metrics, cfg.MaxNodes),
		logger:  deps.Logger.Sample(&zerolog.BurstSampler{Burst: 3, Period: 10 * time.Second}),
		stop:    make(chan struct{}),
	}
	s.receipt = publish.NewTally(s.metrics.calls.Out, s.metrics.calls.Rejected("unacknowledged"))
	s.publish, s.abort = context.WithCancel(context.Background())
	return s, nil
}

// Register adds the service to a grpc server that has the options of
// ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: accesslogv3.AccessLogService_ServiceDesc.ServiceName,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName:    "StreamAccessLogs",
			ClientStreams: true,
			Handler:       func(_ any, stream grpc.ServerStream) error { return s.serve(stream) },
		}},
		Metadata: accesslogv3.AccessLogService_ServiceDesc.Metadata,
	}, s)
}

// Run waits for ctx to end, then ends each stream when its next message has
// come, or the drain timeout is over, and waits until what they received is
// published. An Envoy sends what it has gathered every half second or so: right
// after a message nothing is under way that the end of a stream could lose. The
// grpc server should be told to stop gracefully at the same time: that asks the
// Envoys to go elsewhere. The publisher must outlive Run.
func (s *Server) Run(ctx context.Context) error {
	<-ctx.Done()
	drained := make(chan struct{})
	s.mu.Lock()
	s.stopped = true // no stream is added to the group from here on
	s.mu.Unlock()
	var waiter sync.WaitGroup
	waiter.Go(func() { s.streams.Wait(); close(drained) })
	defer waiter.Wait()

	timer := time.NewTimer(s.cfg.DrainTimeout)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
	}
	close(s.stop)
	// A publisher without room must not hold the service up for ever.
	timer.Reset(s.cfg.DrainTimeout)
	select {
	case <-drained:
	case <-timer.C:
	}
	s.abort()
	return nil
}

func (s *Server) draining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

// stream is one stream of one worker thread of an Envoy.
type stream struct {
	server  *Server
	decoder *Decoder
	trusted bool
	node    *envoy.Node
	last    prometheus.Gauge // nil while the node is not known
	call    call.Call

	// busy is held while a message is published, so that the stream is not
	// ended in the middle of one.
	busy  sync.Mutex
	ended bool
}

var errStopping = status.Error(codes.Unavailable, "the collector is stopping")

// serve reads a stream until it ends. Reading is done by a goroutine of its
// own, because a blocked read ends only when the handler returns.
func (s *Server) serve(g grpc.ServerStream) error {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return errStopping
	}
	s.streams.Add(1)
	s.mu.Unlock()

	s.metrics.opened.Inc()
	s.metrics.open.Inc()
	st := &stream{
		server:  s,
		decoder: NewDecoder(s.mapper),
		trusted: s.deps.Trusted(g.Context()),
		node:    &envoy.Node{Source: s.mapper.Source("")},
	}
	result := make(chan error, 1)
	go func() {
		defer s.streams.Done()
		defer s.metrics.open.Dec()
		result <- st.read(g)
	}()

	select {
	case err := <-result:
		return s.end(g, err)
	case <-s.stop:
		st.busy.Lock()
		st.ended = true
		st.busy.Unlock()
		s.metrics.closed.WithLabelValues("shutdown").Inc()
		return errStopping
	}
}

// end answers a stream whose reading ended with err.
func (s *Server) end(g grpc.ServerStream, err error) error {
	switch {
	case errors.Is(err, io.EOF):
		s.metrics.closed.WithLabelValues("client").Inc()
		return g.SendMsg(&accesslogv3.StreamAccessLogsResponse{})
	case errors.Is(err, errStopping):
		s.metrics.closed.WithLabelValues("shutdown").Inc()
		return err
	case status.Code(err) == codes.Canceled:
		s.metrics.closed.WithLabelValues("broken").Inc()
		return err
	}
	s.metrics.closed.WithLabelValues("error").Inc()
	s.logger.Warn().Err(err).Msg("access log stream ended")
	return err
}

func (st *stream) read(g grpc.ServerStream) error {
	var raw Raw
	defer raw.Free()
	for {
		if err := g.RecvMsg(&raw); err != nil {
			return err
		}
		st.busy.Lock()
		if st.ended {
			st.busy.Unlock()
			return errStopping
		}
		err := st.message(raw.Bytes())
		st.busy.Unlock()
		raw.Free()
		if err != nil {
			return err
		}
		if st.server.draining() {
			return errStopping
		}
	}
}

// tally counts what a message held, so that metrics are touched once per
// message.
type tally struct{ in int }

// message publishes the entries of one message. Only a publisher that has
// stopped is an error: what cannot be read is counted and left out.
func (st *stream) message(b []byte) error {
	m := st.server.metrics
	m.messages.Inc()
	m.bytes.Add(float64(len(b)))
	now := st.server.deps.Clock()
	var t tally
	defer func() {
		m.calls.In.Add(float64(t.in))
		if t.in > 0 && st.last != nil {
			st.last.Set(float64(now.UnixMilli()) / 1e3)
		}
	}()
	// The identifier counts for the whole message, wherever it stands.
	st.findNode(b)
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			st.reject(&t, envoy.Malformed("message"))
			return nil
		}
		b = b[n:]
		var err error
		switch f.key {
		case 2<<3 | bytes:
			err = st.entries(f.b, st.decoder.HTTP, now, &t)
		case 3<<3 | bytes:
			err = st.entries(f.b, st.decoder.TCP, now, &t)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type decode func(b []byte, n *envoy.Node, trusted bool, now int64, c *call.Call) (bool, error)

// entries publishes a list of entries of one kind.
func (st *stream) entries(b []byte, decode decode, now time.Time, t *tally) error {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			st.reject(t, envoy.Malformed("log_entry"))
			return nil
		}
		b = b[n:]
		if f.key != 1<<3|bytes {
			continue
		}
		stored, err := decode(f.b, st.node, st.trusted, now.UnixMicro(), &st.call)
		switch {
		case err != nil:
			st.reject(t, err)
		case !stored:
			st.server.metrics.skipped.WithLabelValues(st.decoder.Type()).Inc()
		default:
			t.in++
			if err := st.server.deps.Publisher.AppendWait(st.server.publish, st.server.receipt, &st.call); err != nil {
				// The rest of the message is lost with it: the protocol has no
				// way to hand it back.
				lost := 1 + count(b)
				t.in += lost - 1
				st.server.metrics.calls.Rejected("stopped").Add(float64(lost))
				st.server.logger.Error().Err(err).Int("entries", lost).Str("node", st.node.ID).Msg("access log entries lost")
				return status.Error(codes.Unavailable, fmt.Sprintf("publish: %v", err))
			}
		}
	}
	return nil
}

// count is how many entries a list holds.
func count(b []byte) (entries int) {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			break
		}
		if b = b[n:]; f.key == 1<<3|bytes {
			entries++
		}
	}
	return entries
}

func (st *stream) reject(t *tally, err error) {
	t.in++
	reject := &envoy.Reject{Reason: "other"}
	errors.As(err, &reject)
	st.server.metrics.calls.Rejected(reject.Reason).Inc()
	st.server.metrics.fields.WithLabelValues(reject.Reason, reject.Field).Inc()
	st.server.logger.Warn().Str("node", st.node.ID).Str("reason", reject.Reason).Str("field", reject.Field).Msg("access log entry rejected")
}
