// Package load stores batches of calls in ClickHouse, each exactly once.
//
// In: the calls of one range of one partition of the log. Out: rows in calls,
// through materialized views in every rollup, and in discards the fate of
// those that are not. A crash loses nothing: the range is loaded again, and
// Recover finds out what is stored already.
//
// The steps of a load: cap cardinality, quarantine what cannot be stored,
// drop copies of stored calls, attribute, encode one block, insert it once.
package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/pipelines/cardinality"
	"github.com/tollway/tollway/pipelines/dedupe"
	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/seam"
)

// Range is the part [From, To) of one partition of the log, by offsets. Epoch
// is raised by an operator who lets a partition continue after its log was
// lost, so that the same offsets mean something new.
type Range struct {
	Topic     string
	Partition int32
	Epoch     uint32
	From, To  int64
}

// token names the insert of a range into a table. The engine stores a block
// with a token it has seen only once.
func (r Range) token(table string) string {
	return fmt.Sprintf("%s|%s|%d|%d|%d|%d", table, r.Topic, r.Partition, r.From, r.To, r.Epoch)
}

// Config of a loader.
type Config struct {
	// HotCalls is how many calls of each partition are remembered for
	// duplicates without asking ClickHouse; 24 bytes each.
	HotCalls int `yaml:"hot_calls"`
	// RebuildWindow is how far back the memory is filled from ClickHouse when a
	// partition is taken over.
	RebuildWindow time.Duration `yaml:"rebuild_window"`
	// FutureLimit and Retention bound the start time of a call, measured from
	// when it was received; outside, it is quarantined.
	FutureLimit time.Duration `yaml:"future_limit"`
	Retention   time.Duration `yaml:"retention"`
	// MaxValues caps the distinct values per column, partition and day.
	MaxValues int `yaml:"max_values"`
	// RetryBackoff is the first pause after a failed insert; it doubles up to
	// RetryBackoffMax.
	RetryBackoff    time.Duration `yaml:"retry_backoff"`
	RetryBackoffMax time.Duration `yaml:"retry_backoff_max"`
}

// DefaultConfig suits one machine.
func DefaultConfig() Config {
	return Config{
		HotCalls:        2 << 20,
		RebuildWindow:   10 * time.Minute,
		FutureLimit:     5 * time.Minute,
		Retention:       35 * 24 * time.Hour,
		MaxValues:       10_000,
		RetryBackoff:    100 * time.Millisecond,
		RetryBackoffMax: 5 * time.Second,
	}
}

// Validate names the field that is wrong.
func (c Config) Validate() error {
	var errs []error
	if c.HotCalls < 1000 {
		errs = append(errs, fmt.Errorf("hot_calls is %d, must be at least 1000", c.HotCalls))
	}
	if c.RebuildWindow < 0 || c.FutureLimit < 0 {
		errs = append(errs, errors.New("rebuild_window and future_limit must not be negative"))
	}
	if c.Retention < time.Hour {
		errs = append(errs, fmt.Errorf("retention is %s, must be at least 1h", c.Retention))
	}
	if c.MaxValues < 1 {
		errs = append(errs, fmt.Errorf("max_values is %d, must be at least 1", c.MaxValues))
	}
	if c.RetryBackoff <= 0 || c.RetryBackoffMax < c.RetryBackoff {
		errs = append(errs, errors.New("retry_backoff must be above zero and at most retry_backoff_max"))
	}
	return errors.Join(errs...)
}

// Attribute fills in who called what, and returns the version of the catalog
// that it used.
type Attribute func(*call.Batch) (catalogVersion uint64)

// Loader makes a Partition for each partition of the log that this process
// owns.
type Loader struct {
	cfg        Config
	shards     []*clickhouse.DB
	attribute  Attribute
	partitions int
	metrics    *metrics
	log        zerolog.Logger
}

// New makes a loader for a topic with that many partitions. Partition p of the
// log lives on shard p modulo their number: its calls, their rollups and their
// copies.
func New(cfg Config, shards []*clickhouse.DB, partitions int, attribute Attribute, reg prometheus.Registerer, log zerolog.Logger) *Loader {
	return &Loader{cfg: cfg, shards: shards, attribute: attribute, partitions: partitions, metrics: newMetrics(reg), log: log}
}

