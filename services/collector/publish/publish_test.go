package publish

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/platform/kafkaio"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memoryLog keeps what was acknowledged. fate, if set, is asked before a
// produce takes effect and may delay it or refuse it; stored says that the
// messages landed although an error is returned.
type memoryLog struct {
	fate func(ctx context.Context, partition int) (stored bool, err error)

	mu       sync.Mutex
	messages map[int][]Message
	topics   map[string]bool
}

func (l *memoryLog) Produce(ctx context.Context, topic string, partition int, messages []Message) error {
	stored, err := true, error(nil)
	if l.fate != nil {
		stored, err = l.fate(ctx, partition)
	}
	if !stored {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.messages == nil {
		l.messages, l.topics = map[int][]Message{}, map[string]bool{}
	}
	l.topics[topic] = true
	for _, m := range messages {
		m.Value = append([]byte(nil), m.Value...)
		l.messages[partition] = append(l.messages[partition], m)
	}
	return err
}

// ids counts how often each ID is stored, and checks that it is where it
// belongs.
func (l *memoryLog) ids(t require.TestingT, partitions int) map[call.ID]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := map[call.ID]int{}
	for partition, messages := range l.messages {
		for _, m := range messages {
			b := call.NewBatch()
			_, err := b.AppendMessage(m.Value, 0)
			require.NoError(t, err)
			for _, id := range b.ID {
				require.Equal(t, partition, id.Partition(partitions))
				ids[id]++
			}
		}
	}
	return ids
}

type running struct {
	*Publisher
	reg  *prometheus.Registry
	stop func() error
}

func start(t testing.TB, cfg Config, partitions int, log Log) *running {
	require.NoError(t, cfg.Validate())
	reg := prometheus.NewRegistry()
	p := New(cfg, partitions, log, time.Now, reg, zerolog.Nop())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop := sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	return &running{Publisher: p, reg: reg, stop: stop}
}

func numbered(n int) *call.Call {
	c := &call.Call{}
	c.Reset()
	c.ID = call.NewID("test", strconv.Itoa(n))
	c.Time, c.ReceivedAt, c.Status = int64(n), int64(n)+1, 200
	c.Strings[call.Source] = "test"
	return c
}

func TestWaitReturnsOnceTheLogHasAcknowledged(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	log := &memoryLog{fate: func(ctx context.Context, _ int) (bool, error) {
		select {
		case <-release:
			return true, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}}
	p := start(t, DefaultConfig(), 3, log)
	d := NewDelivery()
	for i := range 100 {
		require.NoError(t, p.Append(d, numbered(i)))
	}
	short, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, d.Wait(short), context.DeadlineExceeded)
	close(release)
	require.NoError(t, d.Wait(t.Context()))
	require.Len(t, log.ids(t, 3), 100)
	require.Equal(t, map[string]bool{"tollway.calls.v1": true}, log.topics)
	require.Equal(t, call.ContentType, string(log.messages[0][0].Headers[0].Value))
	require.Equal(t, call.SchemaFingerprint(), string(log.messages[0][0].Headers[1].Value))
	require.NoError(t, p.stop())
	require.EqualValues(t, 0, p.held.Load())
	require.EqualValues(t, 100, testutil.ToFloat64(p.metrics.acknowledged))
	require.EqualValues(t, 100, p.callsIn())
	require.Zero(t, p.Oldest())
}

// A source that cannot tell its senders anything has no receipt; its calls lie
// in batches with those of sources that have one.
func TestCallsWithoutAReceipt(t *testing.T) {
	t.Parallel()
	log := &memoryLog{}
	p := start(t, DefaultConfig(), 1, log)
	d := NewDelivery()
	require.NoError(t, p.Append(nil, numbered(1)))
	require.NoError(t, p.Append(d, numbered(2)))
	require.NoError(t, p.AppendWait(t.Context(), nil, numbered(3)))
	require.NoError(t, p.Append(d, numbered(4)))
	require.NoError(t, d.Wait(t.Context()))
	require.NoError(t, p.stop())
	require.Len(t, log.ids(t, 1), 4)
}

