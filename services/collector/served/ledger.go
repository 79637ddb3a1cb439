package served

import (
	"cmp"
	"slices"
)

type seriesKey struct{ node, prefix string }

// series is one listener of one Envoy.
type series struct {
	cluster  string
	minute   int64 // under way; its start in seconds
	total    uint64
	active   uint64
	written  uint64
	dropped  uint64
	reports  uint32 // in the minute under way
	restarts uint32
	seen     int64 // ms, of the last report

	// carried is what ended before the last restart and is in no record yet;
	// base is how many had ended, since Envoy's start, at the last record.
	carried   int64
	base      int64
	first     bool
	hasActive bool
}

func (s *series) ended() int64 { return int64(s.total) - int64(s.active) }

// ledger turns reports into records.
type ledger struct {
	series map[seriesKey]*series
	max    int
	full   int // reports that had no place
}

func newLedger(max int) *ledger { return &ledger{series: map[seriesKey]*series{}, max: max} }

// add takes a report of a node and returns the records of minutes that it ends.
func (l *ledger) add(node, cluster string, now int64, r reading) (out []Served) {
	for prefix, c := range r.prefixes {
		key := seriesKey{node, prefix}
		s := l.find(key, c, now)
		if s == nil {
			continue
		}
		if minute(now) > s.minute {
			if s.reports > 0 {
				out = append(out, s.record(key))
			}
			s.minute = minute(now)
		}
		s.cluster, s.seen = cluster, now
		s.add(c)
	}
	l.addLogs(node, r)
	sortRecords(out)
	return out
}

// find gets the series of a listener, and makes it with its first total.
func (l *ledger) find(key seriesKey, c *count, now int64) *series {
	s := l.series[key]
	if s != nil || !c.hasTotal {
		return s
	}
	if len(l.series) >= l.max {
		l.full++
		return nil
	}
	// What ended before the first report was seen by nobody here.
	s = &series{minute: minute(now), first: true, base: int64(c.total)}
	l.series[key] = s
	return s
}

// add takes what a message says of a listener.
func (s *series) add(c *count) {
	if c.hasTotal {
		if c.total < s.total { // Envoy has started anew
			s.restarts++
			s.carried += s.ended() - s.base
			s.base, s.active = 0, 0
		}
		s.total = c.total
		s.reports++
	}
	if c.hasActive {
		if !s.hasActive {
			s.hasActive = true
			s.base -= int64(c.active) // what was active then had not ended
		}
		s.active = c.active
	}
}

// addLogs takes what a message says of the node's log entries.
func (l *ledger) addLogs(node string, r reading) {
	if !r.hasWritten && !r.hasDropped {
		return
	}
	for key, s := range l.series {
		if key.node != node {
			continue
		}
		if r.hasWritten {
			s.written = r.written
		}
		if r.hasDropped {
			s.dropped = r.dropped
		}
	}
}

// expire returns the records of minutes that ended before a time, in ms, and
// forgets listeners that have been silent since another.
func (l *ledger) expire(before, silent int64) (out []Served) {
	for key, s := range l.series {
		if s.reports > 0 && (s.minute+60)*1000 <= before {
			out = append(out, s.record(key))
		}
		if s.reports == 0 && s.seen < silent {
			delete(l.series, key)
		}
	}
	sortRecords(out)
	return out
}

// record closes the minute under way.
func (s *series) record(key seriesKey) Served {
	r := Served{
		Minute: s.minute, Node: key.node, Cluster: s.cluster, Prefix: key.prefix,
		Total: s.total, Active: s.active, Ended: s.carried + s.ended() - s.base, First: s.first,
		Restarts: s.restarts, Reports: s.reports, LogsWritten: s.written, LogsDropped: s.dropped,
	}
	s.base, s.carried, s.first, s.reports = s.ended(), 0, false, 0
	return r
}

func minute(ms int64) int64 { return ms / 60_000 * 60 }

func sortRecords(r []Served) {
	slices.SortFunc(r, func(a, b Served) int {
		return cmp.Or(cmp.Compare(a.Minute, b.Minute), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Prefix, b.Prefix))
	})
}
