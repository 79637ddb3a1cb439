package reports

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tollway/tollway/services/platform/filter"
)

// binder collects the parameters of a statement. Every value that a caller
// sent goes through it: the text of a statement has none of them.
type binder struct{ params map[string]any }

func (b *binder) bind(clickhouseType string, value any) string {
	name := "p" + strconv.Itoa(len(b.params))
	b.params[name] = value
	return "{" + name + ":" + clickhouseType + "}"
}

// A query is a request that was found valid.
type query struct {
	metrics    []*metric
	dimensions []*dimension
	filter     filter.Expr
	from, to   int64
	until      int64    // end of the part of the range that has passed
	buckets    *buckets // nil: one row per group over the whole range
	order      []orderTerm
	limit      int
	account    *string // the only account the caller may see
}

type orderTerm struct {
	column string // d0, m0 or t
	desc   bool
}

// families are the tables that know everything that the query needs.
func (q *query) families() family {
	f := everywhere
	for _, m := range q.metrics {
		f &= m.families()
	}
	for _, d := range q.dimensions {
		f &= d.families
	}
	// The filter was checked when it was read.
	_ = filter.Walk(q.filter, func(c *filter.Comparison) error {
		f &= dimensionsByName[c.Field].families
		return nil
	})
	if q.account != nil {
		f &= dimensionsByName["account"].families
	}
	return f
}

func (q *query) aggregates() []*aggregate {
	all := []*aggregate{calls} // by which groups that a repair has emptied are left out
	seen := map[*aggregate]bool{calls: true}
	for _, m := range q.metrics {
		for _, a := range m.needs {
			if !seen[a] {
				seen[a] = true
				all = append(all, a)
			}
		}
	}
	return all
}

// statement is the SQL of a query: one SELECT per segment, their aggregates
// merged, the metrics computed from those. Its columns are the dimensions d0,
// d1…, the time bucket t if there is one, and the metrics m0, m1….
func (q *query) statement(segments []segment, limits string) (string, map[string]any) {
	b := &binder{params: map[string]any{}}
	parts := make([]string, len(segments))
	for i, s := range segments {
		parts[i] = q.part(b, s)
	}
	var columns []string
	for _, a := range q.aggregates() {
		columns = append(columns, fmt.Sprintf("%s(part_%s) AS %s", a.merge, a.name, a.name))
	}
	keys := q.keys()
	merged := fmt.Sprintf("SELECT %s\nFROM (\n%s\n)%s",
		list(q.labels(), columns), strings.Join(parts, "\nUNION ALL\n"), groupBy(keys))
	if len(keys) > 0 {
		merged += "\nHAVING calls != 0"
	}

	columns = nil
	expand := strings.NewReplacer("%seconds%", q.secondsSQL(), "%group%", q.window())
	for i, m := range q.metrics {
		columns = append(columns, fmt.Sprintf("toNullable(toFloat64(%s)) AS m%d", expand.Replace(m.expression), i))
	}
	var text strings.Builder
	fmt.Fprintf(&text, "SELECT %s\nFROM (\n%s\n)", list(keys, columns), merged)
	if order := q.orderSQL(); order != "" {
		fmt.Fprintf(&text, "\nORDER BY %s", order)
	}
	fmt.Fprintf(&text, "\nLIMIT %d\nSETTINGS %s", q.limit, limits)
	return text.String(), b.params
}

// part is the SELECT of one segment.
func (q *query) part(b *binder, s segment) string {
	var columns []string
	for i, d := range q.dimensions {
		columns = append(columns, fmt.Sprintf("%s AS key%d", d.column, i))
	}
	if q.buckets != nil {
		columns = append(columns, q.buckets.bucketSQL(s.table.micros())+" AS t")
	}
	for _, a := range q.aggregates() {
		columns = append(columns, s.table.aggregate(a)+" AS part_"+a.name)
	}
	where := []string{
		s.table.column + " >= " + s.table.moment(b, s.from),
		s.table.column + " < " + s.table.moment(b, s.to),
	}
	if q.account != nil {
		where = append(where, "account = "+b.bind("String", *q.account))
	}
	if q.filter != nil {
		where = append(where, condition(b, q.filter))
	}
	return fmt.Sprintf("SELECT %s\nFROM %s\nWHERE %s%s",
		strings.Join(columns, ", "), s.table.from, strings.Join(where, " AND "), groupBy(q.partKeys()))
}

// partKeys group the rows of a table by values as they are stored, which is
// cheaper than by what is printed for them.
func (q *query) partKeys() []string {
	var keys []string
	for i := range q.dimensions {
		keys = append(keys, fmt.Sprintf("key%d", i))
	}
	if q.buckets != nil {
		keys = append(keys, "t")
	}
	return keys
}

// labels are the keys of the answer, made of those of the parts.
func (q *query) labels() []string {
	var labels []string
	for i, d := range q.dimensions {
		labels = append(labels, fmt.Sprintf("%s AS d%d", d.label(fmt.Sprintf("key%d", i)), i))
	}
	if q.buckets != nil {
		labels = append(labels, "t")
	}
	return labels
}

func (q *query) keys() []string {
	var keys []string
	for i := range q.dimensions {
		keys = append(keys, fmt.Sprintf("d%d", i))
	}
	if q.buckets != nil {
		keys = append(keys, "t")
	}
	return keys
}

func (q *query) secondsSQL() string {
	if q.buckets == nil {
		return fmt.Sprintf("(%d / 1000000)", q.until-q.from)
	}
	return q.buckets.secondsSQL("t")
}

func (q *query) window() string {
	if q.buckets == nil {
		return ""
	}
	return "PARTITION BY t"
}

// orderSQL orders by what was asked for, and then by everything that
// identifies a row, so that the answer to a query is always the same.
func (q *query) orderSQL() string {
	var terms []string
	for _, o := range q.order {
		direction := "ASC"
		if o.desc {
			direction = "DESC"
		}
		terms = append(terms, fmt.Sprintf("%s %s NULLS LAST", o.column, direction))
	}
	return strings.Join(append(terms, q.keys()...), ", ")
}

func list(a, b []string) string { return strings.Join(append(append([]string{}, a...), b...), ", ") }

func groupBy(keys []string) string {
	if len(keys) == 0 {
		return ""
	}
	return "\nGROUP BY " + strings.Join(keys, ", ")
}
