// Package feed keeps a snapshot of the catalog in memory, as it was published
// to the log.
//
// In: the compacted topic tollway.catalog.v1, read from its beginning by every
// process for itself, without a consumer group. Out: an attribute.Snapshot that
// is replaced as a whole, and access tokens by their hashes. A crash loses
// nothing; the topic is read again.
//
// A feed is ready once it has read what was in the topic when it began; what
// needs the catalog waits for that (Wait). A change is in the snapshot a
// fraction of a second after it was published. While the log is away, and while
// a topic that was made anew is filled again, the last snapshot stays in use.
//
// A record that cannot be read is counted and logged, and what was known about
// its name stays: one bad record must not take every process out of service.
// tollway_feed_unreadable_records says how many names are affected now.
package feed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	"github.com/tollway/tollway/pipelines/attribute"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/platform/auth"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/logging"
)

// Feed follows the topic. Its methods may be called from any goroutine.
type Feed struct {
	cfg      Config
	client   *kafkaio.Client
	log      zerolog.Logger
	sampled  zerolog.Logger
	metrics  *metrics
	snapshot atomic.Pointer[attribute.Snapshot]

	ready     chan struct{}
	readyOnce sync.Once
	problem   atomic.Pointer[error] // why it is not ready
	patience  time.Duration         // how long a topic may take to be filled again
}

// New makes a feed that knows nothing yet.
func New(cfg Config, client *kafkaio.Client, reg prometheus.Registerer, log zerolog.Logger) (*Feed, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("feed config: %w", err)
	}
	f := &Feed{cfg: cfg, client: client, log: log, sampled: logging.Sampled(log, 3, 10*time.Second), ready: make(chan struct{}), patience: patience}
	f.snapshot.Store(attribute.Empty())
	f.metrics = newMetrics(reg, func() float64 { return float64(f.Snapshot().Version()) })
	return f, nil
}

// patience is how long a snapshot stays in use although the topic, made anew, says
// something else: the whole catalog is published within seconds. It may never say
// as much as before, when the ledger was put back to an older state.
const patience = 30 * time.Second

// Snapshot is the catalog as it is known now; an empty one before the feed is
// ready.
func (f *Feed) Snapshot() *attribute.Snapshot { return f.snapshot.Load() }

// errReading is why a feed is not ready when nothing is wrong.
var errReading = errors.New("the catalog is being read")

// Ready is nil once the snapshot holds what was published before the feed
// began.
func (f *Feed) Ready(context.Context) error {
	select {
	case <-f.ready:
		return nil
	default:
	}
	if p := f.problem.Load(); p != nil {
		return fmt.Errorf("%w: %w", errReading, *p)
	}
	return errReading
}

// Wait waits until the feed is ready, or the context ends.
func (f *Feed) Wait(ctx context.Context) error {
	select {
	case <-f.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the catalog: %w", ctx.Err())
	}
}

// Lookup finds an access token by the SHA-256 of its text. It implements
// auth.TokenSource.
func (f *Feed) Lookup(hash [32]byte) (auth.TokenRecord, bool) {
	t, ok := f.Snapshot().Token(hash)
	if !ok {
		return auth.TokenRecord{}, false
	}
	return auth.TokenRecord{Name: t.Name, Role: auth.Role(t.Role), Account: t.Account, Scopes: t.Scopes, NotAfter: t.Expires}, true
}

// Run follows the topic until the context ends.
func (f *Feed) Run(ctx context.Context) error {
	for {
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.problem.Store(&err)
		f.metrics.restarts.Inc()
		f.sampled.Error().Err(err).Str("topic", f.cfg.Topic).Msg("read the catalog: beginning again")
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(f.cfg.RestartPause):
		}
	}
}

// fetched is what one partition brought.
type fetched struct {
	partition int32
	result    kafkaio.FetchResult
}

// follow reads the topic from its beginning. It returns when the topic turns
// out to be another one than before, or cannot be read.
func (f *Feed) follow(ctx context.Context) error {
	ranges, err := f.client.Offsets(ctx, f.cfg.Topic)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	arrived := make(chan fetched)
	var wg sync.WaitGroup
	for partition := range ranges {
		wg.Go(func() { cancel(f.fetch(ctx, partition, arrived)) })
	}
	defer wg.Wait()
	defer cancel(nil)
	a := &applier{feed: f, builder: attribute.NewBuilder(), unreadable: map[string]struct{}{}, behind: map[int32]int64{}}
	for partition, r := range ranges {
		if r.Last > r.First {
			a.behind[partition] = r.Last
		}
	}
	return a.run(ctx, arrived)
}

