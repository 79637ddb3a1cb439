// Package query answers what is asked of a list of resources: which ones, in
// which order, and which page.
//
// In come the texts of a list request and the description of a message; out
// come functions that judge and order messages, and the opaque tokens that
// connect pages. It only computes, and remembers nothing between requests: what
// a page needs to be continued is in its token.
package query

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tollway/tollway/services/platform/filter"
)

// Match tells whether a message is wanted.
type Match func(protoreflect.Message) bool

// Filter compiles a filter over the fields of a message. An empty one takes all.
func Filter(d protoreflect.MessageDescriptor, text string) (Match, error) {
	e, err := filter.Parse(text)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return func(protoreflect.Message) bool { return true }, nil
	}
	return compile(d, e)
}

func compile(d protoreflect.MessageDescriptor, e filter.Expr) (Match, error) {
	switch e := e.(type) {
	case filter.And:
		return compileAll(d, e, false)
	case filter.Or:
		return compileAll(d, e, true)
	case filter.Not:
		m, err := compile(d, e.Expr)
		if err != nil {
			return nil, err
		}
		return func(r protoreflect.Message) bool { return !m(r) }, nil
	case *filter.Comparison:
		m, err := compare(d, e)
		if err != nil {
			return nil, fmt.Errorf("column %d: %w", e.Pos+1, err)
		}
		return m, nil
	}
	return nil, fmt.Errorf("%v is no part of a filter", e)
}

// compileAll joins parts: any of them is enough, or all must hold.
func compileAll(d protoreflect.MessageDescriptor, parts []filter.Expr, enough bool) (Match, error) {
	all := make([]Match, len(parts))
	for i, p := range parts {
		m, err := compile(d, p)
		if err != nil {
			return nil, err
		}
		all[i] = m
	}
	return func(r protoreflect.Message) bool {
		for _, m := range all {
			if m(r) == enough {
				return enough
			}
		}
		return !enough
	}, nil
}

// compare compiles one comparison: NAME:* asks whether the field is set.
func compare(d protoreflect.MessageDescriptor, c *filter.Comparison) (Match, error) {
	path, err := resolve(d, c.Field)
	if err != nil {
		return nil, err
	}
	if c.Op == filter.Has && len(c.Values) == 1 && c.Values[0] == "*" {
		return func(r protoreflect.Message) bool { return path.any(r, present) }, nil
	}
	tests := make([]func(protoreflect.Value) bool, len(c.Values))
	for i, text := range c.Values {
		if tests[i], err = path.test(c.Op, text); err != nil {
			return nil, err
		}
	}
	// A message that is not set has no value: it is unequal to everything, and
	// neither above nor below anything. A text that is not set is empty.
	match := func(r protoreflect.Message) bool {
		return path.any(r, func(v protoreflect.Value) bool {
			for _, test := range tests {
				if test(v) {
					return true
				}
			}
			return false
		})
	}
	if c.Op == filter.NotEqual {
		return func(r protoreflect.Message) bool { return !match(r) }, nil
	}
	return match, nil
}

// path is a field, in nested messages or a map.
type path struct {
	name   string
	fields []protoreflect.FieldDescriptor
	key    string // of the last field, a map
	leaf   protoreflect.FieldDescriptor
}

const timestamp = "google.protobuf.Timestamp"

func resolve(d protoreflect.MessageDescriptor, name string) (*path, error) {
	p := &path{name: name}
	rest := name
	for d != nil {
		head, tail, more := strings.Cut(rest, ".")
		f := d.Fields().ByName(protoreflect.Name(head))
		if f == nil {
			return nil, fmt.Errorf("%q is no field of this resource", name)
		}
		p.fields = append(p.fields, f)
		switch {
		case f.IsMap() && more && tail != "":
			p.key, p.leaf = tail, f.MapValue()
			return p, nil
		case f.IsMap():
			return nil, fmt.Errorf("%q needs a key: %s.KEY", name, name)
		case !more:
			p.leaf = f
			return p, nil
		case f.Kind() != protoreflect.MessageKind || f.Message().FullName() == timestamp:
			return nil, fmt.Errorf("%q is no field of this resource", name)
		}
		d, rest = f.Message(), tail
	}
	return nil, fmt.Errorf("%q is no field of this resource", name)
}

