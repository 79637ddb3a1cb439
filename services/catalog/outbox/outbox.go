// Package outbox publishes the versions of resources that the catalog has
// written into the table outbox.
//
// In come rows that a transaction has committed; out go messages in one
// partition of a compacted topic, in the order of their sequence, each by the
// resource's name. Of all processes that use the ledger one publishes at a time.
// A row is marked only after the log has acknowledged its message: a crash
// between the two has the message published again, with the same sequence, by
// which readers know that they have it. Nothing is lost when a process crashes.
package outbox

import (
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/feed"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/sql"
)

const (
	partition = 0 // one partition: the order of versions is the order of messages
	lockName  = "catalog-outbox"
)

// Config says where and how often to publish.
type Config struct {
	Topic string `yaml:"topic"`
	// Poll is how often to look for versions that another process has written.
	Poll time.Duration `yaml:"poll"`
	// Batch is how many are published at once.
	Batch int `yaml:"batch"`
	// Remember is how long replaced versions and deletions stay in the outbox
	// after they were published.
	Remember time.Duration `yaml:"remember"`
}

// DefaultConfig publishes within a fifth of a second.
func DefaultConfig() Config {
	return Config{Topic: feed.Topic, Poll: 200 * time.Millisecond, Batch: 500, Remember: 7 * 24 * time.Hour}
}

// Validate names the field that is wrong.
func (c Config) Validate() error {
	switch {
	case c.Topic == "":
		return errors.New("outbox: topic is empty")
	case c.Poll < 10*time.Millisecond || c.Poll > 2*time.Second:
		return errors.New("outbox: poll must be between 10ms and 2s")
	case c.Batch < 1 || c.Batch > 10_000:
		return errors.New("outbox: batch must be between 1 and 10000")
	case c.Remember < time.Hour:
		return errors.New("outbox: remember must be at least 1h")
	}
	return nil
}

// Producer stores messages in a partition; nil means that all are stored.
type Producer interface {
	Produce(ctx context.Context, topic string, partition int, msgs []kafkaio.Message) error
}

// Topics knows which offsets a topic has.
type Topics interface {
	Offsets(ctx context.Context, topic string) (map[int32]kafkaio.OffsetRange, error)
}

// Deps are what a publisher needs.
type Deps struct {
	Ledger     *ledger.DB
	Producer   Producer
	Topics     Topics
	Log        zerolog.Logger
	Registerer prometheus.Registerer
}

// Publisher publishes when it is its turn.
type Publisher struct {
	cfg  Config
	deps Deps
	wake chan struct{}

	published prometheus.Counter
	failures  prometheus.Counter
	pending   prometheus.Gauge
	oldest    prometheus.Gauge
}

// New makes a publisher.
func New(cfg Config, deps Deps) (*Publisher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &Publisher{
		cfg: cfg, deps: deps, wake: make(chan struct{}, 1),
		published: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tollway_outbox_published_versions_total", Help: "Versions of resources that were published, those published again too.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tollway_outbox_failures_total", Help: "Attempts to publish that did not succeed.",
		}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tollway_outbox_pending_versions", Help: "Versions that are not published yet, as the publishing process saw it last.",
		}),
		oldest: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tollway_outbox_pending_age_seconds", Help: "Age of the oldest version that is not published yet.",
		}),
	}
	for _, c := range []prometheus.Collector{p.published, p.failures, p.pending, p.oldest} {
		if err := deps.Registerer.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of the outbox: %w", err)
		}
	}
	return p, nil
}

// Wake tells that something was committed. It does not wait.
func (p *Publisher) Wake() {
	select {
	case p.wake <- struct{}{}:
	default: // it is awake already
	}
}

// retryPause is how long to wait for another publisher, and after an error.
const retryPause = time.Second

// Run publishes until the context ends.
func (p *Publisher) Run(ctx context.Context) error {
	quiet := false // an error was logged, and nothing was published since
	for ctx.Err() == nil {
		lock, err := p.deps.Ledger.TryLock(ctx, lockName)
		switch {
		case errors.Is(err, ledger.ErrLocked):
			p.deps.Log.Debug().Msg("another process publishes the catalog")
		case err == nil:
			err = p.lead(ctx, lock, &quiet)
			err = errors.Join(err, lock.Unlock())
		}
		if err != nil && !errors.Is(err, ledger.ErrLocked) && ctx.Err() == nil {
			p.failures.Inc()
			if !quiet {
				p.deps.Log.Warn().Err(err).Msg("publishing the catalog; trying again")
			}
			quiet = true
		}
		rest(ctx, retryPause, nil)
	}
	return nil
}

// rest waits for a time, a wake-up or the end.
func rest(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
	}
}

