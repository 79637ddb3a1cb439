package reports

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tollway/tollway/services/platform/filter"
)

// TestPlanTiles: the parts of a plan follow one another without gap or
// overlap, lie on the buckets of their tables, and use a finer table only
// where the coarser one cannot be cut.
func TestPlanTiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		unit := rapid.SampledFrom([]int64{1, second, minute, 15 * minute, hour, day}).Draw(t, "unit")
		from := rapid.Int64Range(0, 100*day/unit).Draw(t, "from") * unit
		to := from + rapid.Int64Range(1, 3*day).Draw(t, "length")
		needs := rapid.SampledFrom([]family{everywhere, usage | raw, traffic | raw, raw}).Draw(t, "needs")
		tables := candidates(needs, nil)
		at := from
		for _, s := range plan(tables, from, to) {
			if s.from != at || s.to <= s.from {
				t.Fatalf("a part from %d to %d follows %d", s.from, s.to, at)
			}
			if s.from%s.table.grain != 0 || s.to%s.table.grain != 0 {
				t.Fatalf("%s is cut at %d or %d", s.table.name, s.from, s.to)
			}
			for _, coarser := range tables[:slices.Index(tables, s.table)] {
				if ceilTo(s.from, coarser.grain)+coarser.grain <= s.to {
					t.Fatalf("%s answers %d to %d, in which lies a bucket of %s", s.table.name, s.from, s.to, coarser.name)
				}
			}
			at = s.to
		}
		if at != to {
			t.Fatalf("the plan ends at %d, want %d", at, to)
		}
	})
}

func TestCandidates(t *testing.T) {
	berlinDays, err := newBuckets("day", at("2025-10-20T12:00:00Z"), at("2025-11-02T00:00:00Z"), zone("Europe/Berlin"))
	if err != nil {
		t.Fatal(err)
	}
	nepalDays, err := newBuckets("day", at("2025-10-20T12:00:00Z"), at("2025-11-02T00:00:00Z"), zone("Asia/Kathmandu"))
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		needs   family
		buckets *buckets
		want    string
	}{
		{everywhere, nil, "traffic_1d traffic_1h traffic_1m calls"},
		{usage | raw, nil, "usage_15m calls"},
		{raw, nil, "calls"},
		{everywhere, berlinDays, "traffic_1h traffic_1m calls"},
		{everywhere, nepalDays, "traffic_1m calls"},
		{usage | raw, nepalDays, "usage_15m calls"},
	}
	for _, c := range cases {
		var names []string
		for _, table := range candidates(c.needs, c.buckets) {
			names = append(names, table.name)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("candidates are %s, want %s", got, c.want)
		}
	}
}

func TestSourceTables(t *testing.T) {
	got := sourceTables(plan(candidates(everywhere, nil), at("2025-10-20T12:30:30Z"), at("2025-10-23T00:00:00Z")))
	if want := "traffic_1d+traffic_1h+traffic_1m+calls"; got != want {
		t.Errorf("source is %s, want %s", got, want)
	}
}

func TestRetention(t *testing.T) {
	cfg := DefaultConfig()
	cfg.RetentionDays, cfg.RollupRetentionDays = 35, 400
	now := time.Date(2025, 12, 1, 12, 0, 0, 0, time.UTC)
	cases := []struct {
		needs    family
		from, to string
		want     string
	}{
		{everywhere, "2025-06-01T00:00:00Z", "2025-12-01T11:00:00.5Z", ""},
		{everywhere, "2025-06-01T00:00:30Z", "2025-12-01T11:00:00Z", "kept in buckets of 24h0m0s only"},
		{raw, "2025-06-01T00:00:00Z", "2025-12-01T11:00:00Z", "kept in calls for 35 days, since 2025-10-27T00:00:00Z"},
		{raw, "2025-10-27T00:00:00Z", "2025-12-01T11:00:00Z", ""},
		{everywhere, "2020-06-01T00:00:00Z", "2025-12-01T00:00:00Z", "kept in traffic_1d for 400 days"},
	}
	for _, c := range cases {
		tables := candidates(c.needs, nil)
		err := cfg.checkRetention(plan(tables, at(c.from), at(c.to)), tables, now)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s to %s: %v, want %q", c.from, c.to, err, c.want)
		}
	}
}

