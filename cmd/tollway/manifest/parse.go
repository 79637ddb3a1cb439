package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
	"gopkg.in/yaml.v3"

	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// Document is a resource and where it was read.
type Document struct {
	Resource *catalogv1.Resource
	Position Position
	kind     *Kind
	at       map[string]Position // where its fields are, by path
}

// Parse reads all documents of a file. The error is Problems.
func Parse(file string, text []byte) ([]Document, error) {
	r := &reader{file: file}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var root yaml.Node
		err := decoder.Decode(&root)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			r.syntax(err)
			break
		}
		for _, n := range root.Content { // one, unless the document is empty
			r.document(n)
		}
	}
	if len(r.problems) > 0 {
		return nil, r.problems
	}
	return r.documents, nil
}

// Unique checks that no two documents have one name. The error is Problems.
func Unique(documents []Document) error {
	var problems Problems
	first := map[string]Position{}
	for _, d := range documents {
		name := Name(d.Resource)
		before, twice := first[name]
		if !twice {
			first[name] = d.Position
			continue
		}
		problems = append(problems, Problem{d.Position, fmt.Sprintf("%s is here a second time; the first is at %s", name, before)})
	}
	if len(problems) > 0 {
		return problems
	}
	return nil
}

// Locate finds what a server calls by a path such as
// resources[3].charges[0].model: the place of the field, or of what contains
// it, and the rest of the path from the document on. It is not ok where the path
// names no document.
func Locate(documents []Document, path string) (at Position, field string, ok bool) {
	rest, ok := strings.CutPrefix(path, "resources[")
	if !ok {
		return Position{}, path, false
	}
	number, rest, ok := strings.Cut(rest, "]")
	i, err := strconv.Atoi(number)
	if !ok || err != nil || i < 0 || i >= len(documents) {
		return Position{}, path, false
	}
	d := documents[i]
	field = strings.TrimPrefix(strings.TrimPrefix(rest, "."), string(d.kind.Field)+".")
	for p := field; p != ""; p = p[:max(0, strings.LastIndexAny(p, ".["))] {
		if at, ok := d.at[p]; ok {
			return at, field, true
		}
	}
	return d.Position, field, true
}

// reader turns nodes into messages and remembers what was wrong.
type reader struct {
	file      string
	documents []Document
	problems  Problems
	at        map[string]Position
}

func (r *reader) position(n *yaml.Node) Position {
	return Position{r.file, n.Line, n.Column}
}

func (r *reader) wrong(n *yaml.Node, format string, args ...any) {
	r.problems = append(r.problems, Problem{r.position(n), fmt.Sprintf(format, args...)})
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func (r *reader) syntax(err error) {
	text := err.Error()
	at := Position{File: r.file}
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		at.Line, _ = strconv.Atoi(m[1]) // digits, or nothing
		text = text[len(m[0]):]
	}
	r.problems = append(r.problems, Problem{at, "not YAML: " + text})
}

func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func empty(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// document reads a resource or a list of them.
func (r *reader) document(n *yaml.Node) {
	n = resolve(n)
	switch {
	case empty(n):
	case n.Kind == yaml.SequenceNode:
		for _, item := range n.Content {
			if item = resolve(item); item.Kind == yaml.SequenceNode {
				r.wrong(item, "a list in a list is not a resource")
				continue
			}
			r.document(item)
		}
	case n.Kind == yaml.MappingNode:
		r.resource(n)
	default:
		r.wrong(n, "a resource is a mapping with kind and name")
	}
}

func member(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return resolve(n.Content[i+1])
		}
	}
	return nil
}

func (r *reader) resource(n *yaml.Node) {
	named := member(n, "kind")
	if named == nil {
		if member(n, "openapi") != nil || member(n, "swagger") != nil {
			r.wrong(n, "this is an OpenAPI document: name the API whose operations it has with --api")
			return
		}
		r.wrong(n, "kind is missing: one of %s", kindNames())
		return
	}
	i := slices.IndexFunc(kinds, func(k *Kind) bool { return k.Name == named.Value })
	if i < 0 || named.Kind != yaml.ScalarNode {
		r.wrong(named, "kind: %q is not one of %s", named.Value, kindNames())
		return
	}
	before := len(r.problems)
	k := kinds[i]
	resource, message := k.New()
	r.at = map[string]Position{}
	r.message(n, message.ProtoReflect(), "", k)
	r.name(n, k)
	if len(r.problems) == before {
		r.documents = append(r.documents, Document{resource, r.position(n), k, r.at})
	}
}

