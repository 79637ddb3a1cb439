package reports

import (
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // time zones of requests do not depend on the machine

	reportsv1 "github.com/tollway/tollway/schemas/proto/tollway/reports/v1"
	"github.com/tollway/tollway/services/platform/filter"
)

const (
	defaultLimit  = 1000
	maxMetrics    = 50
	maxDimensions = 20

	timeColumn     = "time"
	previousPeriod = "previous_period"
	previousPrefix = "previous_"
)

// latest is the last moment that a rollup's time can hold, rounded down.
var latest = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

// A report is a request that was found valid: its query, and what the answer
// needs besides.
type report struct {
	query
	location *time.Location
	compare  bool
}

// read turns a request into a report, or says which field is wrong.
func (c Config) read(r *reportsv1.QueryRequest, now time.Time) (*report, error) {
	p := &report{}
	for _, step := range []struct {
		field string
		read  func(*reportsv1.QueryRequest) error
	}{
		{"metrics", p.readMetrics},
		{"dimensions", p.readDimensions},
		{"filter", p.readFilter},
		{"time_range", func(r *reportsv1.QueryRequest) error { return p.readRange(r, now) }},
		{"time_zone", p.readZone},
		{"granularity", p.readGranularity},
		{"order_by", p.readOrder},
		{"limit", func(r *reportsv1.QueryRequest) error { return p.readLimit(r, c.MaxResultRows) }},
		{"compare_to", p.readCompare},
	} {
		if err := step.read(r); err != nil {
			return nil, fmt.Errorf("%s: %w", step.field, err)
		}
	}
	return p, nil
}

func (p *report) readMetrics(r *reportsv1.QueryRequest) error {
	if len(r.Metrics) == 0 {
		return fmt.Errorf("name at least one of %s", strings.Join(MetricNames(), ", "))
	}
	if len(r.Metrics) > maxMetrics {
		return fmt.Errorf("more than %d", maxMetrics)
	}
	seen := map[string]bool{}
	for _, name := range r.Metrics {
		m := findMetric(name)
		if m == nil {
			return fmt.Errorf("there is no metric %q%s", name, didYouMean(name, MetricNames()))
		}
		if seen[name] {
			return fmt.Errorf("%q is there twice", name)
		}
		seen[name] = true
		p.metrics = append(p.metrics, m)
	}
	return nil
}

func (p *report) readDimensions(r *reportsv1.QueryRequest) error {
	if len(r.Dimensions) > maxDimensions {
		return fmt.Errorf("more than %d", maxDimensions)
	}
	seen := map[string]bool{}
	for _, name := range r.Dimensions {
		d := dimensionsByName[name]
		if d == nil {
			return fmt.Errorf("there is no dimension %q%s", name, didYouMean(name, DimensionNames()))
		}
		if seen[name] {
			return fmt.Errorf("%q is there twice", name)
		}
		seen[name] = true
		p.dimensions = append(p.dimensions, d)
	}
	return nil
}

func (p *report) readFilter(r *reportsv1.QueryRequest) (err error) {
	if p.filter, err = filter.Parse(r.Filter); err != nil {
		return err
	}
	return checkFilter(p.filter)
}

func (p *report) readRange(r *reportsv1.QueryRequest, now time.Time) error {
	if r.GetTimeRange().GetStartTime() == nil {
		return fmt.Errorf("start_time is required")
	}
	// The minute that is under way is answered from a rollup when it is asked
	// for as a whole, and from all calls of the day when it is cut.
	start, end := r.TimeRange.StartTime.AsTime(), now.Truncate(time.Minute).Add(time.Minute)
	if r.TimeRange.EndTime != nil {
		end = r.TimeRange.EndTime.AsTime()
	}
	if !start.Before(end) {
		return fmt.Errorf("start_time %s is not before end_time %s", start.Format(time.RFC3339Nano), end.Format(time.RFC3339Nano))
	}
	if start.Before(time.Unix(0, 0)) || end.After(latest) {
		return fmt.Errorf("must lie between 1970 and 2100")
	}
	// Calls have microseconds: a bound between two of them is the later one.
	p.from, p.to = ceilMicro(start), ceilMicro(end)
	if p.from == p.to {
		return fmt.Errorf("is shorter than a microsecond")
	}
	p.until = p.to
	if passed := now.UnixMicro(); passed > p.from {
		p.until = min(p.to, passed)
	}
	return nil
}

