package reconcile

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/sql"
)

var (
	queryServedMinutes = sql.ClickHouseQuery("served_minutes")
	queryServedArrived = sql.ClickHouseQuery("served_arrived")
	queryHours         = sql.ClickHouseQuery("reconcile_hours")
)

// Minute holds what one gateway says it served in a minute against the calls
// that arrived. Calls count in the minute in which they end, as gateways count
// them. A minute can still be off by what ended between the gateway's last
// report of the minute and the minute's end, one way and the next minute the
// other; Behind, which adds up from the first minute, comes back to zero when
// nothing is lost.
type Minute struct {
	Gateway string    `json:"gateway"`
	Minute  time.Time `json:"minute"`
	Served  int64     `json:"served"`
	Arrived int64     `json:"arrived"`
	Behind  int64     `json:"behind"`
	// LogsDropped is how many log entries the gateway says it dropped.
	LogsDropped int64 `json:"logs_dropped"`
}

// Difference is how many calls of the minute did not arrive.
func (m Minute) Difference() int64 { return m.Served - m.Arrived }

// Total is a gateway's sum over the range, or over an hour of it.
type Total struct {
	Gateway string    `json:"gateway"`
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Served  int64     `json:"served"`
	Arrived int64     `json:"arrived"`
	// Missing is how many calls are missing for sure: what was served less all
	// that arrived and can have ended in that time, the time between the
	// gateway's last report and the first minute included.
	Missing     int64 `json:"missing"`
	LogsDropped int64 `json:"logs_dropped"`
}

// Difference is how many calls did not arrive, give or take those that ended
// about the edges of the range.
func (t Total) Difference() int64 { return t.Served - t.Arrived }

// Completeness is the share of served calls that arrived; 1 when nothing was.
func Completeness(served, arrived int64) float64 {
	if served <= 0 {
		return 1
	}
	return float64(arrived) / float64(served)
}

// Comparison is what gateways served against what arrived.
type Comparison struct {
	Minutes []Minute `json:"minutes"`
	Hours   []Total  `json:"hours"`
	Totals  []Total  `json:"totals"`
	// ReportedOnce are gateways of which the range has the first report and no
	// second: what they served is the difference of two.
	ReportedOnce []string `json:"reported_once"`
}

// Missing is how many calls are missing for sure, of all gateways.
func (c Comparison) Missing() (n int64) {
	for _, t := range c.Totals {
		n += t.Missing
	}
	return n
}

// ReportSlack is how long before the end of a minute a gateway's last report of
// it may lie, and how finely arrivals are counted. Envoy reports every 5 seconds
// unless told otherwise.
const ReportSlack = 15 * time.Second

// baseline is how far back the counter before the first minute is looked for.
const baseline = time.Hour

// CompareServed holds what gateways say they served in whole minutes of
// [from, to) against the calls that arrived. db reads all shards.
func CompareServed(ctx context.Context, db *clickhouse.DB, from, to time.Time) (Comparison, error) {
	from, to = from.UTC().Truncate(time.Minute), to.UTC().Truncate(time.Minute)
	samples, err := servedMinutes(ctx, db, from, to)
	if err != nil {
		return Comparison{}, err
	}
	gateways := byGateway(samples, from)
	once := reportedOnce(samples, gateways, from)
	if len(gateways) == 0 {
		return Comparison{ReportedOnce: once}, nil
	}
	var names []string
	for _, g := range gateways {
		names = append(names, g.name)
	}
	arrived, err := arrivals(ctx, db, names, from.Add(-baseline-ReportSlack), to)
	if err != nil {
		return Comparison{}, err
	}
	c := compareMinutes(gateways, arrived)
	c.ReportedOnce = once
	return c, nil
}

// reportedOnce are gateways that the range has samples of, which is not enough
// to tell what they served.
func reportedOnce(samples []sample, told []*gateway, from time.Time) (names []string) {
	for _, s := range samples {
		known := slices.ContainsFunc(told, func(g *gateway) bool { return g.name == s.gateway })
		if !known && !s.minute.Before(from) && !slices.Contains(names, s.gateway) {
			names = append(names, s.gateway)
		}
	}
	return names
}

// gateway is what one gateway served.
type gateway struct {
	name string
	// first is the start of the time that served covers, last its last minute.
	first, last time.Time
	served      map[time.Time]int64
	dropped     map[time.Time]int64
}

// sample is one row of the table served.
type sample struct {
	gateway, prefix string
	minute          time.Time
	served, dropped uint64
	ended           int64
	first           bool
	restarts        uint32
}

// since is how many calls ended since an earlier sample. Counters only go back
// when the gateway starts anew; a collector that saw it start knows what ended
// before that, up to the last report.
func (s sample) since(before sample) int64 {
	switch {
	case !s.first && s.restarts > before.restarts:
		return s.ended
	case s.served < before.served:
		return int64(s.served)
	}
	return int64(s.served - before.served)
}

func (s sample) droppedSince(before sample) int64 {
	if s.dropped < before.dropped {
		return int64(s.dropped)
	}
	return int64(s.dropped - before.dropped)
}

