package call

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow/go/v15/arrow/decimal128"
)

// Dict is a string column as distinct values and an index per row.
type Dict struct {
	Index  []uint32
	Values []string

	lookup   map[string]uint32
	max      int
	last     string // the last value appended, as it came: repeats are common
	lastCode uint32
	recent   [recentSlots]uint32 // codes by slot, possibly of values that are gone
}

// recentSlots is how many values are found again without lookup, which takes
// most of the time of an Append.
const recentSlots = 64

// place is a cheap hash of a few bytes: what differs between the values of a
// column is mostly at their ends.
func place(s string) uint64 {
	n := len(s)
	if n < 8 {
		if n == 0 {
			return 0
		}
		return (uint64(s[0])*0x9E37 + uint64(s[n/2])*0x79B9 + uint64(s[n-1])*0x7F4A + uint64(n)) % recentSlots
	}
	tail := s[n-8:]
	x := uint64(tail[0]) | uint64(tail[1])<<8 | uint64(tail[2])<<16 | uint64(tail[3])<<24 |
		uint64(tail[4])<<32 | uint64(tail[5])<<40 | uint64(tail[6])<<48 | uint64(tail[7])<<56
	return ((x ^ uint64(n) ^ uint64(s[n/2])<<32) * 0x9E3779B97F4A7C15) >> (64 - 6)
}

// Append adds one row.
func (d *Dict) Append(s string) { d.Index = append(d.Index, d.Code(s)) }

// Code returns the index of s among the distinct values, adding it if needed.
// A value that is new is copied, made valid UTF-8 and cut to the column's
// limit.
func (d *Dict) Code(s string) uint32 {
	if len(d.Values) > 0 && s == d.last {
		return d.lastCode
	}
	at := place(s)
	code := d.recent[at]
	if int(code) >= len(d.Values) || d.Values[code] != s {
		var ok bool
		if code, ok = d.lookup[s]; !ok {
			code = d.add(s)
		}
		d.recent[at] = code
	}
	// The key kept by the dictionary is stable memory; s may alias a buffer.
	d.last, d.lastCode = d.Values[code], code
	return code
}

func (d *Dict) add(s string) uint32 {
	clean := Clean(s, d.max)
	if clean != s {
		// Not remembered under its raw form: raw forms are unbounded.
		if code, ok := d.lookup[clean]; ok {
			return code
		}
	}
	if d.lookup == nil {
		d.lookup = make(map[string]uint32)
	}
	clean = strings.Clone(clean)
	code := uint32(len(d.Values))
	d.Values = append(d.Values, clean)
	d.lookup[clean] = code
	return code
}

// Value is the string of a row.
func (d *Dict) Value(row int) string { return d.Values[d.Index[row]] }

func (d *Dict) reset() {
	d.Index = d.Index[:0]
	d.Values = d.Values[:0]
	d.last = ""
	clear(d.lookup)
}

func (d *Dict) keep(rows []bool) { d.Index = keep(d.Index, rows) }

// Text is a string column of high cardinality as one buffer and offsets.
type Text struct {
	Offsets []int32 // len(rows)+1 once a row is there
	Bytes   []byte
	max     int
}

// Append adds one row.
func (t *Text) Append(s string) {
	if len(t.Offsets) == 0 {
		t.Offsets = append(t.Offsets, 0)
	}
	t.Bytes = append(t.Bytes, Clean(s, t.max)...)
	t.Offsets = append(t.Offsets, int32(len(t.Bytes)))
}

// Value is the string of a row; it aliases the column.
func (t *Text) Value(row int) string { return Alias(t.Bytes[t.Offsets[row]:t.Offsets[row+1]]) }

func (t *Text) reset() { t.Offsets, t.Bytes = t.Offsets[:0], t.Bytes[:0] }

func (t *Text) keep(rows []bool) {
	if len(t.Offsets) == 0 {
		return
	}
	out, end, start := 1, int32(0), t.Offsets[0]
	for i, k := range rows {
		stop := t.Offsets[i+1]
		if k {
			end += int32(copy(t.Bytes[end:], t.Bytes[start:stop]))
			t.Offsets[out] = end
			out++
		}
		start = stop
	}
	t.Offsets, t.Bytes = t.Offsets[:out], t.Bytes[:end]
}

// Pairs is a map column: per row a run of keys and values.
type Pairs[V any] struct {
	Offsets []int32
	Keys    Dict
	Values  []V
}