// Partition loads one partition. It belongs to one goroutine.
type Partition struct {
	*Loader
	db     *clickhouse.DB // of its shard
	number int32
	hot    *dedupe.Set
	cap    *cardinality.Cap
	block  []byte
	keep   []bool
}

// Open takes a partition over. Call Recover for a range that may be stored in
// part, then Warm, then Load.
func (l *Loader) Open(partition int32) *Partition {
	db := l.shards[int(partition)%len(l.shards)]
	return &Partition{Loader: l, db: db, number: partition, hot: dedupe.New(l.cfg.HotCalls), cap: cardinality.New(l.cfg.MaxValues)}
}

// Warm fills the memory for duplicates from ClickHouse, as of now. It tries
// until it succeeds or ctx ends. Every shard is asked, its own last: where
// their number has changed, the partition's last calls are on another one.
func (p *Partition) Warm(ctx context.Context, now time.Time) error {
	from := now.Add(-p.cfg.RebuildWindow).UnixMicro()
	return p.retry(ctx, "read recent calls", func(ctx context.Context) error {
		hot := dedupe.New(p.cfg.HotCalls)
		hot.Forget(from)
		for i := range p.shards {
			shard := p.shards[(int(p.number)+1+i)%len(p.shards)]
			if err := p.warmFrom(ctx, shard, from, hot); err != nil {
				return err
			}
		}
		p.hot = hot
		return nil
	})
}

func (p *Partition) warmFrom(ctx context.Context, shard *clickhouse.DB, from int64, hot *dedupe.Set) error {
	rows, err := shard.Query(ctx, queryRecent, map[string]any{
		"from": from, "partitions": uint64(p.partitions), "partition": uint64(p.number),
	})
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var at int64
		if err := rows.Scan(&id, &at); err != nil {
			return err
		}
		hot.Add(call.ID([]byte(id)), at)
	}
	return rows.Err()
}

// Load stores a range that nobody has tried to store before. valid is asked
// just before each insert whether this process still owns the partition. The
// batch is consumed. It returns only when everything is stored, or with valid's
// error, or when ctx ends.
func (p *Partition) Load(ctx context.Context, r Range, b *call.Batch, valid func() error) error {
	return p.load(ctx, r, b, valid, false)
}

// Recover stores a range that may be stored already, whole or in part.
func (p *Partition) Recover(ctx context.Context, r Range, b *call.Batch, valid func() error) error {
	return p.load(ctx, r, b, valid, true)
}

func (p *Partition) load(ctx context.Context, r Range, b *call.Batch, valid func() error, recovering bool) error {
	for column, n := range p.cap.Apply(b) {
		p.metrics.capped.WithLabelValues(column.String()).Add(float64(n))
	}
	// Two bounds of the times in the batch, for every read-back below: taken
	// before anything is dropped, so that they are the same on every attempt.
	span := spanOf(b)
	dropped, err := p.decide(ctx, r, b, recovering, span)
	if err != nil {
		return err
	}
	whole := identities(b)
	if recovering {
		err = p.recover(ctx, r, b, valid, span)
	} else {
		err = p.insert(ctx, r, b, r.token("calls"), valid, span)
	}
	if err != nil {
		return err
	}
	if err := p.insertDiscards(ctx, r, dropped, valid); err != nil {
		return err
	}
	for i, id := range whole.id {
		p.hot.Add(id, whole.time[i])
	}
	p.metrics.stored.Add(float64(len(whole.id)))
	return nil
}

type idsAndTimes struct {
	id   []call.ID
	time []int64
}

func identities(b *call.Batch) idsAndTimes {
	return idsAndTimes{append([]call.ID(nil), b.ID...), append([]int64(nil), b.Time...)}
}

// span is the first and last start time of a batch, µs.
type span struct{ from, to int64 }

func spanOf(b *call.Batch) span {
	s := span{math.MaxInt64, math.MinInt64}
	for _, t := range b.Time {
		s.from, s.to = min(s.from, t), max(s.to, t)
	}
	return s
}