// fetch hands on what a partition has and gets.
func (f *Feed) fetch(ctx context.Context, partition int32, arrived chan<- fetched) error {
	fetcher := kafkaio.NewFetcher(f.client, f.cfg.Topic, partition, kafkaio.FirstOffset, kafkaio.DefaultFetchConfig())
	for {
		result, err := fetcher.Next(ctx)
		if err != nil {
			return err
		}
		select {
		case arrived <- fetched{partition, result}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// applier makes snapshots of what arrives.
type applier struct {
	feed       *Feed
	builder    *attribute.Builder
	unreadable map[string]struct{} // names whose newest record cannot be read
	behind     map[int32]int64     // partitions that are not read as far as they were at the start
	changed    bool
	version    int64         // the last change that was read
	building   time.Duration // the last time it took
}

func (a *applier) run(ctx context.Context, arrived <-chan fetched) error {
	known := a.feed.Snapshot().Version()
	var due <-chan time.Time       // when the changes so far are shown
	var impatient <-chan time.Time // when they are even if less is known than before
	caughtUp := len(a.behind) == 0
	// A topic that was made anew and is empty says nothing yet.
	if caughtUp && known == 0 {
		a.publish()
	}
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case got := <-arrived:
			a.take(got)
			if impatient == nil {
				impatient = time.After(a.feed.patience)
			}
			first := !caughtUp && len(a.behind) == 0
			caughtUp = caughtUp || first
			switch {
			case !caughtUp || uint64(a.version) < known: // what is shown is better
			case first:
				a.publish()
			case a.changed && due == nil:
				// A snapshot that takes long to make is made less often, so that a
				// storm of changes leaves most of the processor to others.
				due = time.After(max(a.feed.cfg.Settle, min(2*a.building, 500*time.Millisecond)))
			}
		case <-impatient:
			if caughtUp && uint64(a.version) < known {
				a.publish()
			}
			known = 0
		case <-due:
			a.publish()
			due = nil
		}
	}
}

func (a *applier) take(got fetched) {
	a.feed.metrics.lastFetch.SetToCurrentTime()
	for i := range got.result.Messages {
		a.apply(&got.result.Messages[i])
	}
	a.feed.metrics.unreadable.Set(float64(len(a.unreadable)))
	if last, ok := a.behind[got.partition]; ok && got.result.NextOffset >= last {
		delete(a.behind, got.partition)
	}
}

func (a *applier) apply(m *kafkaio.Fetched) {
	f, name := a.feed, string(m.Key)
	record, sequence, err := Decode(m)
	if err == nil {
		a.version = max(a.version, record.GetSequence(), sequence)
		var changed bool
		if changed, err = a.builder.Apply(name, record, sequence); err == nil {
			a.changed = a.changed || changed
			delete(a.unreadable, name)
			if changed {
				f.metrics.records.WithLabelValues("applied").Inc()
			} else {
				f.metrics.records.WithLabelValues("older").Inc()
			}
			return
		}
	}
	f.metrics.records.WithLabelValues("unreadable").Inc()
	f.sampled.Error().Err(err).Str("name", name).Int64("offset", m.Offset).Msg("read a record of the catalog: what was known before stays")
	if len(a.unreadable) < maxUnreadable {
		a.unreadable[name] = struct{}{}
	}
}

// maxUnreadable bounds what is remembered of bad records.
const maxUnreadable = 10_000

// publish shows everyone what is known now.
func (a *applier) publish() {
	f, start := a.feed, time.Now()
	s := a.builder.Snapshot()
	a.building, a.changed = time.Since(start), false
	if before := f.Snapshot().Problems(); !slices.Equal(before, s.Problems()) {
		for _, p := range s.Problems() {
			f.sampled.Warn().Str("problem", p).Msg("an operation of the catalog cannot be matched")
		}
	}
	f.metrics.problems.Set(float64(len(s.Problems())))
	f.metrics.buildSeconds.Observe(a.building.Seconds())
	f.snapshot.Store(s)
	f.readyOnce.Do(func() {
		n := s.Counts()
		f.log.Info().Uint64("version", s.Version()).Int("accounts", n.Accounts).Int("credentials", n.Credentials).
			Int("operations", n.Operations).Msg("catalog read")
		close(f.ready)
	})
}

var errNoKey = errors.New("the message has no key")

// Decode reads a message of the topic: the record, nil for a deletion, and the
// sequence of the change, 0 where the record itself says it.
func Decode(m *kafkaio.Fetched) (*catalogv1.Record, int64, error) {
	if len(m.Key) == 0 {
		return nil, 0, errNoKey
	}
	if len(m.Value) == 0 {
		for _, h := range m.Headers {
			if h.Key == SequenceHeader {
				sequence, err := strconv.ParseInt(string(h.Value), 10, 64)
				if err != nil || sequence < 0 {
					return nil, 0, fmt.Errorf("the header %s is %q, not a number", SequenceHeader, h.Value)
				}
				return nil, sequence, nil
			}
		}
		return nil, 0, nil
	}
	record := &catalogv1.Record{}
	if err := proto.Unmarshal(m.Value, record); err != nil {
		return nil, 0, fmt.Errorf("decode record: %w", err)
	}
	if record.GetSequence() < 0 {
		return nil, 0, fmt.Errorf("the sequence %d is below zero", record.GetSequence())
	}
	return record, 0, nil
}