func (p *Pairs[V]) begin() {
	if len(p.Offsets) == 0 {
		p.Offsets = append(p.Offsets, 0)
	}
}

func (p *Pairs[V]) end() { p.Offsets = append(p.Offsets, int32(len(p.Values))) }

func (p *Pairs[V]) reset() {
	p.Offsets, p.Values = p.Offsets[:0], p.Values[:0]
	p.Keys.reset()
}

func (p *Pairs[V]) keep(rows []bool) {
	if len(p.Offsets) == 0 {
		return
	}
	out, end, start := 1, int32(0), p.Offsets[0]
	for i, k := range rows {
		stop := p.Offsets[i+1]
		if k {
			copy(p.Keys.Index[end:], p.Keys.Index[start:stop])
			end += int32(copy(p.Values[end:], p.Values[start:stop]))
			p.Offsets[out] = end
			out++
		}
		start = stop
	}
	p.Offsets, p.Values, p.Keys.Index = p.Offsets[:out], p.Values[:end], p.Keys.Index[:end]
}

// Batch is calls as columns. The zero value is not usable; see NewBatch. A
// batch belongs to one goroutine at a time.
type Batch struct {
	ID         []ID
	Time       []int64
	ReceivedAt []int64

	Strings  [StringColumns]Dict
	ClientIP Text
	Path     Text

	Status     []uint16
	GRPCStatus []int16
	Attempts   []uint16

	Latency       [LatencyColumns][]int64
	RequestBytes  []int64
	ResponseBytes []int64

	Measures        Pairs[decimal128.Num]
	Attributes      Pairs[uint32] // codes of AttributeValues
	AttributeValues Dict

	// Provenance, filled when the batch is joined from messages.
	Offset []int64  // offset of the message
	Row    []uint32 // row in the message

	size int
}

// NewBatch makes an empty batch.
func NewBatch() *Batch {
	b := &Batch{}
	for i := range b.Strings {
		b.Strings[i].max = MaxString
	}
	b.ClientIP.max = MaxClientIP
	b.Path.max = MaxPath
	b.Measures.Keys.max = MaxString
	b.Attributes.Keys.max = MaxString
	b.AttributeValues.max = MaxString
	return b
}

// Rows is the number of calls.
func (b *Batch) Rows() int { return len(b.ID) }

// Size is about how many bytes the encoded batch takes.
func (b *Batch) Size() int {
	return b.Rows()*rowBytes + b.size + len(b.Path.Bytes) + len(b.ClientIP.Bytes) + 20*len(b.Measures.Values) + 4*len(b.Attributes.Values)
}

// rowBytes is the fixed part of an encoded row: identity, times, numbers and a
// 16-bit index per string column.
const rowBytes = 16 + 8 + 8 + 2*StringColumns + 4 + 4 + 6 + 8*LatencyColumns + 16 + 8

// Append adds one call, copying what it keeps.
func (b *Batch) Append(c *Call) {
	b.ID = append(b.ID, c.ID)
	b.Time = append(b.Time, c.Time)
	b.ReceivedAt = append(b.ReceivedAt, c.ReceivedAt)
	for i := range b.Strings {
		d := &b.Strings[i]
		before := len(d.Values)
		text := c.Strings[i]
		if StringColumn(i) == Credential {
			text = ShownKey(text)
		}
		d.Append(text)
		if len(d.Values) != before {
			b.size += len(d.Values[before]) + 4
		}
	}
	b.ClientIP.Append(c.ClientIP)
	b.Path.Append(c.Path)
	b.Status = append(b.Status, c.Status)
	b.GRPCStatus = append(b.GRPCStatus, c.GRPCStatus)
	b.Attempts = append(b.Attempts, c.Attempts)
	for i := range b.Latency {
		b.Latency[i] = append(b.Latency[i], c.Latency[i])
	}
	b.RequestBytes = append(b.RequestBytes, c.RequestBytes)
	b.ResponseBytes = append(b.ResponseBytes, c.ResponseBytes)

	b.Measures.begin()
	for _, m := range c.Measures[:min(len(c.Measures), MaxMapPairs)] {
		b.Measures.Keys.Append(m.Name)
		b.Measures.Values = append(b.Measures.Values, m.Value)
	}
	b.Measures.end()
	b.Attributes.begin()
	for _, a := range c.Attributes[:min(len(c.Attributes), MaxMapPairs)] {
		b.Attributes.Keys.Append(a.Name)
		before := len(b.AttributeValues.Values)
		b.Attributes.Values = append(b.Attributes.Values, b.AttributeValues.Code(a.Value))
		if len(b.AttributeValues.Values) != before {
			b.size += len(a.Value) + 4
		}
	}
	b.Attributes.end()
}

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() {
	b.ID, b.Time, b.ReceivedAt = b.ID[:0], b.Time[:0], b.ReceivedAt[:0]
	for i := range b.Strings {
		b.Strings[i].reset()
	}
	b.ClientIP.reset()
	b.Path.reset()
	b.Status, b.GRPCStatus, b.Attempts = b.Status[:0], b.GRPCStatus[:0], b.Attempts[:0]
	for i := range b.Latency {
		b.Latency[i] = b.Latency[i][:0]
	}
	b.RequestBytes, b.ResponseBytes = b.RequestBytes[:0], b.ResponseBytes[:0]
	b.Measures.reset()
	b.Attributes.reset()
	b.AttributeValues.reset()
	b.Offset, b.Row = b.Offset[:0], b.Row[:0]
	b.size = 0
}