func at(text string) int64 {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		panic(err)
	}
	return t.UnixMicro()
}

func zone(name string) *time.Location {
	loc, err := time.LoadLocation(name)
	if err != nil {
		panic(err)
	}
	return loc
}

func TestBuckets(t *testing.T) {
	cases := []struct {
		granularity, zone, from, to string
		want                        string // starts
		step                        time.Duration
	}{
		{"day", "Europe/Berlin", "2025-10-25T10:00:00Z", "2025-10-27T10:00:00Z",
			"2025-10-25T00:00:00+02:00 2025-10-26T00:00:00+02:00 2025-10-27T00:00:00+01:00", 0},
		{"day", "UTC", "2025-10-25T10:00:00Z", "2025-10-27T00:00:00Z", "2025-10-25T00:00:00Z 2025-10-26T00:00:00Z", 24 * time.Hour},
		{"month", "UTC", "2025-02-10T00:00:00Z", "2025-03-31T00:00:00Z", "2025-02-01T00:00:00Z 2025-03-01T00:00:00Z", 0}, // March is longer
		{"month", "UTC", "2025-07-10T00:00:00Z", "2025-09-01T00:00:00Z", "2025-07-01T00:00:00Z 2025-08-01T00:00:00Z", 31 * 24 * time.Hour},
		// Midnight comes twice in Havana: the day begins with the first.
		{"day", "America/Havana", "2025-11-01T12:00:00Z", "2025-11-03T12:00:00Z",
			"2025-11-01T00:00:00-04:00 2025-11-02T00:00:00-04:00 2025-11-03T00:00:00-05:00", 0},
		// Midnight was skipped in São Paulo: the day begins at one o'clock.
		{"day", "America/Sao_Paulo", "2018-11-03T12:00:00Z", "2018-11-05T12:00:00Z",
			"2018-11-03T00:00:00-03:00 2018-11-04T01:00:00-02:00 2018-11-05T00:00:00-02:00", 0},
		// A whole day was skipped in Apia.
		{"day", "Pacific/Apia", "2011-12-29T12:00:00Z", "2012-01-01T00:00:00Z",
			"2011-12-29T00:00:00-10:00 2011-12-31T00:00:00+14:00 2012-01-01T00:00:00+14:00", 24 * time.Hour},
		// The last day of a leap year for which the rule of a zone is asked.
		{"month", "America/New_York", "2052-12-23T12:00:00Z", "2053-01-10T12:00:00Z",
			"2052-12-01T00:00:00-05:00 2053-01-01T00:00:00-05:00", 31 * 24 * time.Hour},
		{"day", "Europe/Berlin", "2052-12-30T12:00:00Z", "2053-01-01T12:00:00Z",
			"2052-12-30T00:00:00+01:00 2052-12-31T00:00:00+01:00 2053-01-01T00:00:00+01:00", 24 * time.Hour},
		// Half an hour is turned back on Lord Howe Island.
		{"hour", "Australia/Lord_Howe", "2025-04-05T14:10:00Z", "2025-04-05T16:00:00Z",
			"2025-04-06T01:00:00+11:00 2025-04-06T01:30:00+10:30 2025-04-06T02:00:00+10:30", 0},
		{"hour", "Asia/Kathmandu", "2025-04-05T14:10:00Z", "2025-04-05T16:00:00Z",
			"2025-04-05T19:00:00+05:45 2025-04-05T20:00:00+05:45 2025-04-05T21:00:00+05:45", time.Hour},
		{"hour", "Europe/Berlin", "2025-10-26T00:00:00Z", "2025-10-26T02:00:00Z", "2025-10-26T02:00:00+02:00 2025-10-26T02:00:00+01:00", time.Hour},
		{"15m", "UTC", "2025-10-26T00:14:59Z", "2025-10-26T00:15:01Z", "2025-10-26T00:00:00Z 2025-10-26T00:15:00Z", 15 * time.Minute},
	}
	for _, c := range cases {
		loc := zone(c.zone)
		b, err := newBuckets(c.granularity, at(c.from), at(c.to), loc)
		if err != nil {
			t.Errorf("%s in %s: %v", c.granularity, c.zone, err)
			continue
		}
		var starts []string
		for _, start := range b.starts {
			starts = append(starts, rfc3339(start, loc))
		}
		if got := strings.Join(starts, " "); got != c.want {
			t.Errorf("%s in %s begin at\n%s, want\n%s", c.granularity, c.zone, got, c.want)
		}
		if b.step != c.step.Microseconds() {
			t.Errorf("%s in %s are %d apart, want %s", c.granularity, c.zone, b.step, c.step)
		}
	}
	if _, err := newBuckets("minute", at("2025-01-01T00:00:00Z"), at("2025-12-01T00:00:00Z"), time.UTC); err == nil {
		t.Error("a year of minutes is not refused")
	}
	if _, err := newBuckets("week", 0, 1, time.UTC); err == nil {
		t.Error("an unknown granularity is not refused")
	}
}