const (
	cleanEvery = time.Hour
	cleanBatch = 1000
	// checkEvery is how often to see whether the topic has what was published:
	// it may be made anew while there is nothing to publish.
	checkEvery = 5 * time.Second
)

// lead publishes as long as the lock is held.
func (p *Publisher) lead(ctx context.Context, lock *ledger.Lock, quiet *bool) error {
	var checked, cleaned time.Time
	for ctx.Err() == nil {
		if err := lock.Check(ctx); err != nil {
			return err
		}
		if time.Since(checked) > checkEvery {
			if err := p.checkTopic(ctx); err != nil {
				return err
			}
			checked = time.Now()
		}
		n, err := p.Publish(ctx)
		if err != nil {
			return err
		}
		if *quiet {
			p.deps.Log.Info().Msg("publishing the catalog again")
			*quiet = false
		}
		if n == p.cfg.Batch {
			continue
		}
		if time.Since(cleaned) > cleanEvery {
			if err := p.clean(ctx); err != nil {
				return err
			}
			cleaned = time.Now()
		}
		rest(ctx, p.cfg.Poll, p.wake)
	}
	return nil
}

var (
	unpublished        = sql.LedgerQuery("outbox_unpublished")
	unpublishedBetween = sql.LedgerQuery("outbox_unpublished_between")
	markBetween        = sql.LedgerQuery("outbox_mark_between")
	markOne            = sql.LedgerQuery("outbox_mark")
	pendingCount       = sql.LedgerQuery("outbox_pending")
	publishAgain       = sql.LedgerQuery("outbox_again")
	cleanOld           = sql.LedgerQuery("outbox_clean")
	settingGet         = sql.LedgerQuery("setting_get")
	settingPut         = sql.LedgerQuery("setting_put")
)

type version struct {
	sequence int64
	name     string
	body     stdsql.NullString
}

// Publish publishes the next batch and returns how many versions were in it. Only
// one publisher at a time may do so.
func (p *Publisher) Publish(ctx context.Context) (int, error) {
	batch, err := p.next(ctx)
	if err != nil || len(batch) == 0 {
		return 0, err
	}
	messages := make([]kafkaio.Message, len(batch))
	for i, v := range batch {
		if messages[i], err = v.message(); err != nil {
			return 0, err
		}
	}
	if err := p.deps.Producer.Produce(ctx, p.cfg.Topic, partition, messages); err != nil {
		return 0, fmt.Errorf("publish versions %d to %d: %w", batch[0].sequence, batch[len(batch)-1].sequence, err)
	}
	end, err := p.end(ctx)
	if err != nil {
		return 0, err
	}
	if err := p.mark(ctx, batch, end); err != nil {
		return 0, err
	}
	p.published.Add(float64(len(batch)))
	return len(batch), nil
}

// next reads what is to be published, and how much is waiting.
func (p *Publisher) next(ctx context.Context) ([]version, error) {
	var batch []version
	var waiting, since int64
	err := p.deps.Ledger.Read(ctx, func(tx *ledger.Tx) (err error) {
		batch, err = ledger.Select(ctx, tx, func(row ledger.Row) (v version, err error) {
			var revision, at int64
			err = row.Scan(&v.sequence, &v.name, &revision, &v.body, &at)
			return v, err
		}, unpublished, p.cfg.Batch)
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx, pendingCount).Scan(&waiting, &since)
	})
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	p.pending.Set(float64(waiting))
	age := 0.0
	if waiting > 0 {
		age = max(0, time.Since(time.UnixMicro(since)).Seconds())
	}
	p.oldest.Set(age)
	return batch, nil
}

func (v version) message() (kafkaio.Message, error) {
	m := kafkaio.Message{
		Key:     []byte(v.name),
		Headers: []kafkaio.Header{{Key: feed.SequenceHeader, Value: strconv.AppendInt(nil, v.sequence, 10)}},
	}
	if !v.body.Valid {
		return m, nil
	}
	var record catalogv1.Record
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(v.body.String), &record); err != nil {
		return m, fmt.Errorf("decode version %d of %s: %w", v.sequence, v.name, err)
	}
	record.Sequence = v.sequence
	var err error
	if m.Value, err = (proto.MarshalOptions{Deterministic: true}).Marshal(&record); err != nil {
		return m, fmt.Errorf("encode version %d of %s: %w", v.sequence, v.name, err)
	}
	return m, nil
}

