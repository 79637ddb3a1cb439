package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/tollway/tollway/pipelines/load"
	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/sql"
)

var (
	queryDiscards = sql.ClickHouseQuery("reconcile_discards")
	queryParts    = sql.ClickHouseQuery("reconcile_parts")
	queryTouched  = sql.ClickHouseQuery("reconcile_touched")
	querySealed   = sql.ClickHouseQuery("reconcile_sealed")
	queryRecord   = sql.ClickHouseQuery("reconcile_record")
	queryClock    = sql.ClickHouseQuery("reconcile_clock")
	queryNewest   = sql.ClickHouseQuery("reconcile_newest")
)

// Config of a Sealer.
type Config struct {
	// LateWindow is how long after its end an hour is sealed. Gateways hand
	// calls over within seconds, but repeat what was refused, and a file that
	// is tailed waits while its collector is away; two hours cover both without
	// holding an invoice up. A call that comes later still opens its hour
	// again.
	LateWindow time.Duration `yaml:"late_window"`
	// Every is the time between two passes.
	Every time.Duration `yaml:"every"`
	// Rescan is how far back before the newest sealed hour's sealing a process
	// looks for changes when it starts.
	Rescan time.Duration `yaml:"rescan"`
	// QueryTime bounds one comparison.
	QueryTime time.Duration `yaml:"query_time"`
}

// DefaultConfig is what is used where nothing is configured.
func DefaultConfig() Config {
	return Config{LateWindow: 2 * time.Hour, Every: time.Minute, Rescan: 24 * time.Hour, QueryTime: 10 * time.Minute}
}

// Validate names the field that is wrong.
func (c Config) Validate() error {
	var errs []error
	for name, d := range map[string]time.Duration{"every": c.Every, "query_time": c.QueryTime} {
		if d < time.Second {
			errs = append(errs, fmt.Errorf("%s is %s, must be at least 1s", name, d))
		}
	}
	if c.LateWindow < 0 || c.Rescan < 0 {
		errs = append(errs, errors.New("late_window and rescan must not be negative"))
	}
	return errors.Join(errs...)
}

// Watermark tells up to which time everything that was received is stored, in
// every partition.
type Watermark interface {
	Complete(ctx context.Context) (time.Time, error)
}

// Deps are what a Sealer needs from others.
type Deps struct {
	// Shards are all there are, one without a cluster. The first one keeps what
	// is recorded.
	Shards    []*clickhouse.DB
	Watermark Watermark
	Metrics   prometheus.Registerer
	Logger    zerolog.Logger
}

// Sealer seals hours: it holds rollups against raw, repairs them, and records
// what became of everything that was received. Run it in as many processes as
// you like.
type Sealer struct {
	cfg    Config
	deps   Deps
	shards []keeper

	since time.Time              // changes up to here are known
	open  map[time.Time]struct{} // hours with changes that are not sealed

	sealed, differences, repairs *prometheus.CounterVec
	unsealed, until              prometheus.Gauge
}

// New makes a sealer; Run runs it.
func New(cfg Config, deps Deps) (*Sealer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollway_reconcile_" + name, Help: help}, labels)
	}
	s := &Sealer{
		cfg: cfg, deps: deps, open: map[time.Time]struct{}{},
		sealed:      counter("hours_sealed_total", "Hours sealed, by whether for the first time.", "time"),
		differences: counter("differences_total", "Keys in which a rollup differed from raw, by table.", "table"),
		repairs:     counter("repairs_total", "Shares of rollups that were repaired, by table.", "table"),
		unsealed:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollway_reconcile_unsealed_hours", Help: "Hours with calls that are not sealed, or changed since."}),
		until:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "tollway_reconcile_sealed_until_seconds", Help: "Hours that end up to here, in Unix time, can be sealed now."}),
	}
	for i, db := range deps.Shards {
		k := newKeeper(db, cfg.QueryTime)
		k.found = func(table string, from time.Time, partition uint16, d load.Difference) {
			s.found(i+1, table, from, partition, d)
		}
		s.shards = append(s.shards, k)
	}
	deps.Metrics.MustRegister(s.sealed, s.differences, s.repairs, s.unsealed, s.until)
	return s, nil
}

// found logs and counts a difference that was repaired.
func (s *Sealer) found(shard int, table string, from time.Time, partition uint16, d load.Difference) {
	s.differences.WithLabelValues(table).Add(float64(d.Keys))
	s.repairs.WithLabelValues(table).Inc()
	s.deps.Logger.Warn().Str("table", table).Time("from", from).Int("shard", shard).Uint16("partition", partition).
		Uint64("keys", d.Keys).Int64("calls", d.Calls).Msg("a rollup differed from raw and was repaired")
}

