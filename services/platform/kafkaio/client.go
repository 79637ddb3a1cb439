package kafkaio

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	kafka "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/sasl"

	"github.com/tollway/tollway/services/platform/logging"
)

// minRefreshInterval keeps a cluster in trouble from being flooded with metadata
// requests and new connections.
const minRefreshInterval = 250 * time.Millisecond

// requestSlack is added to the time limit that a broker was told, so that its
// answer, and not our own deadline, ends a slow request.
const requestSlack = 2 * time.Second

// Client holds the connections to one Kafka cluster. It is safe for concurrent
// use. Close it last.
type Client struct {
	cfg       Config
	log       zerolog.Logger
	sampled   zerolog.Logger
	metrics   *metrics
	addr      net.Addr
	transport *kafka.Transport
	kafka     *kafka.Client
	mechanism sasl.Mechanism
	conns     *connTracker

	refreshMu   sync.Mutex
	lastRefresh time.Time
}

// Option changes how a client is opened.
type Option func(*options)

type options struct{ registerer prometheus.Registerer }

// WithRegisterer registers the client's metrics. At most one client per registry.
func WithRegisterer(reg prometheus.Registerer) Option {
	return func(o *options) { o.registerer = reg }
}

// Open makes a client. It does not wait for a broker: the first call does.
func Open(cfg Config, log zerolog.Logger, opts ...Option) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("kafka config: %w", err)
	}
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	tlsConfig, err := cfg.TLS.build()
	if err != nil {
		return nil, err
	}
	mechanism, err := cfg.SASL.build()
	if err != nil {
		return nil, fmt.Errorf("prepare sasl: %w", err)
	}
	m, err := newMetrics(o.registerer)
	if err != nil {
		return nil, fmt.Errorf("register kafka metrics: %w", err)
	}
	c := &Client{
		cfg: cfg, log: log, sampled: logging.Sampled(log, 3, 10*time.Second), metrics: m,
		addr: kafka.TCP(cfg.Brokers...), mechanism: mechanism, conns: newConnTracker(m),
	}
	c.transport = &kafka.Transport{
		Dial:        c.conns.dial,
		DialTimeout: cfg.DialTimeout,
		IdleTimeout: time.Minute,
		MetadataTTL: cfg.MetadataTTL,
		ClientID:    cfg.ClientID,
		TLS:         tlsConfig,
		SASL:        mechanism,
	}
	c.kafka = &kafka.Client{Addr: c.addr, Transport: c.transport}
	return c, nil
}

// Close ends every connection. Calls that are still running fail with a network
// error.
func (c *Client) Close() error {
	c.transport.CloseIdleConnections()
	c.conns.closeForGood()
	return nil
}

// roundTrip sends one request to the broker that is responsible for it. Every
// request has a deadline, because a broker that hangs without closing its
// connection would otherwise be waited for without end.
func (c *Client) roundTrip(ctx context.Context, limit time.Duration, req protocol.Message) (protocol.Message, error) {
	if c.conns.isClosed() {
		return nil, ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return c.transport.RoundTrip(ctx, c.addr, req)
}

// failed decides what follows a failed attempt: nil after a pause to try again,
// or the error to hand up. It drops cached metadata, since a moved leader, a dead
// connection and a lost broker all look alike from here.
func (c *Client) failed(ctx context.Context, request string, b *backoff, err error) error {
	if ctx.Err() != nil {
		return interrupted(ctx, err)
	}
	if c.conns.isClosed() {
		return ErrClosed
	}
	if !retriable(err) {
		return err
	}
	c.metrics.retries.WithLabelValues(request, reason(err)).Inc()
	c.sampled.Warn().Err(err).Str("request", request).Msg("kafka request is repeated")
	c.refresh()
	if b.wait(ctx) != nil {
		return interrupted(ctx, err)
	}
	return nil
}

// interrupted joins the end of the context with the error that kept us trying,
// which is what an operator wants to know.
func interrupted(ctx context.Context, last error) error {
	if last == nil || errors.Is(last, ctx.Err()) {
		return ctx.Err()
	}
	return fmt.Errorf("%w (last error: %w)", ctx.Err(), last)
}

// refresh forgets connections and metadata; requests in flight end undisturbed on
// the old ones.
func (c *Client) refresh() {
	c.refreshMu.Lock()
	defer c.refreshMu.Unlock()
	if now := time.Now(); now.Sub(c.lastRefresh) >= minRefreshInterval {
		c.lastRefresh = now
		c.metrics.refreshes.Inc()
		c.transport.CloseIdleConnections()
	}
}

// retry calls fn until it succeeds, fails for good, or the context ends.
func (c *Client) retry(ctx context.Context, request string, fn func() error) error {
	b := c.newBackoff()
	for {
		err := fn()
		if err == nil {
			return nil
		}
		if err := c.failed(ctx, request, &b, err); err != nil {
			return err
		}
	}
}

func (c *Client) metadata(ctx context.Context, topic string) (kafka.Topic, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	res, err := c.kafka.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{topic}})
	if err != nil {
		return kafka.Topic{}, err
	}
	if len(res.Topics) != 1 {
		return kafka.Topic{}, kafka.UnknownTopicOrPartition
	}
	return res.Topics[0], res.Topics[0].Error
}