// present tells a text that is set; of what else can be missing there is no value.
func present(v protoreflect.Value) bool {
	s, isText := v.Interface().(string)
	return !isText || s != ""
}

// any calls test with the field's values until one passes. A message that is not
// set, an empty list and a missing key have none.
func (p *path) any(m protoreflect.Message, test func(protoreflect.Value) bool) bool {
	return p.walk(m, p.fields, test)
}

func (p *path) walk(m protoreflect.Message, fields []protoreflect.FieldDescriptor, test func(protoreflect.Value) bool) bool {
	f := fields[0]
	last := len(fields) == 1
	switch {
	case f.IsMap():
		v := m.Get(f).Map().Get(protoreflect.ValueOfString(p.key).MapKey())
		return v.IsValid() && test(v)
	case f.IsList():
		for list, i := m.Get(f).List(), 0; i < list.Len(); i++ {
			if last && test(list.Get(i)) || !last && p.walk(list.Get(i).Message(), fields[1:], test) {
				return true
			}
		}
		return false
	case f.Kind() == protoreflect.MessageKind && !m.Has(f):
		return false
	case last:
		return test(m.Get(f))
	}
	return p.walk(m.Get(f).Message(), fields[1:], test)
}

// test compiles the comparison of one value. NotEqual is compiled as Equal.
func (p *path) test(op filter.Op, text string) (func(protoreflect.Value) bool, error) {
	switch p.leaf.Kind() {
	case protoreflect.StringKind:
		return p.testText(op, text)
	case protoreflect.BoolKind:
		want, err := strconv.ParseBool(text)
		if err != nil || !equality(op) {
			return nil, fmt.Errorf("%s is true or false, and knows = and != only", p.name)
		}
		return func(v protoreflect.Value) bool { return v.Bool() == want }, nil
	case protoreflect.EnumKind:
		value := p.leaf.Enum().Values().ByName(protoreflect.Name(text))
		if value == nil || !equality(op) {
			return nil, fmt.Errorf("%s is one of %s, and knows = and != only", p.name, enumNames(p.leaf.Enum()))
		}
		return func(v protoreflect.Value) bool { return v.Enum() == value.Number() }, nil
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		want, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s is a whole number, %q is not", p.name, text)
		}
		return func(v protoreflect.Value) bool { return ordered(op, compareInts(v.Int(), want)) }, nil
	case protoreflect.MessageKind:
		return p.testTime(op, text)
	}
	return nil, fmt.Errorf("%s cannot be compared", p.name)
}

// testText knows * at the beginning and at the end as any text.
func (p *path) testText(op filter.Op, text string) (func(protoreflect.Value) bool, error) {
	if !equality(op) {
		return func(v protoreflect.Value) bool { return ordered(op, strings.Compare(v.String(), text)) }, nil
	}
	inner, begins := strings.CutPrefix(text, "*")
	inner, ends := strings.CutSuffix(inner, "*")
	if strings.Contains(inner, "*") {
		return nil, fmt.Errorf("%s: * stands at the beginning or the end of a value only", p.name)
	}
	return func(v protoreflect.Value) bool {
		s := v.String()
		switch {
		case begins && ends:
			return strings.Contains(s, inner)
		case begins:
			return strings.HasSuffix(s, inner)
		case ends:
			return strings.HasPrefix(s, inner)
		}
		return s == inner
	}, nil
}

func (p *path) testTime(op filter.Op, text string) (func(protoreflect.Value) bool, error) {
	if p.leaf.Message().FullName() != timestamp {
		return nil, fmt.Errorf("%s cannot be compared: name a field in it, or ask %s:* whether it is set", p.name, p.name)
	}
	want, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return nil, fmt.Errorf("%s is a time such as 2026-01-31T12:00:00Z, %q is not", p.name, text)
	}
	return func(v protoreflect.Value) bool { return ordered(op, timeOf(v.Message()).Compare(want)) }, nil
}

func timeOf(m protoreflect.Message) time.Time {
	fields := m.Descriptor().Fields()
	return time.Unix(m.Get(fields.ByName("seconds")).Int(), m.Get(fields.ByName("nanos")).Int())
}

func equality(op filter.Op) bool {
	return op == filter.Equal || op == filter.NotEqual || op == filter.Has
}

