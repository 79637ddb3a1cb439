package kind

import (
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxSize bounds a resource, in bytes: it must fit into a message of the log.
const maxSize = 512 << 10

// maxViolations bounds an answer to a request in which everything is wrong.
const maxViolations = 100

// Violations are what is wrong with a request, each naming a field.
type Violations struct {
	// Prefix goes before the names of fields that are added.
	Prefix string
	List   []*errdetails.BadRequest_FieldViolation
}

// Add notes what is wrong with a field.
func (v *Violations) Add(field, format string, args ...any) {
	if len(v.List) < maxViolations {
		field = strings.TrimSuffix(v.Prefix+field, ".")
		v.List = append(v.List, &errdetails.BadRequest_FieldViolation{Field: field, Description: fmt.Sprintf(format, args...)})
	}
}

// Error says everything that is wrong in one line.
func (v *Violations) Error() string {
	texts := make([]string, len(v.List))
	for i, one := range v.List {
		if texts[i] = one.GetDescription(); one.GetField() != "" {
			texts[i] = one.GetField() + ": " + texts[i]
		}
	}
	return strings.Join(texts, "; ")
}

// Err is nil when nothing is wrong.
func (v *Violations) Err() error {
	if len(v.List) == 0 {
		return nil
	}
	return v
}

// Validate adds what is wrong with a message by itself.
func (k *Kind) Validate(m Resource, v *Violations) {
	if size := proto.Size(m); size > maxSize {
		v.Add("", "has %d bytes, at most %d are allowed", size, maxSize)
	}
	known(m.ProtoReflect(), "", v)
	labels(m.GetLabels(), v)
	if k.validate != nil {
		k.validate(m, v)
	}
}

// known refuses fields and enum numbers of which the schema says nothing, and
// control characters in any text.
func known(m protoreflect.Message, prefix string, v *Violations) {
	if len(m.GetUnknown()) > 0 {
		v.Add(strings.TrimSuffix(prefix, "."), "has a field that is not known")
	}
	m.Range(func(f protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		path := prefix + string(f.Name())
		switch {
		case f.IsMap(): // labels, checked by themselves
		case f.IsList():
			for i := range value.List().Len() {
				knownValue(f, value.List().Get(i), fmt.Sprintf("%s[%d]", path, i), v)
			}
		default:
			knownValue(f, value, path, v)
		}
		return true
	})
}

func knownValue(f protoreflect.FieldDescriptor, value protoreflect.Value, path string, v *Violations) {
	switch f.Kind() {
	case protoreflect.MessageKind:
		known(value.Message(), path+".", v)
	case protoreflect.EnumKind:
		if f.Enum().Values().ByNumber(value.Enum()) == nil {
			v.Add(path, "%d is none of its values", value.Enum())
		}
	case protoreflect.StringKind:
		if hasControl(value.String(), f.Name() == "description") {
			v.Add(path, "has control characters")
		}
	}
}

func hasControl(s string, multiline bool) bool {
	return strings.ContainsFunc(s, func(r rune) bool {
		line := r == '\n' || r == '\r' || r == '\t'
		return (r < 0x20 || r == 0x7f) && !(line && multiline)
	})
}

// Unchanged adds a violation for every field that would change and cannot.
func (k *Kind) Unchanged(before, after proto.Message, v *Violations) {
	for _, name := range k.immutable {
		f := before.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(name))
		if !before.ProtoReflect().Get(f).Equal(after.ProtoReflect().Get(f)) {
			v.Add(name, "cannot change")
		}
	}
}
