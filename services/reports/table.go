package reports

import "fmt"

const (
	second int64 = 1e6 // all times of plans are microseconds since the Unix epoch
	minute       = 60 * second
	hour         = 60 * minute
	day          = 24 * hour
)

// A table holds calls or a rollup of them.
type table struct {
	name   string
	family family
	grain  int64  // length of its buckets; 1 for calls
	from   string // what follows FROM
	column string // time of a row
}

var (
	callsTable = &table{"calls", raw, 1, "calls FINAL", "time"}
	usage15m   = &table{"usage_15m", usage, 15 * minute, "usage_15m", "bucket"}
	traffic1m  = &table{"traffic_1m", traffic, minute, "traffic_1m", "bucket"}
	traffic1h  = &table{"traffic_1h", traffic, hour, "traffic_1h", "bucket"}
	traffic1d  = &table{"traffic_1d", traffic, day, "traffic_1d", "bucket"}

	// allTables from the smallest to the largest.
	allTables = []*table{traffic1d, traffic1h, usage15m, traffic1m, callsTable}
)

// moment is the SQL of a bound of the table's time column.
func (t *table) moment(b *binder, us int64) string {
	if t.family == raw {
		return fmt.Sprintf("fromUnixTimestamp64Micro(%s, 'UTC')", b.bind("Int64", us))
	}
	return fmt.Sprintf("toDateTime(%s, 'UTC')", b.bind("UInt32", us/second))
}

// micros is the SQL of a row's time in microseconds.
func (t *table) micros() string {
	if t.family == raw {
		return "toUnixTimestamp64Micro(time)"
	}
	return "toInt64(toUnixTimestamp(bucket)) * 1000000"
}

// aggregate is the SQL of what the table contributes to a metric.
func (t *table) aggregate(a *aggregate) string {
	if t.family == raw {
		return a.raw
	}
	return a.rollup
}

// tablesOf lists the tables, smallest first, that know all of a family set.
func tablesOf(f family) []string {
	var names []string
	for _, t := range allTables {
		if f&t.family != 0 {
			names = append(names, t.name)
		}
	}
	return names
}