func (r *reader) name(n *yaml.Node, k *Kind) {
	switch name := member(n, "name"); {
	case name == nil:
		r.wrong(n, "name: is missing; a name of %s is %s", k.Name, k.Pattern)
	case name.Kind == yaml.ScalarNode && !k.Matches(name.Value):
		r.wrong(name, "name: %q is not a name of %s, which is %s", name.Value, k.Name, k.Pattern)
	}
}

func kindNames() string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.Name
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func join(path string, name protoreflect.Name) string {
	if path == "" {
		return string(name)
	}
	return path + "." + string(name)
}

// message reads the members of a mapping. The resource itself, which has a
// kind beside its fields, comes with its kind.
func (r *reader) message(n *yaml.Node, m protoreflect.Message, path string, kind *Kind) {
	fields := m.Descriptor().Fields()
	seen := map[protoreflect.Name]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], resolve(n.Content[i+1])
		if kind != nil && key.Value == "kind" && seen["kind"] == nil {
			seen["kind"] = key
			continue
		}
		f := fields.ByName(protoreflect.Name(key.Value))
		if f == nil {
			f = fields.ByJSONName(key.Value)
		}
		if f == nil {
			r.wrong(key, "%s: there is no such field in %s, which has %s", join(path, protoreflect.Name(key.Value)), m.Descriptor().Name(), fieldNames(fields))
			continue
		}
		where := join(path, f.Name())
		if before := seen[f.Name()]; before != nil {
			r.wrong(key, "%s: is here a second time; the first is in line %d", where, before.Line)
			continue
		}
		seen[f.Name()] = key
		if one := f.ContainingOneof(); one != nil && m.WhichOneof(one) != nil {
			r.wrong(key, "%s: only one of %s can be set, and %s is", where, fieldNames(one.Fields()), m.WhichOneof(one).Name())
			continue
		}
		r.at[where] = r.position(key)
		if !inFiles(f) {
			continue
		}
		r.field(value, m, f, where)
	}
}

// fieldNames lists fields that a file can set.
func fieldNames(fields interface {
	Len() int
	Get(i int) protoreflect.FieldDescriptor
}) string {
	var names []string
	for i := range fields.Len() {
		if f := fields.Get(i); inFiles(f) {
			names = append(names, string(f.Name()))
		}
	}
	return strings.Join(names, ", ")
}

func (r *reader) field(n *yaml.Node, m protoreflect.Message, f protoreflect.FieldDescriptor, path string) {
	switch {
	case empty(n) && f.Message() != nil && !f.IsMap() && !f.IsList():
		r.wrong(n, "%s: has no value; leave it out, or write {} for an empty one", path)
	case empty(n):
	case f.IsMap():
		r.mapping(n, m.Mutable(f).Map(), path)
	case f.IsList():
		r.list(n, m, f, path)
	default:
		if v, ok := r.value(n, f, path, m.NewField(f)); ok {
			m.Set(f, v)
		}
	}
}

// mapping reads texts by texts; the schema has no other mappings.
func (r *reader) mapping(n *yaml.Node, into protoreflect.Map, path string) {
	if n.Kind != yaml.MappingNode {
		r.wrong(n, "%s: must be a mapping", path)
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		where := path + "." + key.Value
		k := protoreflect.ValueOfString(key.Value).MapKey()
		if into.Has(k) {
			r.wrong(key, "%s: is here a second time", where)
			continue
		}
		r.at[where] = r.position(key)
		if text, ok := r.text(resolve(n.Content[i+1]), where); ok {
			into.Set(k, protoreflect.ValueOfString(text))
		}
	}
}

