package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tollway/tollway/pipelines/load"
	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/sql"
)

var queryPartitions = sql.ClickHouseQuery("rebuild_partitions")

// Range is what Rebuild works on.
type Range struct {
	// From and To are widened to whole hours, and to whole days for the rollup
	// by day. What begins before raw's retention is refused.
	From, To time.Time
	// Tables are the rollups to rebuild, all by default. Those that they feed
	// are always rebuilt with them.
	Tables []string
	// DryRun compares and changes nothing. A coarser rollup is then shown as it
	// is now, not as the repair of a finer one would leave it.
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

// Progress is told of each stretch that is done, also when nothing differed.
type Progress func(done, total int, c Change)

// Rebuild makes rollups equal to raw over a range of time, beside whatever else
// runs, and returns where they differed. After an error, run it again: what is
// done already is found equal.
func Rebuild(ctx context.Context, db *clickhouse.DB, r Range, progress Progress) ([]Change, error) {
	tables, err := fed(r.Tables)
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
	b := rebuild{db: db, dry: r.DryRun, options: queryOptions(r.QueryTime)}
	steps := plan(tables, r.From, r.To)
	var changes []Change
	for i, s := range steps {
		c, err := b.step(ctx, s)
		if err != nil {
			return changes, err
		}
		if c.Keys > 0 {
			changes = append(changes, c)
		}
		if progress != nil {
			progress(i+1, len(steps), c)
		}
	}
	return changes, nil
}

// fed is the rollups that are named and those that they feed.
func fed(names []string) ([]load.Rollup, error) {
	all := load.Rollups()
	var known []string
	for _, u := range all {
		known = append(known, u.Table())
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return nil, fmt.Errorf("there is no rollup %q, only %s", n, strings.Join(known, ", "))
		}
	}
	var out []load.Rollup
	feeding := false
	for _, u := range all {
		named := len(names) == 0 || slices.Contains(names, u.Table())
		traffic := strings.HasPrefix(u.Table(), "traffic_")
		feeding = feeding || named && traffic
		if named || traffic && feeding {
			out = append(out, u)
		}
	}
	return out, nil
}

// step is one rollup in one stretch of time.
type step struct {
	rollup   load.Rollup
	from, to time.Time
}

// plan orders the steps: hour by hour, finer rollups first, and each day after
// its hours.
func plan(tables []load.Rollup, from, to time.Time) (steps []step) {
	const day = 24 * time.Hour
	to = to.Add(time.Hour - 1).UTC().Truncate(time.Hour)
	for hour := from.UTC().Truncate(time.Hour); hour.Before(to); hour = hour.Add(time.Hour) {
		for _, u := range tables {
			if u.Width() <= time.Hour {
				steps = append(steps, step{u, hour, hour.Add(time.Hour)})
			}
		}
		if next := hour.Add(time.Hour); next.Equal(next.Truncate(day)) || !next.Before(to) {
			for _, u := range tables {
				if u.Width() > time.Hour {
					steps = append(steps, step{u, hour.Truncate(day), hour.Truncate(day).Add(day)})
				}
			}
		}
	}
	return steps
}

type rebuild struct {
	db      *clickhouse.DB
	dry     bool
	options []clickhouse.Option
}

func (b rebuild) step(ctx context.Context, s step) (Change, error) {
	c := Change{Table: s.rollup.Table(), From: s.from, To: s.to}
	partitions, err := b.partitions(ctx, s)
	if err != nil {
		return c, err
	}
	buckets := s.rollup.Buckets(s.from, s.to)
	var errs []error
	for _, p := range partitions {
		var d load.Difference
		if b.dry {
			d, err = s.rollup.Differences(ctx, b.db, p, buckets, b.options...)
		} else {
			d, err = makeEqual(ctx, b.db, s.rollup, p, buckets, b.options)
		}
		c.Keys, c.Calls = c.Keys+d.Keys, c.Calls+d.Calls
		if err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return c, fmt.Errorf("rebuild %s from %s: %w", c.Table, c.From.Format(time.RFC3339), err)
	}
	return c, nil
}

func (b rebuild) partitions(ctx context.Context, s step) ([]uint16, error) {
	rows, err := b.db.Query(ctx, queryPartitions, map[string]any{"table": s.rollup.Table(), "from": s.from, "to": s.to}, b.options...)
	if err != nil {
		return nil, fmt.Errorf("list partitions: %w", err)
	}
	defer rows.Close()
	var out []uint16
	for rows.Next() {
		var p uint16
		if err := rows.Scan(&p); err != nil {
			return nil, fmt.Errorf("list partitions: %w", err)
		}
		out = append(out, p)
	}
	return out, rows.Err()
}