func queryOptions(limit time.Duration) []clickhouse.Option {
	return []clickhouse.Option{clickhouse.WithLimits(clickhouse.Limits{Time: limit})}
}

// Run seals hours until ctx ends. A pass that ends with an error is repeated
// at the next turn.
func (s *Sealer) Run(ctx context.Context) error {
	ticker := time.NewTicker(s.cfg.Every)
	defer ticker.Stop()
	for {
		if err := s.Pass(ctx); err != nil && ctx.Err() == nil {
			s.deps.Logger.Warn().Err(err).Msg("sealing is tried again")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Pass seals every hour that can be sealed and is not, or has changed since.
func (s *Sealer) Pass(ctx context.Context) error {
	complete, err := s.deps.Watermark.Complete(ctx)
	if err != nil {
		return fmt.Errorf("read the watermark: %w", err)
	}
	now, err := s.clock(ctx)
	if err != nil {
		return err
	}
	horizon, err := horizonOf(ctx, s.shards)
	if err != nil {
		return err
	}
	if err := s.find(ctx, now, horizon); err != nil {
		return err
	}
	if complete.Before(now) {
		now = complete
	}
	until := now.Add(-s.cfg.LateWindow).UTC().Truncate(time.Hour)
	s.until.Set(float64(until.Unix()))
	defer func() { s.unsealed.Set(float64(len(s.open))) }()
	var errs []error
	for day, hours := range byDay(s.open, until) {
		if err := s.sealDay(ctx, day, hours, until); err != nil {
			errs = append(errs, fmt.Errorf("seal hours of %s: %w", day.Format(time.DateOnly), err))
			if ctx.Err() != nil {
				break
			}
			continue
		}
		for _, hour := range hours {
			delete(s.open, hour)
		}
	}
	return errors.Join(errs...)
}

// byDay sorts the hours that end up to a time into days.
func byDay(open map[time.Time]struct{}, until time.Time) map[time.Time][]time.Time {
	out := map[time.Time][]time.Time{}
	for _, hour := range slices.SortedFunc(maps.Keys(open), time.Time.Compare) {
		if hour.Before(until) {
			day := hour.Truncate(24 * time.Hour)
			out[day] = append(out[day], hour)
		}
	}
	return out
}

// clock is a time such that whatever is not stored yet will be stored_at a
// later one: the earliest of the shards' own.
func (s *Sealer) clock(ctx context.Context) (time.Time, error) {
	clocks, err := onEach(ctx, s.shards, func(ctx context.Context, k keeper) (time.Time, error) { return k.clock(ctx) })
	if err != nil {
		return time.Time{}, err
	}
	return slices.MinFunc(clocks, time.Time.Compare), nil
}

// find adds the hours that changed since the last time to the open ones.
func (s *Sealer) find(ctx context.Context, now, horizon time.Time) error {
	since := s.since
	if since.IsZero() {
		var ms int64
		if err := s.deps.Shards[0].QueryRow(ctx, queryNewest, nil).Scan(&ms); err != nil {
			return fmt.Errorf("read what was sealed last: %w", err)
		}
		if ms > 0 {
			since = time.UnixMilli(ms).Add(-s.cfg.Rescan)
		}
	}
	touched, err := s.touched(ctx, since)
	if err != nil {
		return err
	}
	if len(touched) == 0 {
		s.since = now
		return nil
	}
	hours := slices.SortedFunc(maps.Keys(touched), time.Time.Compare)
	sealed, err := s.sealedAt(ctx, hours[0], hours[len(hours)-1].Add(time.Hour))
	if err != nil {
		return err
	}
	for _, hour := range hours {
		if !hour.Before(horizon) && touched[hour].After(sealed[hour]) {
			s.open[hour] = struct{}{}
		}
	}
	s.since = now
	return nil
}

// touched is the hours with rows that were stored after a time, and when the
// last of them was.
func (s *Sealer) touched(ctx context.Context, since time.Time) (map[time.Time]time.Time, error) {
	shards, err := onEach(ctx, s.shards, func(ctx context.Context, k keeper) (map[time.Time]time.Time, error) { return k.touched(ctx, since) })
	if err != nil {
		return nil, err
	}
	out := shards[0]
	for _, hours := range shards[1:] {
		for hour, at := range hours {
			if at.After(out[hour]) {
				out[hour] = at
			}
		}
	}
	return out, nil
}

func (s *Sealer) sealedAt(ctx context.Context, from, to time.Time) (map[time.Time]time.Time, error) {
	out, err := s.shards[0].hours(ctx, querySealed, map[string]any{"from": from.Unix(), "to": to.Unix()})
	if err != nil {
		return nil, fmt.Errorf("read sealed hours: %w", err)
	}
	return out, nil
}

// Hour is what is recorded of an hour and a source.
type Hour struct {
	Hour   time.Time `json:"hour"`
	Source string    `json:"source"`
	// Received is by distinct calls and places in the log, of which Deduplicated
	// are copies; a log that an operator has read again changes neither.
	Received     uint64    `json:"received"`
	Deduplicated uint64    `json:"deduplicated"`
	Quarantined  uint64    `json:"quarantined"`
	Stored       uint64    `json:"stored"`
	RolledUp     uint64    `json:"rolled_up"`
	Repaired     bool      `json:"repaired"`
	SealedAt     time.Time `json:"sealed_at"`
}

// sealDay seals hours of one day, and holds the day's rollup against the hours
// when the whole day can be sealed.
func (s *Sealer) sealDay(ctx context.Context, day time.Time, hours []time.Time, until time.Time) error {
	now, err := s.clock(ctx)
	if err != nil {
		return err
	}
	earlier, err := s.sealedAt(ctx, day, day.Add(24*time.Hour))
	if err != nil {
		return err
	}
	var records [][]Hour
	for _, hour := range hours {
		record, err := s.settle(ctx, hour)
		if err != nil {
			return err
		}
		records = append(records, record)
	}
	dayRepaired := false
	if !day.Add(24 * time.Hour).After(until) {
		repaired, err := onEach(ctx, s.shards, func(ctx context.Context, k keeper) (bool, error) { return k.settleDay(ctx, day) })
		if err != nil {
			return err
		}
		dayRepaired = slices.Contains(repaired, true)
	}
	for i, record := range records {
		for j := range record {
			record[j].Repaired = record[j].Repaired || dayRepaired
		}
		if err := s.record(ctx, hours[i], record, now); err != nil {
			return err
		}
		kind := "first"
		if _, again := earlier[hours[i]]; again {
			kind = "again"
		}
		s.sealed.WithLabelValues(kind).Inc()
	}
	return nil
}

// settle makes the rollups of an hour equal to raw on every shard, and counts
// it.
func (s *Sealer) settle(ctx context.Context, hour time.Time) ([]Hour, error) {
	shards, err := onEach(ctx, s.shards, func(ctx context.Context, k keeper) (settled, error) { return k.settleHour(ctx, hour) })
	if err != nil {
		return nil, err
	}
	return count(hour, shards), nil
}

// count puts together what is recorded of an hour. What raw and the discards
// have, by distinct places in the log, is what was received.
func count(hour time.Time, shards []settled) (out []Hour) {
	bySource := map[string]*Hour{}
	of := func(source string) *Hour {
		if bySource[source] == nil {
			bySource[source] = &Hour{Hour: hour, Source: source}
		}
		return bySource[source]
	}
	rolledUp := map[string]map[string]uint64{} // by table and source
	repaired := false
	for _, shard := range shards {
		repaired = repaired || shard.repaired
		for source, n := range shard.raw.bySource() {
			of(source).Stored += n
		}
		for source, d := range shard.discards {
			of(source).Deduplicated += d.deduplicated
			of(source).Quarantined += d.quarantined
		}
		for _, c := range shard.rollups {
			if rolledUp[c.table] == nil {
				rolledUp[c.table] = map[string]uint64{}
			}
			for source, n := range c.got.bySource() {
				rolledUp[c.table][source] += n
			}
		}
	}
	for _, source := range slices.Sorted(maps.Keys(bySource)) {
		h := bySource[source]
		h.Received = h.Stored + h.Deduplicated + h.Quarantined
		h.RolledUp, h.Repaired = h.Stored, repaired
		for _, sums := range rolledUp {
			h.RolledUp = min(h.RolledUp, sums[source])
		}
		out = append(out, *h)
	}
	return out
}

func (s *Sealer) record(ctx context.Context, hour time.Time, record []Hour, at time.Time) error {
	if len(record) == 0 {
		return nil
	}
	var sources []string
	var received, deduplicated, quarantined, stored, rolledUp []uint64
	for _, h := range record {
		sources = append(sources, h.Source)
		received, deduplicated = append(received, h.Received), append(deduplicated, h.Deduplicated)
		quarantined, stored, rolledUp = append(quarantined, h.Quarantined), append(stored, h.Stored), append(rolledUp, h.RolledUp)
	}
	err := s.deps.Shards[0].Exec(ctx, queryRecord, map[string]any{
		"hour": hour, "sources": sources, "received": received, "deduplicated": deduplicated, "quarantined": quarantined,
		"stored": stored, "rolled_up": rolledUp, "repaired": record[0].Repaired, "sealed_at": at.UnixMilli(), "version": uint64(at.UnixMicro()),
	}, clickhouse.WithSettings(map[string]any{"async_insert": 0}))
	if err != nil {
		return fmt.Errorf("record %s: %w", hour.Format(time.RFC3339), err)
	}
	return nil
}