func ceilMicro(t time.Time) int64 { return t.Add(time.Microsecond - 1).UnixMicro() }

func (p *report) readZone(r *reportsv1.QueryRequest) (err error) {
	name := r.TimeZone
	if name == "" {
		name = "UTC"
	}
	if strings.EqualFold(name, "local") {
		return fmt.Errorf("%q depends on the machine; give an IANA name such as Europe/Berlin", r.TimeZone)
	}
	if p.location, err = time.LoadLocation(name); err != nil {
		return fmt.Errorf("%q is not an IANA time zone such as Europe/Berlin", r.TimeZone)
	}
	return nil
}

func (p *report) readGranularity(r *reportsv1.QueryRequest) (err error) {
	if r.Granularity == "" || r.Granularity == granularityNone {
		return nil
	}
	if p.buckets, err = newBuckets(r.Granularity, p.from, p.to, p.location); err != nil {
		return err
	}
	p.buckets.until = p.until
	return nil
}

func (p *report) readOrder(r *reportsv1.QueryRequest) error {
	if r.OrderBy == "" {
		if p.buckets != nil {
			p.order = append(p.order, orderTerm{column: "t"})
		}
		p.order = append(p.order, orderTerm{column: "m0", desc: true})
		return nil
	}
	for _, term := range strings.Split(r.OrderBy, ",") {
		words := strings.Fields(term)
		if len(words) == 0 || len(words) > 2 || len(words) == 2 && words[1] != "desc" && words[1] != "asc" {
			return fmt.Errorf("%q is not the name of a column, with \" desc\" after it or not", strings.TrimSpace(term))
		}
		column := p.column(words[0])
		if column == "" {
			return fmt.Errorf("%q is not among the metrics and dimensions of the query", words[0])
		}
		p.order = append(p.order, orderTerm{column: column, desc: len(words) == 2 && words[1] == "desc"})
		if len(p.order) > maxMetrics {
			return fmt.Errorf("more than %d terms", maxMetrics)
		}
	}
	return nil
}

// column is the name that a column of the answer has in the statement.
func (p *report) column(name string) string {
	for i, m := range p.metrics {
		if m.name == name {
			return fmt.Sprintf("m%d", i)
		}
	}
	for i, d := range p.dimensions {
		if d.name == name {
			return fmt.Sprintf("d%d", i)
		}
	}
	if name == timeColumn && p.buckets != nil {
		return "t"
	}
	return ""
}

func (p *report) readLimit(r *reportsv1.QueryRequest, most int) error {
	if r.Limit < 0 || int(r.Limit) > most {
		return fmt.Errorf("must be between 0 and %d", most)
	}
	p.limit = int(r.Limit)
	if p.limit == 0 {
		p.limit = min(defaultLimit, most)
	}
	return nil
}

func (p *report) readCompare(r *reportsv1.QueryRequest) error {
	switch r.CompareTo {
	case "":
		return nil
	case previousPeriod:
	default:
		return fmt.Errorf("%q is not %q", r.CompareTo, previousPeriod)
	}
	if p.buckets != nil {
		return fmt.Errorf("is not possible with a granularity")
	}
	if p.from-(p.to-p.from) < 0 {
		return fmt.Errorf("the period before the range begins before 1970")
	}
	p.compare = true
	return nil
}

// restrict ties the report to an account, and refuses what callers of an
// account may not see.
func (p *report) restrict(account string) error {
	p.account = &account
	for _, d := range p.dimensions {
		if d.internal {
			return fmt.Errorf("dimension %q is not for consumers", d.name)
		}
	}
	return filter.Walk(p.filter, func(c *filter.Comparison) error {
		if dimensionsByName[c.Field].internal {
			return fmt.Errorf("dimension %q is not for consumers", c.Field)
		}
		return nil
	})
}

// previous is the query over the range of equal length before this one. All
// groups are read, since those of the two ranges differ.
func (p *report) previous(rows int) *query {
	q := p.query
	q.from, q.to, q.until = p.from-(p.to-p.from), p.from, p.from
	q.order, q.limit = nil, rows
	return &q
}