func ordered(op filter.Op, c int) bool {
	switch op {
	case filter.Less:
		return c < 0
	case filter.LessOrEqual:
		return c <= 0
	case filter.Greater:
		return c > 0
	case filter.GreaterOrEqual:
		return c >= 0
	}
	return c == 0
}

func compareInts(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func enumNames(e protoreflect.EnumDescriptor) string {
	names := make([]string, e.Values().Len())
	for i := range names {
		names[i] = string(e.Values().Get(i).Name())
	}
	return strings.Join(names, ", ")
}

// Order is by one field, and by name where that is equal.
type Order struct {
	path *path
	Desc bool
}

// ByName reports whether the order is that of the names themselves.
func (o Order) ByName() bool { return o.path == nil && !o.Desc }

// Field is what is ordered by, "" for the name.
func (o Order) Field() string {
	if o.path == nil {
		return ""
	}
	return o.path.name
}

// ParseOrder reads "field", "field asc" or "field desc"; empty is by name.
func ParseOrder(d protoreflect.MessageDescriptor, text string) (Order, error) {
	words := strings.Fields(text)
	var o Order
	switch {
	case len(words) == 0:
		return o, nil
	case len(words) > 2, len(words) == 2 && words[1] != "asc" && words[1] != "desc":
		return o, fmt.Errorf("%q is no order: a field, and asc or desc after it", text)
	}
	o.Desc = len(words) == 2 && words[1] == "desc"
	if words[0] == "name" {
		return o, nil
	}
	p, err := resolve(d, words[0])
	if err != nil {
		return o, err
	}
	if p.leaf.IsList() || p.leaf.Kind() == protoreflect.MessageKind && p.leaf.Message().FullName() != timestamp {
		return o, fmt.Errorf("%q cannot be ordered by", words[0])
	}
	for _, f := range p.fields {
		if f.IsList() {
			return o, fmt.Errorf("%q cannot be ordered by", words[0])
		}
	}
	o.path = p
	return o, nil
}

// Key is a text that sorts as the field's value does; what is not set is first.
func (o Order) Key(m protoreflect.Message) string {
	key := ""
	if o.path == nil {
		return key
	}
	o.path.any(m, func(v protoreflect.Value) bool {
		switch value := v.Interface().(type) {
		case string:
			key = value
		case bool:
			key = strconv.FormatBool(value)
		case protoreflect.EnumNumber:
			key = sortable(int64(value))
		case int32:
			key = sortable(int64(value))
		case int64:
			key = sortable(value)
		case protoreflect.Message:
			key = TimeKey(timeOf(value))
		}
		return true
	})
	return key
}

// TimeKey is the key of a time. The database keeps microseconds.
func TimeKey(t time.Time) string { return sortable(t.UnixMicro()) }

// KeyTime is the time of a key.
func KeyTime(key string) (time.Time, error) {
	n, err := strconv.ParseUint(key, 10, 64)
	return time.UnixMicro(int64(n ^ 1<<63)).UTC(), err
}

// sortable writes a number so that texts compare as numbers do.
func sortable(n int64) string { return fmt.Sprintf("%020d", uint64(n)^1<<63) }

// Place is where a page begins: after the resource with this key and name.
type Place struct {
	Key    string `json:"k,omitempty"`
	Parent string `json:"p,omitempty"`
	Name   string `json:"n"`
}

type pageToken struct {
	Place
	Query []byte `json:"q"`
}

// ErrPageToken is the answer to a token that did not come from this query.
var ErrPageToken = errors.New("is not from an answer to the same query")

// Token makes a page token that belongs to one query, told by its parts.
func (p Place) Token(query ...string) string {
	b, err := json.Marshal(pageToken{Place: p, Query: fingerprint(query)})
	if err != nil {
		return "" // texts can always be written
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// ReadToken reads a token of the same query. An empty one is the beginning.
func ReadToken(token string, query ...string) (Place, error) {
	if token == "" {
		return Place{}, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	var t pageToken
	if err != nil || json.Unmarshal(b, &t) != nil || string(t.Query) != string(fingerprint(query)) {
		return Place{}, ErrPageToken
	}
	return t.Place, nil
}

func fingerprint(query []string) []byte {
	h := sha256.New()
	for _, part := range query {
		fmt.Fprintf(h, "%d %s", len(part), part)
	}
	return h.Sum(nil)[:12]
}
