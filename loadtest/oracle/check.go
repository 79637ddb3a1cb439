package oracle

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"strings"

	"github.com/tollway/tollway/loadtest/gen"
)

// Place is where a row lies in the log.
type Place struct {
	Partition int
	Offset    int64
	Row       uint32
}

// Stored is one row of calls. The event's own id is not stored.
type Stored struct {
	ID    gen.ID
	Event gen.Event
	Place Place
	// Dimensions that the events leave empty, but that keys of rollups have.
	Fault, Region, Environment, Gateway, App, Subscription, Plan, Denied string
}

// Discard is one row of discards.
type Discard struct {
	ID    gen.ID
	Place Place
	Fate  string
}

// Progress is what is committed of a partition.
type Progress struct {
	Partition      int
	End, Committed int64 // offsets
	Metadata       string
}

// Store is everything that the product has kept, as it was found.
type Store struct {
	Calls     []Stored // under FINAL
	CallRows  uint64   // without FINAL: physical rows
	Discards  []Discard
	Log       map[Place]gen.ID
	Partition []Progress
	Rollups   map[string]Rollup // by table
}

// Rollup is one tier, by key.
type Rollup map[string]Sums

// Sums are the aggregates of one key of a rollup.
type Sums struct {
	Calls, RequestBytes, ResponseBytes int64
	TotalUS, UpstreamUS, TotalMaxUS    int64
	Total, Upstream                    map[uint16]int64
}

// empty tells whether the key counts nothing: a repair may leave such a row.
func (s Sums) empty() bool {
	return s.Calls == 0 && s.RequestBytes == 0 && s.ResponseBytes == 0 && s.TotalUS == 0 && s.UpstreamUS == 0 &&
		len(s.Total) == 0 && len(s.Upstream) == 0
}

func (s Sums) equal(o Sums) bool {
	return s.Calls == o.Calls && s.RequestBytes == o.RequestBytes && s.ResponseBytes == o.ResponseBytes &&
		s.TotalUS == o.TotalUS && s.UpstreamUS == o.UpstreamUS && s.TotalMaxUS == o.TotalMaxUS &&
		maps.Equal(s.Total, o.Total) && maps.Equal(s.Upstream, o.Upstream)
}

// Tier is a rollup and its grain.
type Tier struct {
	Table   string
	Seconds int64
	// Usage is the tier for billing: other keys, and no latency.
	Usage bool
}

// Tiers are all rollups.
var Tiers = []Tier{
	{Table: "traffic_1m", Seconds: 60},
	{Table: "traffic_1h", Seconds: 3600},
	{Table: "traffic_1d", Seconds: 86400},
	{Table: "usage_15m", Seconds: 900, Usage: true},
}

// Dimensions of the tier's key, after the bucket and before the partition.
func (t Tier) Dimensions() []string {
	if t.Usage {
		return []string{"account", "app", "subscription", "product", "plan", "api", "operation", "toString(status)", "denied", "environment", "source"}
	}
	return []string{"source", "product", "api", "operation", "method", "toString(status)", "fault", "upstream", "version", "region", "environment", "gateway"}
}

// Key joins what makes a key of a rollup.
func Key(bucket int64, partition int, dimensions ...string) string {
	return fmt.Sprintf("%d|%d|%s", bucket, partition, strings.Join(dimensions, "|"))
}

func (t Tier) keyOf(s *Stored) string {
	e := &s.Event
	seconds := e.TimeUS / 1e6
	bucket := seconds - seconds%t.Seconds
	status := fmt.Sprint(e.Status)
	if t.Usage {
		return Key(bucket, s.Place.Partition, e.Account, s.App, s.Subscription, e.Product, s.Plan, e.API, e.Operation, status, s.Denied, s.Environment, e.Source)
	}
	return Key(bucket, s.Place.Partition, e.Source, e.Product, e.API, e.Operation, e.Method, status, s.Fault, e.Upstream, e.Version, s.Region, s.Environment, s.Gateway)
}

// noBucket marks what was not measured.
const noBucket = math.MaxUint16