var insertColumns = call.InsertColumns()

// insert stores b under a token. When the outcome of an attempt is unknown, it
// goes on as recovery does.
func (p *Partition) insert(ctx context.Context, r Range, b *call.Batch, token string, valid func() error, s span) error {
	if b.Rows() == 0 {
		return nil
	}
	version := p.attribute(b)
	block, err := call.EncodeInsert(p.block[:0], b, call.Provenance{Epoch: r.Epoch, Partition: uint16(r.Partition), CatalogVersion: version})
	if err != nil {
		return fmt.Errorf("encode rows %d to %d of partition %d: %w", r.From, r.To, r.Partition, err)
	}
	p.block = block
	settings := p.insertSettings(r, token, b.Rows())
	unknown := false
	err = p.retry(ctx, "insert calls", func(ctx context.Context) error {
		if unknown {
			if err := p.stopInserts(ctx, r); err != nil {
				return err
			}
		}
		err := exclusively(ctx, func() error {
			if err := valid(); err != nil {
				return &stopError{err}
			}
			start := time.Now()
			err := p.db.InsertArrow(ctx, "calls", insertColumns, settings, bytes.NewReader(block))
			p.metrics.insertSeconds.Observe(time.Since(start).Seconds())
			return err
		})
		unknown = unknown || clickhouse.IsUnknownOutcome(err)
		return err
	})
	if err != nil {
		return err
	}
	p.metrics.inserts.Inc()
	seam.Point("load.inserted")
	if unknown && !seam.Broken("read_back") {
		return p.verify(ctx, r, b, valid, s)
	}
	return nil
}

func (p *Partition) insertSettings(r Range, token string, rows int) map[string]any {
	settings := map[string]any{
		"async_insert":               0,
		"insert_deduplicate":         1,
		"deduplicate_insert":         "enable",
		"insert_deduplication_token": token,
		"deduplicate_blocks_in_dependent_materialized_views": 1,
		// One block for calls, and one for each view. The engine reserves memory
		// for a whole block, so the bound is as low as it can be.
		"max_insert_block_size":           max(rows, 1<<16),
		"min_insert_block_size_rows":      1 << 20,
		"min_insert_block_size_bytes":     1 << 30,
		"max_partitions_per_insert_block": 1000,
		// By default the engine would collapse equal keys of each block as a merge
		// does. There are none: copies are dropped before, and a view groups by
		// its table's key. Looking for them costs as much as all the rest.
		"optimize_on_insert": 0,
		"query_id":           writerID(p.db, uint16(r.Partition)),
	}
	if seam.Broken("token") {
		delete(settings, "insert_deduplication_token")
		settings["insert_deduplicate"] = 0
		settings["deduplicate_insert"] = "disable"
	}
	return settings
}

// stopError ends a retry: trying again cannot help.
type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }
func (e *stopError) Unwrap() error { return e.err }

// retry runs fn until it succeeds. An error of the server, of whatever kind,
// holds the partition up: the log keeps what is not stored, and nothing valid
// is ever given up on.
func (p *Partition) retry(ctx context.Context, doing string, fn func(context.Context) error) error {
	pause := p.cfg.RetryBackoff
	for attempt := 1; ; attempt++ {
		err := fn(ctx)
		if err == nil {
			p.metrics.failing.WithLabelValues(label(p.number)).Set(0)
			return nil
		}
		var stop *stopError
		if errors.As(err, &stop) {
			return stop.err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s of partition %d: %w", doing, p.number, ctx.Err())
		}
		p.metrics.failing.WithLabelValues(label(p.number)).Set(1)
		p.metrics.retries.WithLabelValues(doing).Inc()
		if attempt == 1 || attempt%10 == 0 {
			p.log.Warn().Err(err).Int32("partition", p.number).Int("attempt", attempt).
				Bool("passing", clickhouse.IsRetryable(err)).Msgf("%s: trying again", doing)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s of partition %d: %w", doing, p.number, ctx.Err())
		case <-time.After(pause):
		}
		pause = min(2*pause, p.cfg.RetryBackoffMax)
	}
}
