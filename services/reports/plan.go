package reports

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A segment is a part of the range and the table that answers it.
type segment struct {
	table    *table
	from, to int64
}

// plan covers the range [from, to) with segments: the coarsest of the tables
// for all of its buckets that lie in the range, finer ones for what is left at
// the edges. tables go from coarse to fine; the last one holds calls, which
// have no bucket to be cut.
func plan(tables []*table, from, to int64) []segment {
	if from >= to {
		return nil
	}
	t := tables[0]
	if t.grain == 1 {
		return []segment{{t, from, to}}
	}
	first, last := ceilTo(from, t.grain), floorTo(to, t.grain)
	if first >= last {
		return plan(tables[1:], from, to)
	}
	segments := append(plan(tables[1:], from, first), segment{t, first, last})
	return append(segments, plan(tables[1:], last, to)...)
}

func floorTo(us, grain int64) int64 { return us - (us%grain+grain)%grain }

func ceilTo(us, grain int64) int64 { return floorTo(us+grain-1, grain) }

// candidates are the tables that know everything that the query needs and
// whose buckets do not cross a time bucket of the answer, coarse to fine. The
// traffic tables come before usage_15m, which has a row per account.
func candidates(needs family, time *buckets) []*table {
	known := raw
	for _, f := range []family{traffic, usage} {
		if needs&f != 0 {
			known |= f
			break
		}
	}
	var tables []*table
	for _, t := range allTables {
		if t.family&known != 0 && (time == nil || time.aligned(t.grain)) {
			tables = append(tables, t)
		}
	}
	return tables
}

// sourceTables names the tables, the one that answers most of the range first.
func sourceTables(segments []segment) string {
	covered := map[string]int64{}
	var names []string
	for _, s := range segments {
		if _, ok := covered[s.table.name]; !ok {
			names = append(names, s.table.name)
		}
		covered[s.table.name] += s.to - s.from
	}
	slices.SortStableFunc(names, func(a, b string) int {
		switch {
		case covered[a] > covered[b]:
			return -1
		case covered[a] < covered[b]:
			return 1
		}
		return strings.Compare(a, b)
	})
	return strings.Join(names, "+")
}

// checkRetention refuses a plan that reads a table at a time whose rows it no
// longer holds: the answer would be too small without saying so.
func (c Config) checkRetention(segments []segment, tables []*table, now time.Time) error {
	for _, s := range segments {
		days := c.RollupRetentionDays
		if s.table.family == raw || s.table == traffic1m {
			days = c.RetentionDays
		}
		oldest := floorTo(now.UnixMicro(), day) - int64(days)*day
		if days == 0 || s.from >= oldest {
			continue
		}
		if coarsest := tables[0]; s.table != coarsest {
			return fmt.Errorf("time_range: calls of %s are kept in buckets of %s only; let the range and its time buckets begin and end on multiples of that in UTC",
				rfc3339(s.from, time.UTC), time.Duration(coarsest.grain)*time.Microsecond)
		}
		return fmt.Errorf("time_range: what this query needs is kept in %s for %d days, since %s; ask for a later start_time, or for fewer dimensions",
			s.table.name, days, rfc3339(oldest, time.UTC))
	}
	return nil
}

func rfc3339(us int64, loc *time.Location) string {
	return time.UnixMicro(us).In(loc).Format(time.RFC3339Nano)
}
