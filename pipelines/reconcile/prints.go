package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/sql"
)

var (
	queryRaw     = sql.ClickHouseQuery("reconcile_raw")
	queryTraffic = sql.ClickHouseQuery("reconcile_traffic")
	queryUsage   = sql.ClickHouseQuery("reconcile_usage")
)

// share is one source's share of one partition in an hour or day.
type share struct {
	source    string
	partition uint16
}

// tally is how many calls a table has of a share, and a fingerprint of its
// buckets.
type tally struct{ calls, print uint64 }

type tallies map[share]tally

// differing is the partitions in which two tables do not say the same.
func (t tallies) differing(other tallies) []uint16 {
	set := map[uint16]struct{}{}
	for s, v := range t {
		// A key that repairs brought to zero is as good as none.
		if other[s] != v {
			set[s.partition] = struct{}{}
		}
	}
	for s, v := range other {
		if t[s] != v {
			set[s.partition] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

func (t tallies) bySource() map[string]uint64 {
	out := map[string]uint64{}
	for s, v := range t {
		out[s.source] += v.calls
	}
	return out
}

// reader asks the tables about an hour or a day.
type reader struct {
	db      *clickhouse.DB
	options []clickhouse.Option
}

// raw is what the single calls of an hour say, as traffic and as usage.
func (r reader) raw(ctx context.Context, hour time.Time) (traffic, usage tallies, err error) {
	traffic, usage = tallies{}, tallies{}
	rows, err := r.db.Query(ctx, queryRaw, map[string]any{"from": hour, "to": hour.Add(time.Hour)}, r.options...)
	if err != nil {
		return nil, nil, fmt.Errorf("count raw calls: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var at time.Time
		var s share
		var stored, trafficPrint, usagePrint uint64
		if err := rows.Scan(&at, &s.source, &s.partition, &stored, &trafficPrint, &usagePrint); err != nil {
			return nil, nil, fmt.Errorf("count raw calls: %w", err)
		}
		traffic[s], usage[s] = tally{stored, trafficPrint}, tally{stored, usagePrint}
	}
	if err := rows.Err(); err != nil {
		return nil, nil, fmt.Errorf("count raw calls: %w", err)
	}
	return traffic, usage, nil
}

// traffic is what a rollup of traffic says of [from, from+length), with a
// fingerprint for buckets of a width that is at least its own.
func (r reader) traffic(ctx context.Context, table string, width time.Duration, from time.Time, length time.Duration) (tallies, error) {
	return r.rollup(ctx, queryTraffic, table, map[string]any{
		"table": table, "from": from, "to": from.Add(length),
		"bucket_seconds": uint32(width.Seconds()), "group_seconds": uint32(length.Seconds()),
	})
}

func (r reader) usage(ctx context.Context, hour time.Time) (tallies, error) {
	return r.rollup(ctx, queryUsage, "usage_15m", map[string]any{"from": hour, "to": hour.Add(time.Hour)})
}

func (r reader) rollup(ctx context.Context, query, table string, params map[string]any) (tallies, error) {
	rows, err := r.db.Query(ctx, query, params, r.options...)
	if err != nil {
		return nil, fmt.Errorf("sum %s: %w", table, err)
	}
	defer rows.Close()
	out := tallies{}
	for rows.Next() {
		var at time.Time
		var s share
		var calls int64
		var print uint64
		if err := rows.Scan(&at, &s.source, &s.partition, &calls, &print); err != nil {
			return nil, fmt.Errorf("sum %s: %w", table, err)
		}
		if calls != 0 || print != 0 {
			out[s] = tally{uint64(calls), print}
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sum %s: %w", table, err)
	}
	return out, nil
}
