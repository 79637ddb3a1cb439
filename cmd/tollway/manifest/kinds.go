// Package manifest reads and writes catalog resources as files for people.
//
// In: YAML or JSON, several documents in a file, each a resource or a list of
// resources. Out: the resources, or every mistake with its file, line and field;
// and the way back, from resources to YAML that can be read again. It keeps
// nothing.
package manifest

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// Kind is a kind of resource.
type Kind struct {
	// Name is what a document calls it: "PlanVersion".
	Name string
	// Field is its field in a Resource: "plan_version".
	Field protoreflect.Name
	// Plural is its field in the answer to a list request: "versions".
	Plural string
	// Short are what a command line may call it too.
	Short []string
	// Pattern is the form of its names: "products/*/plans/*/versions/*".
	Pattern string
}

// The kinds there are.
var (
	Environment  = &Kind{"Environment", "environment", "environments", []string{"env"}, "environments/*"}
	LegalEntity  = &Kind{"LegalEntity", "legal_entity", "legal_entities", []string{"entity", "le"}, "legalEntities/*"}
	Meter        = &Kind{"Meter", "meter", "meters", nil, "meters/*"}
	Api          = &Kind{"Api", "api", "apis", nil, "apis/*"}
	Operation    = &Kind{"Operation", "operation", "operations", []string{"op", "ops"}, "apis/*/operations/*"}
	Account      = &Kind{"Account", "account", "accounts", []string{"acc"}, "accounts/*"}
	App          = &Kind{"App", "app", "apps", nil, "accounts/*/apps/*"}
	Credential   = &Kind{"Credential", "credential", "credentials", []string{"cred", "creds"}, "accounts/*/apps/*/credentials/*"}
	Product      = &Kind{"Product", "product", "products", []string{"prod"}, "products/*"}
	Plan         = &Kind{"Plan", "plan", "plans", nil, "products/*/plans/*"}
	PlanVersion  = &Kind{"PlanVersion", "plan_version", "versions", []string{"version", "planversions", "pv"}, "products/*/plans/*/versions/*"}
	Subscription = &Kind{"Subscription", "subscription", "subscriptions", []string{"sub", "subs"}, "accounts/*/subscriptions/*"}
	Token        = &Kind{"Token", "token", "tokens", []string{"tok"}, "tokens/*"}
)

// kinds are in an order in which each refers to those before it, apart from
// accounts that a plan's version may name.
var kinds = []*Kind{
	Environment, LegalEntity, Meter, Api, Operation, Account, App, Credential, Product, Plan, PlanVersion, Subscription, Token,
}

// Kinds lists all kinds; what a kind refers to comes before it.
func Kinds() []*Kind { return slices.Clone(kinds) }

// KindNamed finds a kind as a person may write it on a command line: singular,
// plural or short, with or without separators, in any case.
func KindNamed(text string) (*Kind, bool) {
	wanted := squeeze(text)
	for _, k := range kinds {
		if wanted == squeeze(k.Name) || wanted == squeeze(k.Plural) || slices.Contains(k.Short, wanted) {
			return k, true
		}
	}
	return nil, false
}

func squeeze(text string) string {
	return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(text))
}

// KindOf finds the kind of a resource's name.
func KindOf(name string) (*Kind, bool) {
	for _, k := range kinds {
		if k.Matches(name) {
			return k, true
		}
	}
	return nil, false
}

// Matches tells whether a name has the form of this kind's names.
func (k *Kind) Matches(name string) bool {
	parts, pattern := strings.Split(name, "/"), strings.Split(k.Pattern, "/")
	if len(parts) != len(pattern) {
		return false
	}
	for i, p := range pattern {
		if parts[i] == "" || p != "*" && p != parts[i] {
			return false
		}
	}
	return true
}

// Parent is the form of the names that this kind's names begin with; empty for
// a kind at the top.
func (k *Kind) Parent() string {
	parts := strings.Split(k.Pattern, "/")
	return strings.Join(parts[:len(parts)-2], "/")
}

// Collection is the last fixed part of this kind's names: "versions".
func (k *Kind) Collection() string {
	parts := strings.Split(k.Pattern, "/")
	return parts[len(parts)-2]
}

// Depth is how many ids a name of this kind has.
func (k *Kind) Depth() int { return strings.Count(k.Pattern, "*") }

// Join makes a name of this kind from ids.
func (k *Kind) Join(ids []string) string {
	name := k.Pattern
	for _, id := range ids {
		name = strings.Replace(name, "*", id, 1)
	}
	return name
}

func (k *Kind) field() protoreflect.FieldDescriptor {
	return (&catalogv1.Resource{}).ProtoReflect().Descriptor().Fields().ByName(k.Field)
}

// New makes an empty resource of this kind, and returns the message within it.
func (k *Kind) New() (*catalogv1.Resource, proto.Message) {
	r := &catalogv1.Resource{}
	return r, r.ProtoReflect().Mutable(k.field()).Message().Interface()
}

// Open returns the kind of a resource and the message within it; nil for an
// empty one.
func Open(r *catalogv1.Resource) (*Kind, proto.Message) {
	m := r.ProtoReflect()
	set := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind"))
	if set == nil {
		return nil, nil
	}
	i := slices.IndexFunc(kinds, func(k *Kind) bool { return k.Field == set.Name() })
	return kinds[i], m.Get(set).Message().Interface()
}

// Name is the resource's name.
func Name(r *catalogv1.Resource) string {
	if _, m := Open(r); m != nil {
		if named, ok := m.(interface{ GetName() string }); ok {
			return named.GetName()
		}
	}
	return ""
}

// serverOnly are the fields that only the server sets, by message.
var serverOnly = map[protoreflect.Name][]protoreflect.Name{
	"Credential":   {"revoke_time"},
	"ApiKey":       {"prefix", "key"},
	"Subscription": {"phases", "reason"},
	"Token":        {"token", "last_used_time"},
}

// restored are those of them that are in files all the same: they say what became
// of a resource, for an installation where it is new. One that has the resource
// ignores them.
var restored = map[protoreflect.Name][]protoreflect.Name{
	"Credential":   {"revoke_time"},
	"Subscription": {"phases", "reason"},
}

// inFiles tells whether files have a field. The others are left out of written
// files and ignored in read ones, so that what was got from the server can be
// given back to it.
func inFiles(f protoreflect.FieldDescriptor) bool {
	return !ServerOnly(f) || slices.Contains(restored[f.ContainingMessage().Name()], f.Name())
}

// ServerOnly tells whether only the server sets a field. An etag counts: it
// would make a file that is kept fail the second time.
func ServerOnly(f protoreflect.FieldDescriptor) bool {
	message := f.ContainingMessage()
	switch f.Name() {
	case "uid", "etag", "create_time", "update_time":
		return message.Fields().ByName("uid") != nil
	}
	return slices.Contains(serverOnly[message.Name()], f.Name())
}
