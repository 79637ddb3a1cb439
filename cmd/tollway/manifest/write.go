package manifest

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
	"gopkg.in/yaml.v3"

	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// Write writes resources as the documents of one YAML file, which Parse reads
// back: without the fields that files do not have.
func Write(out io.Writer, resources []*catalogv1.Resource) error {
	for i, r := range resources {
		text, err := Text(r, false)
		if err != nil {
			return err
		}
		if i > 0 {
			text = "---\n" + text
		}
		if _, err := io.WriteString(out, text); err != nil {
			return err
		}
	}
	return nil
}

// Text is a resource as YAML, with or without the fields that files do not have.
func Text(r *catalogv1.Resource, everything bool) (string, error) {
	kind, m := Open(r)
	if kind == nil {
		return "", nil
	}
	w := writer{everything}
	root := w.message(m.ProtoReflect())
	root.Content = append([]*yaml.Node{text("kind"), text(kind.Name)}, root.Content...)
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(root); err != nil {
		return "", fmt.Errorf("write %s as YAML: %w", Name(r), err)
	}
	if err := encoder.Close(); err != nil {
		return "", fmt.Errorf("write %s as YAML: %w", Name(r), err)
	}
	return b.String(), nil
}

type writer struct{ everything bool }

// text writes several lines as they are only where the encoder's blocks keep
// them: space at an edge gets lost in some.
func text(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if body := strings.TrimSuffix(s, "\n"); strings.Contains(s, "\n") && (body == "" || body != strings.TrimSpace(s)) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// message writes the set fields of a message, in the order of the schema.
func (w writer) message(m protoreflect.Message) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) || !w.everything && !inFiles(f) {
			continue
		}
		n.Content = append(n.Content, text(string(f.Name())), w.field(f, m.Get(f)))
	}
	if len(n.Content) == 0 {
		n.Style = yaml.FlowStyle // {}
	}
	return n
}

func (w writer) field(f protoreflect.FieldDescriptor, v protoreflect.Value) *yaml.Node {
	switch {
	case f.IsMap():
		n := &yaml.Node{Kind: yaml.MappingNode}
		values := map[string]string{}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			values[k.String()] = v.String()
			return true
		})
		for _, k := range slices.Sorted(maps.Keys(values)) {
			n.Content = append(n.Content, text(k), text(values[k]))
		}
		return n
	case f.IsList():
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.List().Len() {
			n.Content = append(n.Content, w.value(f, v.List().Get(i)))
		}
		return n
	}
	return w.value(f, v)
}

func (w writer) value(f protoreflect.FieldDescriptor, v protoreflect.Value) *yaml.Node {
	switch f.Kind() {
	case protoreflect.MessageKind:
		if t, ok := v.Message().Interface().(*timestamppb.Timestamp); ok {
			return &yaml.Node{Kind: yaml.ScalarNode, Value: moment(t)}
		}
		return w.message(v.Message())
	case protoreflect.BoolKind:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v.Bool())}
	case protoreflect.EnumKind:
		if d := f.Enum().Values().ByNumber(v.Enum()); d != nil {
			return text(string(d.Name()))
		}
		return text(strconv.Itoa(int(v.Enum())))
	case protoreflect.StringKind:
		return text(v.String())
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(v.Interface())}
}

func moment(t *timestamppb.Timestamp) string { return t.AsTime().Format(time.RFC3339Nano) }