// Sources that nobody can tell anything share a receipt that counts, whatever
// lies between their calls.
func TestATallyCountsWhatTheLogHasAcknowledged(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	log := &memoryLog{fate: func(ctx context.Context, _ int) (bool, error) {
		select {
		case <-release:
			return true, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}}
	cfg := DefaultConfig()
	cfg.FlushRows, cfg.StopTimeout = 10, 20*time.Millisecond
	p := start(t, cfg, 2, log)
	out, failed := prometheus.NewCounter(prometheus.CounterOpts{Name: "out"}), prometheus.NewCounter(prometheus.CounterOpts{Name: "failed"})
	d, other := NewTally(out, failed), NewDelivery()
	for i := range 100 {
		require.NoError(t, p.Append(d, numbered(2*i)))
		require.NoError(t, p.Append(other, numbered(2*i+1)))
	}
	require.Zero(t, testutil.ToFloat64(out))
	close(release)
	require.NoError(t, other.Wait(t.Context()))
	require.NoError(t, d.Wait(t.Context()))
	require.EqualValues(t, 100, testutil.ToFloat64(out))
	require.Zero(t, testutil.ToFloat64(failed))
	require.NoError(t, p.stop())

	p = start(t, cfg, 2, &memoryLog{fate: func(context.Context, int) (bool, error) { return false, errors.New("down") }})
	for i := range 7 {
		require.NoError(t, p.Append(d, numbered(i)))
	}
	require.Error(t, p.stop())
	require.EqualValues(t, 100, testutil.ToFloat64(out))
	require.EqualValues(t, 7, testutil.ToFloat64(failed))
}

func TestWaitForNothing(t *testing.T) {
	require.NoError(t, NewDelivery().Wait(t.Context()))
}

// A source that waits is served after AckLinger although neither the batch is
// full nor its time is over, also when it appends while it waits.
func TestWaitHurriesTheBatch(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.FlushInterval, cfg.AckLinger = time.Hour, time.Millisecond
	p := start(t, cfg, 1, &memoryLog{})
	d := NewDelivery()
	require.NoError(t, p.Append(d, numbered(1)))
	require.NoError(t, d.Wait(t.Context()))

	// The waiting flag is what a concurrent Wait sets.
	d.mu.Lock()
	d.waiters++
	d.mu.Unlock()
	require.NoError(t, p.Append(d, numbered(2)))
	require.Eventually(t, func() bool { return testutil.ToFloat64(p.metrics.acknowledged) == 2 }, 5*time.Second, time.Millisecond)
}

func TestFlushByEachBound(t *testing.T) {
	t.Parallel()
	never := DefaultConfig()
	never.FlushInterval = time.Hour
	for name, cfg := range map[string]Config{
		"rows":     func(c Config) Config { c.FlushRows = 10; return c }(never),
		"bytes":    func(c Config) Config { c.FlushBytes = 1000; return c }(never),
		"interval": func(c Config) Config { c.FlushInterval = 5 * time.Millisecond; c.AckLinger = 0; return c }(never),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, cfg, 1, &memoryLog{})
			d := NewDelivery()
			for i := range 10 {
				require.NoError(t, p.Append(d, numbered(i)))
			}
			require.Eventually(t, func() bool { return testutil.ToFloat64(p.metrics.acknowledged) > 0 }, 5*time.Second, time.Millisecond)
		})
	}
}

func TestMemoryBound(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	down.Store(true)
	log := &memoryLog{fate: func(context.Context, int) (bool, error) {
		if down.Load() {
			return false, errors.New("broker away")
		}
		return true, nil
	}}
	cfg := DefaultConfig()
	cfg.FlushBytes, cfg.FlushRows, cfg.MaxInFlightBytes = 4096, 10, 32<<10
	cfg.RetryMin, cfg.RetryMax = time.Millisecond, 2*time.Millisecond
	p := start(t, cfg, 4, log)
	d := NewDelivery()
	n := 0
	for p.Append(d, numbered(n)) == nil {
		n++
		require.Less(t, n, 100_000)
	}
	require.ErrorIs(t, p.Append(d, numbered(n)), ErrBusy)
	// Encoding changes what a batch counts for, so the bound may open again
	// for a few calls; it has to close again.
	require.Less(t, p.held.Load(), int64(128<<10))

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	var err error
	for err == nil {
		if err = p.AppendWait(ctx, d, numbered(n)); err == nil {
			n++
		}
	}
	require.ErrorIs(t, err, context.DeadlineExceeded)

	down.Store(false)
	require.NoError(t, p.AppendWait(t.Context(), d, numbered(n)))
	require.NoError(t, d.Wait(t.Context()))
	require.Len(t, log.ids(t, 4), n+1)
	require.GreaterOrEqual(t, testutil.ToFloat64(p.metrics.busy), 1.0)
}

