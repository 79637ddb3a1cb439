package load

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/sql"
)

// Rollup is a table that says again what raw says, by buckets of time, and
// that can be made equal to it.
//
// The partition of the log is part of a rollup's key, and whatever writes a
// partition's calls or repairs its share of a rollup does so under one query
// id, which the server lets run only once at a time. So a comparison never sees
// half an insert, two repairs never add the same difference twice, and both may
// be done by anyone, beside the owner of the partition.
type Rollup struct {
	table   string
	query   string
	seconds int64 // width of a bucket
}

// rollups in the order in which their views feed each other: what a repair of
// the minute adds flows on into the hour and the day.
var rollups = []Rollup{
	{"traffic_1m", sql.ClickHouseQuery("repair_traffic_1m"), 60},
	{"traffic_1h", sql.ClickHouseQuery("repair_traffic_1h"), 3600},
	{"traffic_1d", sql.ClickHouseQuery("repair_traffic_1d"), 86400},
	{"usage_15m", sql.ClickHouseQuery("repair_usage_15m"), 900},
}

// Rollups are all there are, in the order in which they must be repaired.
func Rollups() []Rollup { return append([]Rollup(nil), rollups...) }

// Table is the rollup's name.
func (u Rollup) Table() string { return u.table }

// Width is the length of a bucket.
func (u Rollup) Width() time.Duration { return time.Duration(u.seconds) * time.Second }

// Buckets are those that have a part in [from, to).
func (u Rollup) Buckets(from, to time.Time) (out []time.Time) {
	for at := from.UTC().Truncate(u.Width()); at.Before(to); at = at.Add(u.Width()) {
		out = append(out, at)
	}
	return out
}

func (u Rollup) params(partition uint16, buckets []time.Time) map[string]any {
	return map[string]any{
		"partition": partition, "buckets": buckets,
		"from": buckets[0], "to": buckets[len(buckets)-1].Add(u.Width()),
	}
}

// Difference is by how much a rollup differs from raw: in how many keys, and
// how many calls it has too few (or, below zero, too many) in sum.
type Difference struct {
	Keys  uint64
	Calls int64
}

// Differences compares a partition's share of buckets, which are in order, with
// raw.
func (u Rollup) Differences(ctx context.Context, db *clickhouse.DB, partition uint16, buckets []time.Time, opts ...clickhouse.Option) (d Difference, err error) {
	if len(buckets) == 0 {
		return d, nil
	}
	opts = append(opts, clickhouse.WithQueryID(writerID(db, partition)))
	err = exclusively(ctx, func() error {
		return db.QueryRow(ctx, "SELECT count(), sum(calls) FROM ("+u.query+")", u.params(partition, buckets), opts...).Scan(&d.Keys, &d.Calls)
	})
	if err != nil {
		return d, fmt.Errorf("compare %s with raw: %w", u.table, err)
	}
	return d, nil
}

// Repair adds to the rollup what it lacks of raw, in one statement that reads
// the difference and writes it. Compare again afterwards, above all after an
// error: the statement may have been cut off in the middle.
func (u Rollup) Repair(ctx context.Context, db *clickhouse.DB, partition uint16, buckets []time.Time, opts ...clickhouse.Option) error {
	if len(buckets) == 0 {
		return nil
	}
	// Never under a token: the same difference may come up again.
	opts = append(opts, clickhouse.WithSettings(map[string]any{
		"async_insert": 0, "insert_deduplicate": 0, "deduplicate_insert": "disable",
	}), clickhouse.WithQueryID(writerID(db, partition)))
	err := exclusively(ctx, func() error {
		return db.Exec(ctx, "INSERT INTO "+u.table+" "+u.query, u.params(partition, buckets), opts...)
	})
	if err != nil {
		return fmt.Errorf("repair %s: %w", u.table, err)
	}
	return nil
}

var queryHorizon = sql.ClickHouseQuery("rebuild_horizon")

// Horizon is the first midnight since which raw has every call that was ever
// stored. Before it raw is on its way out, while rollups stay: a comparison
// would find too much in them, and a repair would take it away.
func Horizon(ctx context.Context, db *clickhouse.DB) (time.Time, error) {
	var at time.Time
	if err := db.QueryRow(ctx, queryHorizon, nil).Scan(&at); err != nil {
		return at, fmt.Errorf("read the retention of raw: %w", err)
	}
	return at.UTC(), nil
}

// WriterPrefix is how the query ids of all that writes to a database begin.
func WriterPrefix(db *clickhouse.DB) string { return "tollway-writer-" + db.Database() + "-" }

// writerID is the query id of whatever writes a partition. The server refuses
// a second statement with the id of one that still runs.
func writerID(db *clickhouse.DB, partition uint16) string {
	return WriterPrefix(db) + strconv.Itoa(int(partition))
}

const (
	alreadyRunning = 216 // QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING
	// The id of a statement is free a moment after its answer, so the first
	// pause is short.
	firstPause = 2 * time.Millisecond
	lastPause  = 100 * time.Millisecond
)

// exclusively runs a statement that has a writer's id, and waits while another
// one with that id runs.
func exclusively(ctx context.Context, statement func() error) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := statement()
		if clickhouse.Code(err) != alreadyRunning {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}
