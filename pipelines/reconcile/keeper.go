package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tollway/tollway/pipelines/load"
	"github.com/tollway/tollway/services/platform/clickhouse"
)

// keeper keeps the rollups of one shard equal to its raw: it looks for
// differences by fingerprints, which costs one reading of an hour, and then
// compares exactly, under the writer's query id, only what looks different.
// What looks different because an insert came between two readings turns out
// to be equal then.
type keeper struct {
	reader
	dry   bool // compare only
	found func(table string, from time.Time, partition uint16, d load.Difference)
}

// rollups by the names of their tables.
var rollups = func() map[string]load.Rollup {
	out := map[string]load.Rollup{}
	for _, u := range load.Rollups() {
		out[u.Table()] = u
	}
	return out
}()

func newKeeper(db *clickhouse.DB, limit time.Duration) keeper {
	return keeper{reader: reader{db, queryOptions(limit)}}
}

const day = 24 * time.Hour

// comparison is what came of holding a rollup against what it should say.
type comparison struct {
	table    string
	got      tallies
	suspects []uint16 // partitions that looked different
	repaired bool     // or, in a dry run, are to be
}

func (c comparison) equal() bool { return len(c.suspects) == 0 }

// hour holds the chosen rollups of an hour against raw once, finer ones first.
func (k keeper) hour(ctx context.Context, hour time.Time, traffic, usage bool) (raw tallies, got []comparison, err error) {
	raw, used, err := k.raw(ctx, hour)
	if err != nil {
		return nil, nil, err
	}
	if traffic {
		minutes, err := k.compare(ctx, "traffic_1m", raw, nil, hour, time.Hour, func() (tallies, error) {
			return k.traffic(ctx, "traffic_1m", time.Minute, hour, time.Hour)
		})
		if err != nil {
			return nil, nil, err
		}
		hours, err := k.compareCoarse(ctx, "traffic_1h", "traffic_1m", minutes.suspects, hour, time.Hour)
		if err != nil {
			return nil, nil, err
		}
		got = append(got, minutes, hours)
	}
	if usage {
		quarters, err := k.compare(ctx, "usage_15m", used, nil, hour, time.Hour, func() (tallies, error) { return k.usage(ctx, hour) })
		if err != nil {
			return nil, nil, err
		}
		got = append(got, quarters)
	}
	return raw, got, nil
}

// compareCoarse holds a rollup of traffic against the finer one that feeds it,
// which has far fewer rows than raw and was made equal to it before.
func (k keeper) compareCoarse(ctx context.Context, table, finer string, suspects []uint16, from time.Time, length time.Duration) (comparison, error) {
	want, err := k.traffic(ctx, finer, length, from, length)
	if err != nil {
		return comparison{}, err
	}
	return k.compare(ctx, table, want, suspects, from, length, func() (tallies, error) {
		return k.traffic(ctx, table, length, from, length)
	})
}

// compare holds what a rollup says against what it should, and repairs the
// partitions in which it says something else. In a dry run the finer rollup is
// not repaired, so partitions that looked different there are compared exactly
// here as well.
func (k keeper) compare(ctx context.Context, table string, want tallies, finer []uint16, from time.Time, length time.Duration, read func() (tallies, error)) (c comparison, err error) {
	c.table = table
	if c.got, err = read(); err != nil {
		return c, err
	}
	c.suspects = c.got.differing(want)
	check := c.suspects
	if k.dry {
		check = union(check, finer)
		c.suspects = check
	}
	u := rollups[table]
	for _, partition := range check {
		d, err := k.settle(ctx, u, partition, u.Buckets(from, from.Add(length)))
		if d.Keys > 0 {
			c.repaired = true
			k.found(table, from, partition, d)
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// settled is an hour whose rollups equal raw.
type settled struct {
	raw      tallies
	rollups  []comparison
	repaired bool
	discards map[string]discards // by source
}

// maxRounds bounds how often an hour is read until nothing comes in between.
const maxRounds = 5

// settleHour makes the rollups of an hour equal to raw.
func (k keeper) settleHour(ctx context.Context, hour time.Time) (s settled, err error) {
	for range maxRounds {
		if s.raw, s.rollups, err = k.hour(ctx, hour, true, true); err != nil {
			return s, err
		}
		equal := true
		for _, c := range s.rollups {
			equal, s.repaired = equal && c.equal(), s.repaired || c.repaired
		}
		if equal {
			s.discards, err = k.discards(ctx, hour)
			return s, err
		}
	}
	return s, fmt.Errorf("%s does not come to rest", hour.Format(time.RFC3339))
}

// settleDay makes the rollup of a day equal to its hours, and so to raw.
func (k keeper) settleDay(ctx context.Context, at time.Time) (repaired bool, err error) {
	for range maxRounds {
		c, err := k.compareCoarse(ctx, "traffic_1d", "traffic_1h", nil, at, day)
		repaired = repaired || c.repaired
		if err != nil || c.equal() {
			return repaired, err
		}
	}
	return false, fmt.Errorf("traffic_1d does not come to rest on %s", at.Format(time.DateOnly))
}

// maxRepairs bounds how often one share is repaired before somebody has to
// look: a repair that succeeds leaves nothing to do, but what is inserted
// between two of them may be found wanting too.
const maxRepairs = 10

// settle repairs a partition's share of buckets until it equals raw, and
// returns what the difference was at first.
func (k keeper) settle(ctx context.Context, u load.Rollup, partition uint16, buckets []time.Time) (first load.Difference, err error) {
	for n := range maxRepairs {
		d, err := u.Differences(ctx, k.db, partition, buckets, k.options...)
		// A new owner of the partition stops whatever writes to it.
		if clickhouse.IsRetryable(err) && ctx.Err() == nil && n < maxRepairs-1 {
			continue
		}
		if err != nil {
			return first, err
		}
		first = earliest(first, d)
		if d.Keys == 0 || k.dry {
			return first, nil
		}
		// What came of a repair without an answer is seen in the next comparison.
		if err := u.Repair(ctx, k.db, partition, buckets, k.options...); err != nil && !clickhouse.IsUnknownOutcome(err) {
			return first, err
		}
		if ctx.Err() != nil {
			return first, ctx.Err()
		}
	}
	return first, fmt.Errorf("%s still differs from raw in partition %d after %d repairs", u.Table(), partition, maxRepairs)
}

// earliest is the first difference that was seen.
func earliest(first, d load.Difference) load.Difference {
	if first.Keys == 0 {
		return d
	}
	return first
}

// union is the partitions that looked different in any of some comparisons.
func union(suspects ...[]uint16) []uint16 {
	set := map[uint16]struct{}{}
	for _, list := range suspects {
		for _, p := range list {
			set[p] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(set))
}
