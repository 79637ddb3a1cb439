package reports

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxBuckets bounds the time buckets of one answer.
const maxBuckets = 20000

// Granularities in requests.
const (
	granularityNone = "none"
	granularityDay  = "day"
	granularityMon  = "month"
)

// steps are the granularities of fixed length on the wall clock.
var steps = map[string]time.Duration{"minute": time.Minute, "15m": 15 * time.Minute, "hour": time.Hour}

// Granularities lists what a request may ask for.
func Granularities() []string {
	return []string{granularityNone, "minute", "15m", "hour", granularityDay, granularityMon}
}

// buckets are the time buckets that a range touches. Where they begin is
// decided here and not in the database, so that there is one time zone
// database and one answer to what a day with 23 hours is.
type buckets struct {
	starts []int64 // of each bucket; the first may lie before the range
	from   int64   // the range
	to     int64
	until  int64 // end of the part of the range that has passed
	step   int64 // distance between all starts; 0 when they differ
}

func newBuckets(granularity string, from, to int64, loc *time.Location) (*buckets, error) {
	floor, next, err := calendar(granularity)
	if err != nil {
		return nil, err
	}
	b := &buckets{from: from, to: to, until: to}
	for t := floor(time.UnixMicro(from).In(loc)); t.UnixMicro() < to; t = next(t) {
		if len(b.starts) == maxBuckets {
			return nil, fmt.Errorf("the range has more than %d buckets of one %s; take a shorter range or a coarser granularity", maxBuckets, granularity)
		}
		b.starts = append(b.starts, t.UnixMicro())
	}
	b.step = equalStep(b.starts, to)
	return b, nil
}

func equalStep(starts []int64, to int64) int64 {
	if len(starts) < 2 {
		return max(to-starts[0], 1)
	}
	step := starts[1] - starts[0]
	for i := 2; i < len(starts); i++ {
		if starts[i]-starts[i-1] != step {
			return 0
		}
	}
	if to-starts[len(starts)-1] > step {
		return 0 // the last one is longer than those before it
	}
	return step
}

// calendar is a granularity as two functions: the start of the bucket that
// holds a time, and the start of the bucket after the one that starts at t.
func calendar(granularity string) (floor, next func(time.Time) time.Time, err error) {
	if step, ok := steps[granularity]; ok {
		return func(t time.Time) time.Time { return floorClock(t, step) },
			func(t time.Time) time.Time { return nextClock(t, step) }, nil
	}
	switch granularity {
	case granularityDay:
		return func(t time.Time) time.Time { return startOfDate(t.Year(), t.Month(), t.Day(), t.Location()) },
			func(t time.Time) time.Time { return startOfDate(t.Year(), t.Month(), t.Day()+1, t.Location()) }, nil
	case granularityMon:
		return func(t time.Time) time.Time { return startOfDate(t.Year(), t.Month(), 1, t.Location()) },
			func(t time.Time) time.Time { return startOfDate(t.Year(), t.Month()+1, 1, t.Location()) }, nil
	}
	return nil, nil, fmt.Errorf("granularity %q is not one of %v", granularity, Granularities())
}

// floorClock is the last full step of the wall clock at or before t, or the
// moment at which the clock was changed, if that is later.
func floorClock(t time.Time, step time.Duration) time.Time {
	floor := floorUnchanged(t, step)
	if change, _ := t.ZoneBounds(); change.After(floor) && shifts(change, step) {
		return change
	}
	return floor
}

// nextClock is the start of the step after the one that holds t.
func nextClock(t time.Time, step time.Duration) time.Time {
	next := floorUnchanged(t, step).Add(step)
	if _, change := t.ZoneBounds(); !change.IsZero() && change.Before(next) && shifts(change, step) {
		return change
	}
	return next
}

// floorUnchanged is floorClock as if the clock had never been changed.
func floorUnchanged(t time.Time, step time.Duration) time.Time {
	_, offset := t.Zone()
	local := t.Unix() + int64(offset)
	seconds := int64(step / time.Second)
	return time.Unix(local-(local%seconds+seconds)%seconds-int64(offset), 0).In(t.Location())
}

// shifts says whether a change of the clock moves the steps: a change by a
// multiple of the step does not.
func shifts(change time.Time, step time.Duration) bool {
	_, before := change.Add(-1).Zone()
	_, after := change.Zone()
	return (after-before)%int(step/time.Second) != 0
}

// startOfDate is the first moment of a date or, where the whole date was
// skipped, of what follows it. Midnight may not exist, or exist twice, where
// clocks are changed at midnight.
func startOfDate(year int, month time.Month, dayOfMonth int, loc *time.Location) time.Time {
	midnight := time.Date(year, month, dayOfMonth, 0, 0, 0, 0, time.UTC).Unix()
	// From before the date in any time zone, through the periods between
	// changes of the clock, to the first in which the clock reaches midnight.
	probe := time.Unix(midnight, 0).Add(-36 * time.Hour).In(loc)
	for {
		start, end := probe.ZoneBounds()
		_, offset := probe.Zone()
		t := time.Unix(midnight-int64(offset), 0).In(loc)
		if t.Before(start) && changes(start) {
			t = start
		}
		if end.IsZero() || t.Before(end) {
			return t
		}
		// Beyond the table of a zone, the standard library ends a period with
		// the year too, and is a day out about the last day of a leap year.
		if !end.After(probe) {
			end = probe.Add(time.Hour)
		}
		probe = end
	}
}

// changes says whether the clock is changed at a bound of a period.
func changes(bound time.Time) bool {
	_, before := bound.Add(-1).Zone()
	_, after := bound.Zone()
	return before != after
}

// seconds is how much of the bucket that starts at start lies in the range and
// has passed.
func (b *buckets) seconds(i int) float64 {
	end := b.until
	if i+1 < len(b.starts) {
		end = min(end, b.starts[i+1])
	}
	return float64(max(end-max(b.starts[i], b.from), 1)) / float64(second)
}

// bucketSQL is the start of the bucket that holds a moment. The numbers in it
// are computed here; none comes from a caller as text.
func (b *buckets) bucketSQL(micros string) string {
	if b.step > 0 {
		return fmt.Sprintf("%[1]d + intDiv(%[2]s - %[1]d, %[3]d) * %[3]d", b.starts[0], micros, b.step)
	}
	return fmt.Sprintf("roundDown(%s, %s)", micros, intArray(b.starts))
}

// secondsSQL is seconds of the bucket that starts at the column.
func (b *buckets) secondsSQL(column string) string {
	if b.step > 0 {
		return fmt.Sprintf("(greatest(least(%[1]s + %[2]d, %[3]d) - greatest(%[1]s, %[4]d), 1) / 1000000)", column, b.step, b.until, b.from)
	}
	lengths := make([]int64, len(b.starts))
	for i := range lengths {
		lengths[i] = int64(b.seconds(i) * float64(second))
	}
	return fmt.Sprintf("(transform(%s, %s, %s, toInt64(1)) / 1000000)", column, intArray(b.starts), intArray(lengths))
}

// aligned says whether no bucket of a table with that grain holds calls of two
// time buckets.
func (b *buckets) aligned(grain int64) bool {
	return !slices.ContainsFunc(b.starts[1:], func(start int64) bool { return start%grain != 0 })
}

// intArray names its type: left to itself, the store takes large numbers as
// unsigned, and finds no type for them together with a signed one.
func intArray(numbers []int64) string {
	texts := make([]string, len(numbers))
	for i, n := range numbers {
		texts[i] = strconv.FormatInt(n, 10)
	}
	return "CAST([" + strings.Join(texts, ",") + "], 'Array(Int64)')"
}