// Keep drops the rows whose entry in rows is false, in place. Distinct values
// stay, though nothing may point at them any more.
func (b *Batch) Keep(rows []bool) {
	b.ID, b.Time, b.ReceivedAt = keep(b.ID, rows), keep(b.Time, rows), keep(b.ReceivedAt, rows)
	for i := range b.Strings {
		b.Strings[i].keep(rows)
	}
	b.ClientIP.keep(rows)
	b.Path.keep(rows)
	b.Status, b.GRPCStatus, b.Attempts = keep(b.Status, rows), keep(b.GRPCStatus, rows), keep(b.Attempts, rows)
	for i := range b.Latency {
		b.Latency[i] = keep(b.Latency[i], rows)
	}
	b.RequestBytes, b.ResponseBytes = keep(b.RequestBytes, rows), keep(b.ResponseBytes, rows)
	b.Measures.keep(rows)
	b.Attributes.keep(rows)
	if len(b.Offset) > 0 {
		b.Offset, b.Row = keep(b.Offset, rows), keep(b.Row, rows)
	}
}

// Select copies the marked rows into a batch of their own.
func (b *Batch) Select(rows []bool) *Batch {
	out := *b
	out.ID, out.Time, out.ReceivedAt = slices.Clone(b.ID), slices.Clone(b.Time), slices.Clone(b.ReceivedAt)
	for i := range out.Strings {
		out.Strings[i] = b.Strings[i].clone()
	}
	out.ClientIP, out.Path = b.ClientIP.clone(), b.Path.clone()
	out.Status, out.GRPCStatus, out.Attempts = slices.Clone(b.Status), slices.Clone(b.GRPCStatus), slices.Clone(b.Attempts)
	for i := range out.Latency {
		out.Latency[i] = slices.Clone(b.Latency[i])
	}
	out.RequestBytes, out.ResponseBytes = slices.Clone(b.RequestBytes), slices.Clone(b.ResponseBytes)
	out.Measures, out.Attributes = b.Measures.clone(), b.Attributes.clone()
	out.AttributeValues = b.AttributeValues.clone()
	out.Offset, out.Row = slices.Clone(b.Offset), slices.Clone(b.Row)
	out.Keep(rows)
	return &out
}

func (d *Dict) clone() Dict {
	return Dict{Index: slices.Clone(d.Index), Values: slices.Clone(d.Values), lookup: maps.Clone(d.lookup), max: d.max, last: d.last, lastCode: d.lastCode}
}

func (t *Text) clone() Text {
	return Text{Offsets: slices.Clone(t.Offsets), Bytes: slices.Clone(t.Bytes), max: t.max}
}

func (p *Pairs[V]) clone() Pairs[V] {
	return Pairs[V]{Offsets: slices.Clone(p.Offsets), Keys: p.Keys.clone(), Values: slices.Clone(p.Values)}
}

func keep[T any](column []T, rows []bool) []T {
	out := column[:0]
	for i, k := range rows {
		if k {
			out = append(out, column[i])
		}
	}
	return out
}

// Clean makes s valid UTF-8 and at most max bytes long, cut at a character
// border. It returns s itself when there is nothing to do.
func Clean(s string, max int) string {
	if len(s) > max {
		cut := max
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut]
	}
	if utf8.ValidString(s) {
		return s
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > max {
		return Clean(s, max)
	}
	return s
}