// bucketOf is the histogram bucket of a duration: base 2^(1/32), upper edges
// inclusive, 0 and 1 µs in bucket 0.
func bucketOf(us int64) uint16 {
	switch {
	case us < 0:
		return noBucket
	case us <= 1:
		return 0
	}
	return uint16(math.Ceil(32 * math.Log2(float64(us))))
}

// recompute rolls stored calls up again.
func (t Tier) recompute(calls []Stored) Rollup {
	out := Rollup{}
	for i := range calls {
		e := &calls[i].Event
		key := t.keyOf(&calls[i])
		s, ok := out[key]
		if !ok {
			s.TotalMaxUS = math.MinInt64
			s.Total, s.Upstream = map[uint16]int64{}, map[uint16]int64{}
		}
		s.Calls++
		s.RequestBytes += e.RequestBytes
		s.ResponseBytes += e.ResponseBytes
		if !t.Usage {
			s.TotalUS += max(0, e.TotalUS)
			s.UpstreamUS += max(0, e.UpstreamUS)
			s.TotalMaxUS = max(s.TotalMaxUS, e.TotalUS)
			count(s.Total, bucketOf(e.TotalUS))
			count(s.Upstream, bucketOf(e.UpstreamUS))
		} else {
			s.TotalMaxUS = 0
		}
		out[key] = s
	}
	return out
}

func count(histogram map[uint16]int64, bucket uint16) {
	if bucket != noBucket {
		histogram[bucket]++
	}
}

// Report lists what is wrong, by check.
type Report struct {
	Attempted, Acked, Stored, Discarded, LogRows int
	Collapsed                                    int // physical rows that FINAL folds
	Findings                                     []Finding
}

// Finding is one kind of difference: how many there are, and the first few.
type Finding struct {
	Check string
	Count int
	First []string
}

// maxExamples of a finding are kept.
const maxExamples = 5

// OK tells whether nothing is wrong.
func (r *Report) OK() bool { return len(r.Findings) == 0 }

// Has tells whether a check has findings.
func (r *Report) Has(check string) bool {
	for _, f := range r.Findings {
		if strings.HasPrefix(f.Check, check) {
			return true
		}
	}
	return false
}

func (r *Report) note(check, format string, args ...any) {
	for i := range r.Findings {
		if f := &r.Findings[i]; f.Check == check {
			f.Count++
			if len(f.First) < maxExamples {
				f.First = append(f.First, fmt.Sprintf(format, args...))
			}
			return
		}
	}
	r.Findings = append(r.Findings, Finding{Check: check, Count: 1, First: []string{fmt.Sprintf(format, args...)}})
}

// String is the report as text.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "attempted %d, acknowledged %d, in the log %d, stored %d, discarded %d, physical copies %d",
		r.Attempted, r.Acked, r.LogRows, r.Stored, r.Discarded, r.Collapsed)
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "\n%s: %d", f.Check, f.Count)
		for _, line := range f.First {
			fmt.Fprintf(&b, "\n    %s", line)
		}
	}
	return b.String()
}

// Names of the checks.
const (
	Lost      = "O1 acknowledged and not stored"
	Phantom   = "O2 stored and never attempted"
	Altered   = "O2 stored with other fields than sent"
	Doubled   = "O3 stored more than once"
	RolledUp  = "O4 rollup is not what the stored calls add up to"
	NoFate    = "O7 in the log without a fate"
	TwoFates  = "O7 in the log with more than one fate"
	NotInLog  = "O7 stored or discarded from a place that the log does not have"
	Pending   = "O7 partition is not done"
	Discarded = "O7 discarded without being a duplicate"
)

// Check holds what is stored against what was sent.
func Check(h History, s *Store) *Report {
	r := &Report{
		Attempted: len(h.Attempted), Acked: len(h.Acked), Stored: len(s.Calls), Discarded: len(s.Discards),
		LogRows: len(s.Log), Collapsed: int(s.CallRows) - len(s.Calls),
	}
	byID := r.checkCalls(h, s)
	for id := range h.Acked {
		if _, ok := byID[id]; !ok {
			r.note(Lost, "%s", describe(id, h))
		}
	}
	for _, tier := range Tiers {
		r.checkTier(tier, s)
	}
	r.checkFates(s, byID)
	for _, p := range s.Partition {
		if p.Committed != p.End || !strings.HasPrefix(p.Metadata, "v1|done|") {
			r.note(Pending, "partition %d ends at %d, committed is %d %q", p.Partition, p.End, p.Committed, p.Metadata)
		}
	}
	return r
}

