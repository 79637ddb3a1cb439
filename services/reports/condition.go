package reports

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tollway/tollway/services/platform/filter"
)

// checkFilter refuses a filter that cannot be turned into a condition.
func checkFilter(e filter.Expr) error {
	return filter.Walk(e, func(c *filter.Comparison) error {
		d := dimensionsByName[c.Field]
		if d == nil {
			return &filter.Error{Pos: c.Pos, Message: fmt.Sprintf("there is no dimension %q%s", c.Field, didYouMean(c.Field, DimensionNames()))}
		}
		if !d.numeric {
			if c.Op != filter.Equal && c.Op != filter.NotEqual && c.Op != filter.Has {
				return &filter.Error{Pos: c.Pos, Message: fmt.Sprintf("%s is text: compare it with =, != or :", c.Field)}
			}
			return nil
		}
		for _, value := range c.Values {
			if _, err := number(d, value); err != nil {
				return &filter.Error{Pos: c.Pos, Message: err.Error()}
			}
		}
		return nil
	})
}

// number reads the value of a numeric dimension.
func number(d *dimension, value string) (int64, error) {
	if value == NotSet {
		return d.missing, nil
	}
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s is a number, and %q is none", d.name, value)
	}
	return n, nil
}

// condition is the SQL of a filter that checkFilter has passed.
func condition(b *binder, e filter.Expr) string {
	switch e := e.(type) {
	case filter.And:
		return conditions(b, e, " AND ")
	case filter.Or:
		return conditions(b, e, " OR ")
	case filter.Not:
		return "NOT " + condition(b, e.Expr)
	case *filter.Comparison:
		return comparison(b, e)
	}
	return "1"
}

func conditions(b *binder, parts []filter.Expr, word string) string {
	texts := make([]string, len(parts))
	for i, p := range parts {
		texts[i] = condition(b, p)
	}
	return "(" + strings.Join(texts, word) + ")"
}

func comparison(b *binder, c *filter.Comparison) string {
	d := dimensionsByName[c.Field]
	matches := make([]string, len(c.Values))
	for i, value := range c.Values {
		if d.numeric {
			matches[i] = numberMatch(b, d, c.Op, value)
		} else {
			matches[i] = textMatch(b, d.column, value)
		}
	}
	text := "(" + strings.Join(matches, " OR ") + ")"
	if c.Op == filter.NotEqual {
		return "(NOT " + text + ")"
	}
	return text
}

func numberMatch(b *binder, d *dimension, op filter.Op, value string) string {
	n, _ := number(d, value) // checkFilter has read it
	sign := string(op)
	if op == filter.Has || op == filter.NotEqual {
		sign = "="
	}
	return d.column + " " + sign + " " + b.bind("Int64", n)
}

// textMatch compares a text, with a wildcard at either end.
func textMatch(b *binder, column, value string) string {
	if value == NotSet || value == "" {
		return column + " IN ('', '" + NotSet + "')"
	}
	middle := strings.TrimSuffix(strings.TrimPrefix(value, "*"), "*")
	start, end := strings.HasPrefix(value, "*"), strings.HasSuffix(value, "*")
	switch {
	case middle == "" && (start || end):
		return column + " != ''"
	case start && end:
		return "position(" + column + ", " + b.bind("String", middle) + ") > 0"
	case start:
		return "endsWith(" + column + ", " + b.bind("String", middle) + ")"
	case end:
		return "startsWith(" + column + ", " + b.bind("String", middle) + ")"
	}
	return column + " = " + b.bind("String", value)
}

// didYouMean ends an error about an unknown name with the nearest known one.
func didYouMean(name string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if d := editDistance(name, k); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return "; known are " + strings.Join(known, ", ")
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

func editDistance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := previous
			if a[i] != b[j] {
				cost = min(previous, row[j], row[j+1]) + 1
			}
			previous, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