func TestStopFlushesWhatIsHeld(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.FlushInterval = time.Hour
	log := &memoryLog{}
	p := start(t, cfg, 4, log)
	d := NewDelivery()
	for i := range 50 {
		require.NoError(t, p.Append(d, numbered(i)))
	}
	require.NoError(t, p.stop())
	require.NoError(t, d.Wait(t.Context()))
	require.Len(t, log.ids(t, 4), 50)
	require.ErrorIs(t, p.Append(d, numbered(51)), ErrStopped)
	require.ErrorIs(t, p.AppendWait(t.Context(), d, numbered(51)), ErrStopped)
}

func TestStopGivesUpAtItsDeadline(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.StopTimeout = 20 * time.Millisecond
	p := start(t, cfg, 2, &memoryLog{fate: func(context.Context, int) (bool, error) {
		return false, errors.New("broker away")
	}})
	d := NewDelivery()
	for i := range 10 {
		require.NoError(t, p.Append(d, numbered(i)))
	}
	require.Error(t, p.stop())
	require.ErrorIs(t, d.Wait(t.Context()), ErrStopped)
	require.EqualValues(t, 0, p.held.Load())
	require.EqualValues(t, 10, testutil.ToFloat64(p.metrics.failed))
}

// Whatever the log does, a Delivery that ends well means that each of its
// calls is stored, and calls of a log that answers well are stored once.
func TestEveryAcknowledgedCallIsStored(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		cfg := DefaultConfig()
		cfg.FlushRows = rapid.IntRange(3, 40).Draw(rt, "rows")
		cfg.FlushBytes = rapid.IntRange(1000, 20_000).Draw(rt, "bytes")
		cfg.FlushInterval = time.Duration(rapid.IntRange(1, 20).Draw(rt, "interval")) * time.Millisecond
		cfg.AckLinger = min(cfg.FlushInterval, time.Millisecond)
		cfg.MaxInFlightBytes = int64(max(cfg.FlushBytes, rapid.IntRange(1000, 100_000).Draw(rt, "held")))
		cfg.RetryMin, cfg.RetryMax = time.Microsecond, time.Millisecond
		partitions := rapid.IntRange(1, 6).Draw(rt, "partitions")
		failures := rapid.IntRange(0, 30).Draw(rt, "failures in 100")
		log := &memoryLog{fate: func(context.Context, int) (bool, error) {
			if rand.IntN(4) == 0 {
				time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond)
			}
			if rand.IntN(100) < failures {
				return rand.IntN(2) == 0, errors.New("answer lost")
			}
			return true, nil
		}}
		p := New(cfg, partitions, log, time.Now, prometheus.NewRegistry(), zerolog.Nop())
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()

		sources := rapid.IntRange(1, 4).Draw(rt, "sources")
		calls := rapid.IntRange(1, 60).Draw(rt, "calls")
		errs := make([]error, sources)
		var running sync.WaitGroup
		for s := range sources {
			running.Go(func() {
				d := NewDelivery()
				for i := range calls {
					if errs[s] = p.AppendWait(context.Background(), d, numbered(s*1000+i)); errs[s] != nil {
						return
					}
					if i%20 == 19 {
						if errs[s] = d.Wait(context.Background()); errs[s] != nil {
							return
						}
					}
				}
				errs[s] = d.Wait(context.Background())
			})
		}
		running.Wait()
		cancel()
		require.NoError(rt, <-done)
		for _, err := range errs {
			require.NoError(rt, err)
		}
		ids := log.ids(rt, partitions)
		require.Len(rt, ids, sources*calls)
		for id, n := range ids {
			if failures == 0 {
				require.Equal(rt, 1, n, "%v", id)
			}
		}
		require.Zero(rt, p.held.Load())
		require.EqualValues(rt, sources*calls, testutil.ToFloat64(p.metrics.acknowledged))
	})
}