// TestBucketsAscend: in any zone and year, buckets ascend, the first holds the
// start of the range, and what lies in the range adds up to it.
func TestBucketsAscend(t *testing.T) {
	names := append(slices.Clone(zones), "America/St_Johns", "America/Sao_Paulo", "Asia/Tehran", "Africa/Monrovia", "Antarctica/Troll", "Atlantic/Azores")
	rapid.Check(t, func(t *rapid.T) {
		loc := zone(rapid.SampledFrom(names).Draw(t, "zone"))
		granularity := rapid.SampledFrom(Granularities()[1:]).Draw(t, "granularity")
		from := rapid.Int64Range(0, 4e9).Draw(t, "from") * second
		to := from + rapid.Int64Range(1, 20*day).Draw(t, "length")
		b, err := newBuckets(granularity, from, to, loc)
		if err != nil {
			if granularity != "minute" {
				t.Fatal(err)
			}
			return
		}
		if b.starts[0] > from || !slices.IsSorted(b.starts) || len(slices.Compact(slices.Clone(b.starts))) != len(b.starts) {
			t.Fatalf("starts %v do not ascend from %d", b.starts, from)
		}
		total := 0.0
		for i := range b.starts {
			total += b.seconds(i)
		}
		if want := float64(to-from) / 1e6; total < want-0.001 || total > want+0.001 {
			t.Fatalf("the buckets hold %v s, want %v", total, want)
		}
	})
}

// TestConditionHasNoValues: the text of a condition does not depend on the
// values in the filter.
func TestConditionHasNoValues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.SampledFrom(dimensions).Draw(t, "dimension")
		if d.numeric {
			t.Skip("numbers are parsed")
		}
		value := func(label string) string {
			return rapid.String().Filter(func(s string) bool {
				return s != "" && s != NotSet && !strings.HasPrefix(s, "*") && !strings.HasSuffix(s, "*")
			}).Draw(t, label)
		}
		op := rapid.SampledFrom([]string{" = ", " != ", ":"}).Draw(t, "op")
		text := func(value string) (string, map[string]any) {
			e, err := filter.Parse("NOT (" + d.name + op + filter.Quote(value) + ")")
			if err != nil {
				t.Fatal(err)
			}
			if err := checkFilter(e); err != nil {
				t.Fatal(err)
			}
			b := &binder{params: map[string]any{}}
			return condition(b, e), b.params
		}
		a, b := value("a"), value("b")
		sqlA, params := text(a)
		sqlB, _ := text(b)
		if sqlA != sqlB || params["p0"] != a {
			t.Fatalf("%q with %v, and %q", sqlA, params, sqlB)
		}
	})
}