// byGateway adds up samples, which are ordered by gateway, prefix and minute.
// The first sample of a listener says only where its counter stood.
func byGateway(samples []sample, from time.Time) (out []*gateway) {
	for i := 1; i < len(samples); i++ {
		before, s := samples[i-1], samples[i]
		if s.gateway != before.gateway || s.prefix != before.prefix || s.minute.Before(from) {
			continue
		}
		begin := before.minute.Add(time.Minute)
		var g *gateway
		if n := len(out); n > 0 && out[n-1].name == s.gateway {
			g = out[n-1]
		} else {
			g = &gateway{name: s.gateway, first: begin, served: map[time.Time]int64{}, dropped: map[time.Time]int64{}}
			out = append(out, g)
		}
		if begin.Before(g.first) {
			g.first = begin
		}
		if s.minute.After(g.last) {
			g.last = s.minute
		}
		g.served[s.minute] += s.since(before)
		// The count of dropped entries is the whole gateway's, told again for
		// each listener.
		g.dropped[s.minute] = max(g.dropped[s.minute], s.droppedSince(before))
	}
	return out
}

func servedMinutes(ctx context.Context, db *clickhouse.DB, from, to time.Time) (samples []sample, err error) {
	rows, err := db.Query(ctx, queryServedMinutes, map[string]any{"from": from.Add(-baseline), "to": to})
	if err != nil {
		return nil, fmt.Errorf("read what gateways served: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var s sample
		if err := rows.Scan(&s.gateway, &s.prefix, &s.minute, &s.served, &s.dropped, &s.ended, &s.first, &s.restarts); err != nil {
			return nil, fmt.Errorf("read what gateways served: %w", err)
		}
		s.minute = s.minute.UTC()
		samples = append(samples, s)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read what gateways served: %w", err)
	}
	return samples, nil
}

// arrived is how many calls of a gateway ended in each stretch of ReportSlack.
type arrived map[string]map[time.Time]int64

func arrivals(ctx context.Context, db *clickhouse.DB, gateways []string, from, to time.Time) (arrived, error) {
	rows, err := db.Query(ctx, queryServedArrived, map[string]any{
		"gateways": gateways, "from": from, "to": to, "seconds": uint32(ReportSlack.Seconds()),
	}, queryOptions(DefaultConfig().QueryTime)...)
	if err != nil {
		return nil, fmt.Errorf("count calls that arrived: %w", err)
	}
	defer rows.Close()
	out := arrived{}
	for rows.Next() {
		var gateway string
		var at time.Time
		var calls uint64
		if err := rows.Scan(&gateway, &at, &calls); err != nil {
			return nil, fmt.Errorf("count calls that arrived: %w", err)
		}
		if out[gateway] == nil {
			out[gateway] = map[time.Time]int64{}
		}
		out[gateway][at.UTC()] += int64(calls)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("count calls that arrived: %w", err)
	}
	return out, nil
}

func (a arrived) between(gateway string, from, to time.Time) (n int64) {
	for at := from; at.Before(to); at = at.Add(ReportSlack) {
		n += a[gateway][at]
	}
	return n
}

func compareMinutes(gateways []*gateway, a arrived) (c Comparison) {
	for _, g := range gateways {
		total := a.total(g.name, g.first)
		hour := a.total(g.name, g.first)
		for at := g.first; !at.After(g.last); at = at.Add(time.Minute) {
			end := at.Add(time.Minute)
			m := Minute{Gateway: g.name, Minute: at, Served: g.served[at], Arrived: a.between(g.name, at, end), LogsDropped: g.dropped[at]}
			total.add(m)
			hour.add(m)
			m.Behind = total.Difference()
			c.Minutes = append(c.Minutes, m)
			if end.Equal(end.Truncate(time.Hour)) || at.Equal(g.last) {
				c.Hours = append(c.Hours, hour.Total)
				hour = a.total(g.name, end)
			}
		}
		c.Totals = append(c.Totals, total.Total)
	}
	return c
}

// sum is a total in the making.
type sum struct {
	Total
	early int64 // arrived after the last report before
}

func (a arrived) total(gateway string, from time.Time) sum {
	return sum{Total{Gateway: gateway, From: from, To: from}, a.between(gateway, from.Add(-ReportSlack), from)}
}

func (s *sum) add(m Minute) {
	s.To = m.Minute.Add(time.Minute)
	s.Served += m.Served
	s.Arrived += m.Arrived
	s.LogsDropped += m.LogsDropped
	s.Missing = max(0, s.Served-s.Arrived-s.early)
}

// SealedHours are the sealed hours of a range, as they were recorded last. db
// reads all shards.
func SealedHours(ctx context.Context, db *clickhouse.DB, from, to time.Time) ([]Hour, error) {
	rows, err := db.Query(ctx, queryHours, map[string]any{"from": from, "to": to})
	if err != nil {
		return nil, fmt.Errorf("read sealed hours: %w", err)
	}
	defer rows.Close()
	out := []Hour{}
	for rows.Next() {
		var h Hour
		if err := rows.Scan(&h.Hour, &h.Source, &h.Received, &h.Deduplicated, &h.Quarantined, &h.Stored, &h.RolledUp, &h.Repaired, &h.SealedAt); err != nil {
			return nil, fmt.Errorf("read sealed hours: %w", err)
		}
		h.Hour, h.SealedAt = h.Hour.UTC(), h.SealedAt.UTC()
		out = append(out, h)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read sealed hours: %w", err)
	}
	return out, nil
}

// Whole tells whether everything that was received of an hour is accounted for,
// in raw and in every rollup.
func (h Hour) Whole() bool {
	return h.Received == h.Stored+h.Deduplicated+h.Quarantined && h.RolledUp == h.Stored
}
