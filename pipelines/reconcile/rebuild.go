package reconcile

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tollway/tollway/pipelines/load"
	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/sql"
)

var queryHoursOf = sql.ClickHouseQuery("rebuild_hours")

// Range is what Rebuild works on.
type Range struct {
	// From and To are widened to whole hours, and to whole days for the rollup
	// by day. What begins before raw's retention is refused.
	From, To time.Time
	// Tables are the rollups to rebuild, all by default. Those of traffic feed
	// each other and are rebuilt together.
	Tables []string
	// DryRun compares and changes nothing.
	DryRun bool
	// QueryTime bounds one statement; 0 means an hour.
	QueryTime time.Duration
}

// Change is by how much one rollup differed from raw in one stretch of time.
type Change struct {
	Table string    `json:"table"`
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`
	// Keys differed; in sum they had Calls too few, or too many below zero.
	Keys  uint64 `json:"keys"`
	Calls int64  `json:"calls"`
}

// Progress is told of each hour that is done, and what was found in it and, at
// its last hour, in the day.
type Progress func(done, total int, changes []Change)

// Rebuild makes the rollups of every shard equal to its raw over a range of
// time, beside whatever else runs, and returns where they differed. After an
// error, run it again: what is done already is found equal.
func Rebuild(ctx context.Context, shards []*clickhouse.DB, r Range, progress Progress) ([]Change, error) {
	traffic, usage, err := chosen(r.Tables)
	if err != nil {
		return nil, err
	}
	if !r.From.Before(r.To) {
		return nil, fmt.Errorf("the range is empty: %s is not before %s", r.From.Format(time.RFC3339), r.To.Format(time.RFC3339))
	}
	if r.QueryTime == 0 {
		r.QueryTime = time.Hour
	}
	b := rebuild{ofTraffic: traffic, ofUsage: usage}
	for _, db := range shards {
		k := newKeeper(db, r.QueryTime)
		k.dry, k.found = r.DryRun, b.note
		b.shards = append(b.shards, k)
	}
	horizon, err := horizonOf(ctx, b.shards)
	if err != nil {
		return nil, err
	}
	if r.From.Before(horizon) {
		return nil, fmt.Errorf("calls that start before %s are being dropped, and rollups can be rebuilt from there on only", horizon.Format(time.RFC3339))
	}
	hours, err := b.hours(ctx, r.From.UTC().Truncate(time.Hour), r.To.Add(time.Hour-1).UTC().Truncate(time.Hour))
	if err != nil {
		return nil, err
	}
	var all []Change
	for i, hour := range hours {
		last := i == len(hours)-1 || !hours[i+1].Truncate(day).Equal(hour.Truncate(day))
		err := b.step(ctx, hour, last)
		all = append(all, b.changes...)
		if err != nil {
			return all, fmt.Errorf("rebuild %s: %w", hour.Format(time.RFC3339), err)
		}
		if progress != nil {
			progress(i+1, len(hours), b.changes)
		}
		b.changes = nil
	}
	return all, nil
}

// chosen tells which kinds of rollup some names stand for.
func chosen(names []string) (traffic, usage bool, err error) {
	if len(names) == 0 {
		return true, true, nil
	}
	var known []string
	for _, u := range load.Rollups() {
		known = append(known, u.Table())
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return false, false, fmt.Errorf("there is no rollup %q, only %s", n, strings.Join(known, ", "))
		}
		ofTraffic := strings.HasPrefix(n, "traffic_")
		traffic, usage = traffic || ofTraffic, usage || !ofTraffic
	}
	return traffic, usage, nil
}

type rebuild struct {
	shards             []keeper
	ofTraffic, ofUsage bool
	suspects           [][]uint16 // partitions of each shard that looked different in an hour of the day

	mu      sync.Mutex
	changes []Change // of the hour
}

// step rebuilds an hour and, with its last hour, the day.
func (b *rebuild) step(ctx context.Context, hour time.Time, lastOfDay bool) error {
	suspects, err := onEach(ctx, b.shards, func(ctx context.Context, k keeper) ([]uint16, error) {
		_, got, err := k.hour(ctx, hour, b.ofTraffic, b.ofUsage)
		var suspects []uint16
		for _, c := range got {
			suspects = union(suspects, c.suspects)
		}
		return suspects, err
	})
	if err != nil || !b.ofTraffic {
		return err
	}
	if b.suspects == nil {
		b.suspects = make([][]uint16, len(b.shards))
	}
	for i := range suspects {
		b.suspects[i] = union(b.suspects[i], suspects[i])
	}
	if !lastOfDay {
		return nil
	}
	for i, k := range b.shards {
		if _, err := k.compareCoarse(ctx, "traffic_1d", "traffic_1h", b.suspects[i], hour.Truncate(day), day); err != nil {
			return err
		}
	}
	b.suspects = nil
	return nil
}

// note adds a partition's difference to that of its table and time.
func (b *rebuild) note(table string, from time.Time, _ uint16, d load.Difference) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.changes {
		if c := &b.changes[i]; c.Table == table && c.From.Equal(from) {
			c.Keys, c.Calls = c.Keys+d.Keys, c.Calls+d.Calls
			return
		}
	}
	b.changes = append(b.changes, Change{Table: table, From: from, To: from.Add(max(time.Hour, rollups[table].Width())), Keys: d.Keys, Calls: d.Calls})
}

// hours of a range in which raw or a rollup has anything on any shard. A day
// that only the rollup by day knows stands in the range with its first hour.
func (b *rebuild) hours(ctx context.Context, from, to time.Time) ([]time.Time, error) {
	shards, err := onEach(ctx, b.shards, func(ctx context.Context, k keeper) ([]time.Time, error) { return k.hoursOf(ctx, from, to) })
	if err != nil {
		return nil, err
	}
	all := slices.Concat(shards...)
	slices.SortFunc(all, time.Time.Compare)
	return slices.CompactFunc(all, time.Time.Equal), nil
}

func (r reader) hoursOf(ctx context.Context, from, to time.Time) (out []time.Time, err error) {
	rows, err := r.db.Query(ctx, queryHoursOf, map[string]any{"from": from, "to": to}, r.options...)
	if err != nil {
		return nil, fmt.Errorf("list hours: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var hour time.Time
		if err := rows.Scan(&hour); err != nil {
			return nil, fmt.Errorf("list hours: %w", err)
		}
		out = append(out, hour.UTC())
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list hours: %w", err)
	}
	return out, nil
}
