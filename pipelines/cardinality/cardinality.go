// Package cardinality caps how many distinct values a dimension may have, so
// that one client that puts a random string into a field cannot blow up the
// rollups of everybody.
//
// In: batches. Out: the same batches, in which the values of a field beyond
// its cap read "(other)": totals stay exact. Credentials are not capped: calls
// are attributed by them afterwards, and they are in no rollup. The package is
// pure; a crash loses which values were seen, and the count begins anew.
package cardinality

import (
	"strings"

	"github.com/tollway/tollway/pipelines/call"
)

// Other stands for every value beyond the cap.
const Other = "(other)"

// day is how long a value is remembered, in µs of the collector's clock.
const day = 24 * 60 * 60 * 1_000_000

// Cap counts the distinct values of every column over a day. It belongs to one
// goroutine.
type Cap struct {
	limit int
	day   int64
	seen  [call.StringColumns]map[string]struct{}
}

// New makes a cap of limit values per column, partition and day.
func New(limit int) *Cap { return &Cap{limit: limit} }

// Apply caps the batch and returns how many rows it changed, by column.
func (c *Cap) Apply(b *call.Batch) map[call.StringColumn]int {
	if b.Rows() == 0 {
		return nil
	}
	if today := b.ReceivedAt[b.Rows()-1] / day; today != c.day {
		c.day = today
		for i := range c.seen {
			clear(c.seen[i])
		}
	}
	var changed map[call.StringColumn]int
	for i := range b.Strings {
		if call.StringColumn(i) == call.Credential {
			continue
		}
		if n := c.column(call.StringColumn(i), &b.Strings[i]); n > 0 {
			if changed == nil {
				changed = make(map[call.StringColumn]int)
			}
			changed[call.StringColumn(i)] = n
		}
	}
	return changed
}

func (c *Cap) column(column call.StringColumn, d *call.Dict) int {
	if c.seen[column] == nil {
		c.seen[column] = make(map[string]struct{})
	}
	seen := c.seen[column]
	var over []bool
	for code, v := range d.Values {
		if _, known := seen[v]; known || v == "" || v == Other {
			continue
		}
		if len(seen) < c.limit {
			seen[strings.Clone(v)] = struct{}{}
			continue
		}
		if over == nil {
			over = make([]bool, len(d.Values))
		}
		over[code] = true
	}
	if over == nil {
		return 0
	}
	rows, other := 0, d.Code(Other)
	for i, code := range d.Index {
		if int(code) < len(over) && over[code] {
			d.Index[i] = other
			rows++
		}
	}
	return rows
}