func (r *reader) list(n *yaml.Node, m protoreflect.Message, f protoreflect.FieldDescriptor, path string) {
	if n.Kind != yaml.SequenceNode {
		r.wrong(n, "%s: must be a list", path)
		return
	}
	list := m.Mutable(f).List()
	for i, item := range n.Content {
		where := fmt.Sprintf("%s[%d]", path, i)
		r.at[where] = r.position(item)
		if item = resolve(item); empty(item) {
			r.wrong(item, "%s: has no value", where)
		} else if v, ok := r.value(item, f, where, list.NewElement()); ok {
			list.Append(v)
		}
	}
}

// value reads one value; a message is read into fresh.
func (r *reader) value(n *yaml.Node, f protoreflect.FieldDescriptor, path string, fresh protoreflect.Value) (protoreflect.Value, bool) {
	switch f.Kind() {
	case protoreflect.MessageKind:
		if _, ok := fresh.Message().Interface().(*timestamppb.Timestamp); ok {
			return r.moment(n, path)
		}
		if n.Kind != yaml.MappingNode {
			r.wrong(n, "%s: must be a mapping with %s", path, fieldNames(f.Message().Fields()))
			return fresh, false
		}
		before := len(r.problems)
		r.message(n, fresh.Message(), path, nil)
		return fresh, len(r.problems) == before
	case protoreflect.StringKind:
		text, ok := r.text(n, path)
		return protoreflect.ValueOfString(text), ok
	case protoreflect.BoolKind:
		var b bool
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || n.Decode(&b) != nil {
			r.wrong(n, "%s: must be true or false", path)
			return fresh, false
		}
		return protoreflect.ValueOfBool(b), true
	case protoreflect.EnumKind:
		return r.enum(n, f.Enum(), path)
	case protoreflect.Int64Kind:
		return r.number(n, path)
	}
	r.wrong(n, "%s: cannot be set in a file", path)
	return fresh, false
}

// text takes what is written, so that 0.10 and 2026-11 need no quotes where a
// text is wanted.
func (r *reader) text(n *yaml.Node, path string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!binary" || empty(n) {
		r.wrong(n, "%s: must be a text", path)
		return "", false
	}
	return n.Value, true
}

// number reads a whole number; JSON writes large ones as texts.
func (r *reader) number(n *yaml.Node, path string) (protoreflect.Value, bool) {
	var v int64
	err := strconv.ErrSyntax
	if n.Kind == yaml.ScalarNode {
		switch n.ShortTag() {
		case "!!int":
			err = n.Decode(&v)
		case "!!str":
			v, err = strconv.ParseInt(n.Value, 10, 64)
		}
	}
	if err != nil {
		r.wrong(n, "%s: must be a whole number from %d to %d", path, math.MinInt64, math.MaxInt64)
	}
	return protoreflect.ValueOfInt64(v), err == nil
}

func (r *reader) enum(n *yaml.Node, e protoreflect.EnumDescriptor, path string) (protoreflect.Value, bool) {
	var names []string
	for i := range e.Values().Len() {
		v := e.Values().Get(i)
		if n.Kind == yaml.ScalarNode && string(v.Name()) == n.Value {
			return protoreflect.ValueOfEnum(v.Number()), true
		}
		if v.Number() != 0 {
			names = append(names, string(v.Name()))
		}
	}
	r.wrong(n, "%s: %q is not one of %s", path, n.Value, strings.Join(names, ", "))
	return protoreflect.Value{}, false
}

var momentForms = []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"}

func (r *reader) moment(n *yaml.Node, path string) (protoreflect.Value, bool) {
	if n.Kind == yaml.ScalarNode {
		for _, form := range momentForms {
			if t, err := time.Parse(form, n.Value); err == nil {
				return protoreflect.ValueOfMessage(timestamppb.New(t).ProtoReflect()), true
			}
		}
	}
	r.wrong(n, "%s: %q is not a time such as 2026-11-01T10:00:00+01:00 or, in UTC, 2026-11-01", path, n.Value)
	return protoreflect.Value{}, false
}