// Partitions lists the partitions of a topic in order. It waits for a topic that
// does not exist yet until the context ends.
func (c *Client) Partitions(ctx context.Context, topic string) ([]int32, error) {
	var out []int32
	err := c.retry(ctx, "metadata", func() error {
		t, err := c.metadata(ctx, topic)
		if err != nil {
			return err
		}
		out = out[:0]
		for _, p := range t.Partitions {
			out = append(out, int32(p.ID))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list partitions of %s: %w", topic, err)
	}
	slices.Sort(out)
	return out, nil
}

// OffsetRange is what a partition holds: First is the oldest offset that can be
// read, Last the one the next message will get.
type OffsetRange struct{ First, Last int64 }

// Offsets returns the offset range of every partition of a topic.
func (c *Client) Offsets(ctx context.Context, topic string) (map[int32]OffsetRange, error) {
	partitions, err := c.Partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	return c.offsets(ctx, topic, partitions)
}

func (c *Client) offsets(ctx context.Context, topic string, partitions []int32) (map[int32]OffsetRange, error) {
	var want []kafka.OffsetRequest
	for _, p := range partitions {
		want = append(want, kafka.FirstOffsetOf(int(p)), kafka.LastOffsetOf(int(p)))
	}
	out := make(map[int32]OffsetRange, len(partitions))
	err := c.retry(ctx, "list_offsets", func() error {
		ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
		defer cancel()
		res, err := c.kafka.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{topic: want}})
		if err != nil {
			return err
		}
		for _, p := range res.Topics[topic] {
			if p.Error != nil {
				return p.Error
			}
			out[int32(p.Partition)] = OffsetRange{First: p.FirstOffset, Last: p.LastOffset}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list offsets of %s: %w", topic, err)
	}
	return out, nil
}

// connTracker dials and remembers what is open, so that closing the client really
// ends the goroutines that read from those connections.
type connTracker struct {
	metrics *metrics
	dialer  net.Dialer

	mu     sync.Mutex
	open   map[*trackedConn]struct{}
	closed bool
}

func newConnTracker(m *metrics) *connTracker {
	return &connTracker{metrics: m, dialer: net.Dialer{KeepAlive: 15 * time.Second}, open: map[*trackedConn]struct{}{}}
}

type trackedConn struct {
	net.Conn
	tracker *connTracker
}

func (t *connTracker) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if t.isClosed() {
		return nil, ErrClosed
	}
	conn, err := t.dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	tracked := &trackedConn{Conn: conn, tracker: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		conn.Close()
		return nil, ErrClosed
	}
	t.open[tracked] = struct{}{}
	t.metrics.connections.Inc()
	return tracked, nil
}

func (t *connTracker) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// closeAll breaks what is open now; new connections may follow.
func (t *connTracker) closeAll() {
	t.mu.Lock()
	conns := make([]*trackedConn, 0, len(t.open))
	for c := range t.open {
		conns = append(conns, c)
	}
	t.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

func (t *connTracker) closeForGood() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.closeAll()
}

func (c *trackedConn) Close() error {
	c.tracker.mu.Lock()
	if _, ok := c.tracker.open[c]; ok {
		delete(c.tracker.open, c)
		c.tracker.metrics.connections.Dec()
	}
	c.tracker.mu.Unlock()
	return c.Conn.Close()
}