func describe(id gen.ID, h History) string {
	e := h.Attempted[id]
	return fmt.Sprintf("%s (%s, %s)", hex.EncodeToString(id[:]), e.Source, e.ID)
}

func (r *Report) checkCalls(h History, s *Store) map[gen.ID]struct{} {
	byID := make(map[gen.ID]struct{}, len(s.Calls))
	for i := range s.Calls {
		c := &s.Calls[i]
		if _, again := byID[c.ID]; again {
			r.note(Doubled, "%s, again from %+v", describe(c.ID, h), c.Place)
		}
		byID[c.ID] = struct{}{}
		sent, ok := h.Attempted[c.ID]
		if !ok {
			r.note(Phantom, "%s from %+v", hex.EncodeToString(c.ID[:]), c.Place)
			continue
		}
		sent.ID = ""
		if got := c.Event; got != sent {
			r.note(Altered, "%s: sent %+v, stored %+v", describe(c.ID, h), sent, got)
		}
	}
	return byID
}

func (r *Report) checkTier(t Tier, s *Store) {
	want, got := t.recompute(s.Calls), s.Rollups[t.Table]
	check := RolledUp + ", " + t.Table
	for key, w := range want {
		g, ok := got[key]
		switch {
		case !ok:
			r.note(check, "%s is missing, of %d calls", key, w.Calls)
		case !g.equal(w):
			r.note(check, "%s: %s", key, difference(w, g))
		}
	}
	for key, g := range got {
		if _, ok := want[key]; !ok && !g.empty() {
			r.note(check, "%s has %d calls and should not be there", key, g.Calls)
		}
	}
}

func difference(want, got Sums) string {
	var parts []string
	number := func(name string, w, g int64) {
		if w != g {
			parts = append(parts, fmt.Sprintf("%s want %d got %d", name, w, g))
		}
	}
	number("calls", want.Calls, got.Calls)
	number("request_bytes", want.RequestBytes, got.RequestBytes)
	number("response_bytes", want.ResponseBytes, got.ResponseBytes)
	number("total_us", want.TotalUS, got.TotalUS)
	number("upstream_us", want.UpstreamUS, got.UpstreamUS)
	number("total_max_us", want.TotalMaxUS, got.TotalMaxUS)
	if !maps.Equal(want.Total, got.Total) {
		parts = append(parts, fmt.Sprintf("total histogram want %v got %v", want.Total, got.Total))
	}
	if !maps.Equal(want.Upstream, got.Upstream) {
		parts = append(parts, fmt.Sprintf("upstream histogram want %v got %v", want.Upstream, got.Upstream))
	}
	return strings.Join(parts, ", ")
}

// checkFates follows every row of the log: it is stored from there, or
// discarded as a duplicate of one that is stored, and not both.
func (r *Report) checkFates(s *Store, byID map[gen.ID]struct{}) {
	fates := make(map[Place]int, len(s.Log))
	place := func(id gen.ID, p Place, where string) {
		if in, ok := s.Log[p]; !ok || in != id {
			r.note(NotInLog, "%s %s from %+v", where, hex.EncodeToString(id[:]), p)
			return
		}
		fates[p]++
	}
	for i := range s.Calls {
		place(s.Calls[i].ID, s.Calls[i].Place, "stored")
	}
	for _, d := range s.Discards {
		place(d.ID, d.Place, "discarded")
		if _, stored := byID[d.ID]; d.Fate != "duplicate" || !stored {
			r.note(Discarded, "%s from %+v: %s", hex.EncodeToString(d.ID[:]), d.Place, d.Fate)
		}
	}
	for p, id := range s.Log {
		switch n := fates[p]; {
		case n == 0:
			r.note(NoFate, "%s at %+v", hex.EncodeToString(id[:]), p)
		case n > 1:
			r.note(TwoFates, "%s at %+v: %d", hex.EncodeToString(id[:]), p, n)
		}
	}
}