// mark notes that a batch is in the log, and where the log ends. If that is before
// where it ended already, the topic was made anew since, and everything is to be
// published again.
func (p *Publisher) mark(ctx context.Context, batch []version, end int64) error {
	first, last := batch[0].sequence, batch[len(batch)-1].sequence
	var was, again int64
	err := p.deps.Ledger.Tx(ctx, func(tx *ledger.Tx) (err error) {
		again = 0
		if was, err = p.notedEnd(ctx, tx); err != nil {
			return err
		}
		if err := p.noteEnd(ctx, tx, end); err != nil {
			return err
		}
		if err := p.markRows(ctx, tx, batch); err != nil || end >= was {
			return err
		}
		again, err = tx.Exec(ctx, publishAgain)
		return err
	})
	if err != nil {
		return fmt.Errorf("mark versions %d to %d as published: %w", first, last, err)
	}
	p.logLost(end, was, again)
	return nil
}

// markRows marks a batch. Of two transactions the one with the greater sequence
// may commit first, so there may be rows in between by now that were not in it.
func (p *Publisher) markRows(ctx context.Context, tx *ledger.Tx, batch []version) error {
	first, last, now := batch[0].sequence, batch[len(batch)-1].sequence, time.Now().UnixMicro()
	var between int
	if err := tx.QueryRow(ctx, unpublishedBetween, first, last).Scan(&between); err != nil {
		return err
	}
	if between == len(batch) {
		_, err := tx.Exec(ctx, markBetween, first, last, now)
		return err
	}
	for _, v := range batch {
		if _, err := tx.Exec(ctx, markOne, v.sequence, now); err != nil {
			return err
		}
	}
	return nil
}

func (p *Publisher) endSetting() string { return "outbox.end." + p.cfg.Topic }

func (p *Publisher) noteEnd(ctx context.Context, tx *ledger.Tx, end int64) error {
	_, err := tx.Exec(ctx, settingPut, p.endSetting(), strconv.FormatInt(end, 10))
	return err
}

// notedEnd is where the topic ended when something was published last, 0 if
// nothing was, or to another topic.
func (p *Publisher) notedEnd(ctx context.Context, tx *ledger.Tx) (int64, error) {
	var noted string
	err := tx.QueryRow(ctx, settingGet, p.endSetting()).Scan(&noted)
	if errors.Is(err, ledger.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(noted, 10, 64)
}

func (p *Publisher) logLost(end, was, again int64) {
	if again > 0 {
		p.deps.Log.Warn().Int64("end", end).Int64("expected", was).Int64("versions", again).
			Msgf("topic %s has lost what was published; publishing the whole catalog again", p.cfg.Topic)
	}
}

// end is the offset after the last message of the topic.
func (p *Publisher) end(ctx context.Context) (int64, error) {
	offsets, err := p.deps.Topics.Offsets(ctx, p.cfg.Topic)
	if err != nil {
		return 0, fmt.Errorf("read the end of %s: %w", p.cfg.Topic, err)
	}
	return offsets[partition].Last, nil
}

// checkTopic has everything published again if the topic ends before where it
// ended already: then it is another one, or was put back.
func (p *Publisher) checkTopic(ctx context.Context) error {
	end, err := p.end(ctx)
	if err != nil {
		return err
	}
	var was int64
	err = p.deps.Ledger.Read(ctx, func(tx *ledger.Tx) (err error) {
		was, err = p.notedEnd(ctx, tx)
		return err
	})
	if err != nil {
		return fmt.Errorf("read where %s ended: %w", p.cfg.Topic, err)
	}
	if end >= was && was > 0 {
		return nil
	}
	n, err := p.again(ctx, end)
	if err == nil {
		p.logLost(end, was, n)
	}
	return err
}

// Resync has the newest version of every resource published again, in the
// process whose turn it is, and returns how many there are.
func (p *Publisher) Resync(ctx context.Context) (int64, error) {
	end, err := p.end(ctx)
	if err != nil {
		return 0, err
	}
	return p.again(ctx, end)
}

func (p *Publisher) again(ctx context.Context, end int64) (n int64, err error) {
	err = p.deps.Ledger.Tx(ctx, func(tx *ledger.Tx) (err error) {
		if n, err = tx.Exec(ctx, publishAgain); err != nil {
			return err
		}
		return p.noteEnd(ctx, tx, end)
	})
	if err != nil {
		return 0, fmt.Errorf("have the catalog published again: %w", err)
	}
	p.Wake()
	return n, nil
}

// clean deletes versions that nobody needs any more.
func (p *Publisher) clean(ctx context.Context) error {
	before := time.Now().Add(-p.cfg.Remember).UnixMicro()
	for {
		var n int64
		err := p.deps.Ledger.Tx(ctx, func(tx *ledger.Tx) (err error) {
			n, err = tx.Exec(ctx, cleanOld, before, cleanBatch)
			return err
		})
		if err != nil {
			return fmt.Errorf("clean the outbox: %w", err)
		}
		if n < cleanBatch {
			return nil
		}
	}
}
