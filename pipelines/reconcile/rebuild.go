package reconcile

import (
	"context"
	"fmt"
	"slices"
	"strings"
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

// Rebuild makes rollups equal to raw over a range of time, beside whatever else
// runs, and returns where they differed. After an error, run it again: what is
// done already is found equal.
func Rebuild(ctx context.Context, db *clickhouse.DB, r Range, progress Progress) ([]Change, error) {
	traffic, usage, err := chosen(r.Tables)
	if err != nil {
		return nil, err
	}
	if !r.From.Before(r.To) {
		return nil, fmt.Errorf("the range is empty: %s is not before %s", r.From.Format(time.RFC3339), r.To.Format(time.RFC3339))
	}
	horizon, err := load.Horizon(ctx, db)
	if err != nil {
		return nil, err
	}
	if r.From.Before(horizon) {
		return nil, fmt.Errorf("calls that start before %s are being dropped, and rollups can be rebuilt from there on only", horizon.Format(time.RFC3339))
	}
	if r.QueryTime == 0 {
		r.QueryTime = time.Hour
	}
	b := &rebuild{keeper: newKeeper(db, r.QueryTime), ofTraffic: traffic, ofUsage: usage}
	b.dry, b.found = r.DryRun, b.note
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
	keeper
	ofTraffic, ofUsage bool
	suspects           []uint16 // partitions that looked different in an hour of the day
	changes            []Change // of the hour
}

// step rebuilds an hour and, with its last hour, the day.
func (b *rebuild) step(ctx context.Context, hour time.Time, lastOfDay bool) error {
	_, got, err := b.hour(ctx, hour, b.ofTraffic, b.ofUsage)
	if err != nil || !b.ofTraffic {
		return err
	}
	for _, c := range got {
		b.suspects = union(b.suspects, c.suspects)
	}
	if !lastOfDay {
		return nil
	}
	_, err = b.compareCoarse(ctx, "traffic_1d", "traffic_1h", b.suspects, hour.Truncate(day), day)
	b.suspects = nil
	return err
}

// note adds a partition's difference to that of its table and time.
func (b *rebuild) note(table string, from time.Time, _ uint16, d load.Difference) {
	for i := range b.changes {
		if c := &b.changes[i]; c.Table == table && c.From.Equal(from) {
			c.Keys, c.Calls = c.Keys+d.Keys, c.Calls+d.Calls
			return
		}
	}
	b.changes = append(b.changes, Change{Table: table, From: from, To: from.Add(max(time.Hour, b.rollups[table].Width())), Keys: d.Keys, Calls: d.Calls})
}

// hours of a range in which raw or a rollup has anything. A day that only the
// rollup by day knows stands in the range with its first hour.
func (b *rebuild) hours(ctx context.Context, from, to time.Time) (out []time.Time, err error) {
	rows, err := b.db.Query(ctx, queryHoursOf, map[string]any{"from": from, "to": to}, b.options...)
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