// The broker's limit is lower than ours: messages are halved until they fit,
// and a call that is too large alone is reported to its source only.
func TestTooLargeMessagesAreHalved(t *testing.T) {
	t.Parallel()
	limit := 24 << 10
	log := &sizedLog{limit: limit}
	cfg := DefaultConfig()
	cfg.FlushInterval = time.Hour
	p := start(t, cfg, 1, log)
	d, big := NewDelivery(), NewDelivery()
	for i := range 500 {
		require.NoError(t, p.Append(d, numbered(i)))
	}
	require.NoError(t, d.Wait(t.Context()))
	require.Len(t, log.ids(t, 1), 500)
	require.Greater(t, len(log.messages[0]), 1)

	c := numbered(1000)
	for i := range call.MaxMapPairs {
		c.Attributes = append(c.Attributes, call.Attribute{Name: strconv.Itoa(i) + strings.Repeat("n", 200), Value: strconv.Itoa(i) + strings.Repeat("v", 200)})
	}
	log.limit = 8 << 10
	require.NoError(t, p.Append(big, c))
	require.ErrorIs(t, big.Wait(t.Context()), kafkaio.ErrMessageTooLarge)
}

type sizedLog struct {
	memoryLog
	limit int
}

func (l *sizedLog) Produce(ctx context.Context, topic string, partition int, messages []Message) error {
	for _, m := range messages {
		if len(m.Value) > l.limit {
			return fmt.Errorf("%w: %d bytes", kafkaio.ErrMessageTooLarge, len(m.Value))
		}
	}
	return l.memoryLog.Produce(ctx, topic, partition, messages)
}

func TestAppendDoesNotAllocate(t *testing.T) {
	cfg := DefaultConfig()
	cfg.FlushRows, cfg.FlushBytes, cfg.MaxProduceBytes, cfg.FlushInterval = maxRows, 64<<20, 64<<20, time.Hour
	p := New(cfg, 4, &memoryLog{}, time.Now, prometheus.NewRegistry(), zerolog.Nop())
	d, c := NewDelivery(), numbered(1)
	warm := func() {
		for i := range 10_000 {
			c.ID[0] = byte(i)
			_ = p.Append(d, c)
		}
	}
	warm()
	for _, lane := range p.partitions {
		lane.open.rows.Reset()
	}
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		c.ID[0]++
		_ = p.Append(d, c)
	}))
}

func TestValidateNamesTheField(t *testing.T) {
	for field, change := range map[string]func(*Config){
		"topic":               func(c *Config) { c.Topic = "" },
		"flush_rows":          func(c *Config) { c.FlushRows = 0 },
		"flush_bytes":         func(c *Config) { c.FlushBytes = 0 },
		"flush_interval":      func(c *Config) { c.FlushInterval = 0 },
		"ack_linger":          func(c *Config) { c.AckLinger = time.Hour },
		"max_in_flight_bytes": func(c *Config) { c.MaxInFlightBytes = 1 },
		"max_produce_bytes":   func(c *Config) { c.MaxProduceBytes = 1 },
		"retry_min":           func(c *Config) { c.RetryMin = 0 },
		"produce_timeout":     func(c *Config) { c.ProduceTimeout = 0 },
		"stop_timeout":        func(c *Config) { c.StopTimeout = -1 },
	} {
		cfg := DefaultConfig()
		change(&cfg)
		require.ErrorContains(t, cfg.Validate(), field)
	}
}

type nullLog struct{}

func (nullLog) Produce(context.Context, string, int, []Message) error { return nil }

func realistic(n int) *call.Call {
	c := numbered(n)
	for i := range c.Strings {
		c.Strings[i] = "value-" + strconv.Itoa(i) + "-" + strconv.Itoa(n%(i+1))
	}
	c.Path, c.ClientIP = "/v1/orders/"+strconv.Itoa(n), "203.0.113.0"
	c.Latency[call.Total] = int64(n % 5000)
	return c
}

// One call through append, encoding and acknowledgement to a log that takes
// everything at once.
func BenchmarkAppend(b *testing.B) {
	for _, partitions := range []int{1, 12} {
		b.Run(strconv.Itoa(partitions)+" partitions", func(b *testing.B) {
			p := start(b, DefaultConfig(), partitions, nullLog{})
			calls := make([]*call.Call, 4096)
			for i := range calls {
				calls[i] = realistic(i)
			}
			b.ReportAllocs()
			d := NewDelivery()
			for i := 0; b.Loop(); i++ {
				if err := p.AppendWait(b.Context(), d, calls[i%len(calls)]); err != nil {
					b.Fatal(err)
				}
			}
			if err := d.Wait(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}
