package kind

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Resource is what all kinds have in common.
type Resource interface {
	proto.Message
	GetName() string
	GetUid() string
	GetEtag() string
	GetCreateTime() *timestamppb.Timestamp
	GetUpdateTime() *timestamppb.Timestamp
	GetLabels() map[string]string
}

// common fields are set by the server in every kind.
var common = []string{"uid", "etag", "create_time", "update_time"}

// Stamp is what the server says about a version of a resource.
type Stamp struct {
	Name, UID, Etag string
	Create, Update  time.Time
}

// Put writes the stamp into a message.
func (s Stamp) Put(m proto.Message) {
	r := m.ProtoReflect()
	set := func(name protoreflect.Name, v protoreflect.Value) { r.Set(r.Descriptor().Fields().ByName(name), v) }
	set("name", protoreflect.ValueOfString(s.Name))
	set("uid", protoreflect.ValueOfString(s.UID))
	set("etag", protoreflect.ValueOfString(s.Etag))
	set("create_time", protoreflect.ValueOfMessage(timestamppb.New(s.Create).ProtoReflect()))
	set("update_time", protoreflect.ValueOfMessage(timestamppb.New(s.Update).ProtoReflect()))
}

// SetName names a message.
func SetName(m proto.Message, name string) {
	r := m.ProtoReflect()
	r.Set(r.Descriptor().Fields().ByName("name"), protoreflect.ValueOfString(name))
}

// ClearOutput clears what only the server may set, the etag included.
func (k *Kind) ClearOutput(m proto.Message) {
	k.ClearLocal(m)
	for _, path := range k.restored {
		clearPath(m.ProtoReflect(), path)
	}
}

// ClearLocal clears of it what means nothing in another installation. The rest is
// what a file brings back.
func (k *Kind) ClearLocal(m proto.Message) {
	for _, path := range common {
		clearPath(m.ProtoReflect(), path)
	}
	for _, path := range k.outputOnly {
		if !slices.Contains(k.restored, path) {
			clearPath(m.ProtoReflect(), path)
		}
	}
}

// KeepOutput gives to what only the server may set the values that it has.
func (k *Kind) KeepOutput(to, from proto.Message) {
	for _, path := range append(common[:len(common):len(common)], k.outputOnly...) {
		copyPath(to.ProtoReflect(), from.ProtoReflect(), path)
	}
}

// IsOutput tells whether a field, by its path, is one that the server sets.
func (k *Kind) IsOutput(path string) bool {
	for _, p := range append(common[:len(common):len(common)], k.outputOnly...) {
		if path == p || strings.HasPrefix(path, p+".") {
			return true
		}
	}
	return false
}

// Normalize puts in what an empty field is taken as.
func (k *Kind) Normalize(m proto.Message) {
	if k.normalize != nil {
		k.normalize(m)
	}
}

// clearPath clears a field; a message on the way that is not there stays so.
func clearPath(m protoreflect.Message, path string) {
	head, rest, nested := strings.Cut(path, ".")
	f := m.Descriptor().Fields().ByName(protoreflect.Name(head))
	switch {
	case f == nil || !m.Has(f):
	case !nested:
		m.Clear(f)
	default:
		clearPath(m.Mutable(f).Message(), rest)
	}
}

// copyPath makes a field equal to another message's. A nested one is copied
// only where both have the message that it is in.
func copyPath(to, from protoreflect.Message, path string) {
	head, rest, nested := strings.Cut(path, ".")
	f := to.Descriptor().Fields().ByName(protoreflect.Name(head))
	switch {
	case f == nil:
	case nested && to.Has(f) && from.Has(f):
		copyPath(to.Mutable(f).Message(), from.Get(f).Message(), rest)
	case nested:
	case from.Has(f):
		to.Set(f, from.Get(f))
	default:
		to.Clear(f)
	}
}

// CopyField makes a top-level field equal to another message's.
func CopyField(to, from proto.Message, name string) {
	copyPath(to.ProtoReflect(), from.ProtoReflect(), name)
}

// HasField tells whether a top-level field is set.
func HasField(m proto.Message, name string) bool {
	f := m.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(name))
	return f != nil && m.ProtoReflect().Has(f)
}

// State is the name of the resource's state, "" for a kind that has none.
func State(m proto.Message) string {
	f := m.ProtoReflect().Descriptor().Fields().ByName("state")
	if f == nil || f.Kind() != protoreflect.EnumKind {
		return ""
	}
	n := m.ProtoReflect().Get(f).Enum()
	if v := f.Enum().Values().ByNumber(n); v != nil {
		return string(v.Name())
	}
	return fmt.Sprint(n)
}

// Diff lists the paths of the fields in which two messages differ, those that
// the server sets left out. A message that is in both is looked into.
func (k *Kind) Diff(before, after proto.Message) []string {
	var out []string
	diff(before.ProtoReflect(), after.ProtoReflect(), "", func(path string) {
		if !k.IsOutput(path) {
			out = append(out, path)
		}
	})
	return out
}

func diff(a, b protoreflect.Message, prefix string, found func(string)) {
	fields := a.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		path := prefix + string(f.Name())
		single := f.Kind() == protoreflect.MessageKind && !f.IsList() && !f.IsMap()
		switch {
		case a.Has(f) != b.Has(f):
			found(path)
		case !a.Has(f):
		case single && f.Message().ParentFile().Package() == a.Descriptor().ParentFile().Package():
			diff(a.Get(f).Message(), b.Get(f).Message(), path+".", found)
		case !a.Get(f).Equal(b.Get(f)):
			found(path)
		}
	}
}
