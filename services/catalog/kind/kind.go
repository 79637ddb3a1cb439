package kind

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// Kind describes the resources of one kind.
type Kind struct {
	// ID is its name in the ledger, and that of its field in
	// tollway.catalog.v1.Resource: "plan_version".
	ID string
	// Noun is what texts call one of them.
	Noun string
	// Segment is the collection's part of a name: "versions".
	Segment string
	// Parent is the kind that it belongs to, nil at the top.
	Parent *Kind
	// Rank orders kinds: a kind refers to kinds of lower rank only.
	Rank int

	spec
	field protoreflect.FieldDescriptor
}

// spec is what a kind's own file says about it.
type spec struct {
	// immutable fields keep their value for ever, outputOnly ones are set by the
	// server. kept ones keep theirs when an applied file does not name them,
	// because commands and time change them too. restored are those output-only
	// ones that a file brings back with a resource that is new here.
	immutable, outputOnly, kept, restored []string
	// numbered ids are numbers from 1 on.
	numbered   bool
	normalize  func(proto.Message)
	validate   func(proto.Message, *Violations)
	references func(proto.Message) []Reference
	uniqueKeys func(proto.Message) []UniqueKey
}

// The kinds, in the order of their ranks.
var (
	LegalEntity  = define("legal_entity", "legal entity", "legalEntities", nil, legalEntity)
	Environment  = define("environment", "environment", "environments", nil, environment)
	Meter        = define("meter", "meter", "meters", nil, meter)
	API          = define("api", "API", "apis", nil, api)
	Operation    = define("operation", "operation", "operations", API, operation)
	Account      = define("account", "account", "accounts", nil, account)
	App          = define("app", "app", "apps", Account, app)
	Credential   = define("credential", "credential", "credentials", App, credential)
	Product      = define("product", "product", "products", nil, product)
	Plan         = define("plan", "plan", "plans", Product, plan)
	PlanVersion  = define("plan_version", "version of a plan", "versions", Plan, planVersion)
	Subscription = define("subscription", "subscription", "subscriptions", Account, subscription)
	Token        = define("token", "access token", "tokens", nil, token)
)

// All are the kinds, in the order of their ranks.
var All = []*Kind{
	LegalEntity, Environment, Meter, API, Operation, Account, App, Credential,
	Product, Plan, PlanVersion, Subscription, Token,
}

var (
	byID      = map[string]*Kind{}
	byPattern = map[string]*Kind{}
)

func init() {
	for rank, k := range All {
		k.Rank = rank
		byID[k.ID] = k
		byPattern[k.pattern()] = k
	}
}

func define(id, noun, segment string, parent *Kind, s spec) *Kind {
	field := (&catalogv1.Resource{}).ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(id))
	return &Kind{ID: id, Noun: noun, Segment: segment, Parent: parent, spec: s, field: field}
}

// ByID finds a kind by its id.
func ByID(id string) (*Kind, bool) {
	k, ok := byID[id]
	return k, ok
}

// New makes an empty message.
func (k *Kind) New() proto.Message { return k.mutable(&catalogv1.Resource{}) }

func (k *Kind) mutable(r *catalogv1.Resource) proto.Message {
	return r.ProtoReflect().Mutable(k.field).Message().Interface()
}

// Descriptor describes the message.
func (k *Kind) Descriptor() protoreflect.MessageDescriptor { return k.field.Message() }

// Wrap makes a Resource of a message of this kind; nil stays nil.
func (k *Kind) Wrap(m proto.Message) *catalogv1.Resource {
	if m == nil {
		return nil
	}
	r := &catalogv1.Resource{}
	r.ProtoReflect().Set(k.field, protoreflect.ValueOfMessage(m.ProtoReflect()))
	return r
}

// Unwrap takes the message out of a Resource; false when there is none.
func Unwrap(r *catalogv1.Resource) (*Kind, proto.Message, bool) {
	m := r.ProtoReflect()
	field := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind"))
	if field == nil {
		return nil, nil, false
	}
	return byID[string(field.Name())], m.Get(field).Message().Interface(), true
}

// pattern is the shape of the names: "accounts/*/apps/*".
func (k *Kind) pattern() string {
	own := k.Segment + "/*"
	if k.Parent == nil {
		return own
	}
	return k.Parent.pattern() + "/" + own
}

// Pattern is the shape of the names, as people write it: accounts/{account}.
func (k *Kind) Pattern() string {
	own := k.Segment + "/{" + strings.TrimPrefix(k.ID, "plan_") + "}"
	if k.Parent == nil {
		return own
	}
	return k.Parent.Pattern() + "/" + own
}

const idRule = "must be lower-case letters, digits and hyphens, beginning with a letter and not ending with a hyphen, at most 63"

var (
	idPattern     = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	numberPattern = regexp.MustCompile(`^[1-9][0-9]{0,8}$`)
)

// CheckID says what is wrong with the last part of a name, "" if nothing is.
func (k *Kind) CheckID(id string) string {
	switch {
	case k.numbered && !numberPattern.MatchString(id):
		return "must be a number from 1 on"
	case !k.numbered && !idPattern.MatchString(id):
		return idRule
	}
	return ""
}

// Name joins a parent and an id.
func (k *Kind) Name(parent, id string) string {
	name := k.Segment + "/" + id
	if parent != "" {
		name = parent + "/" + name
	}
	return name
}

// Of finds the kind of a resource name. With an error, the kind is that of the
// name's shape, if it has one.
func Of(name string) (*Kind, error) {
	segments := strings.Split(name, "/")
	shape := strings.Split(name, "/")
	for i := 1; i < len(shape); i += 2 {
		shape[i] = "*"
	}
	k, ok := byPattern[strings.Join(shape, "/")]
	if !ok {
		return nil, fmt.Errorf("%q is no name of a resource", name)
	}
	for i, at := len(segments)-1, k; at != nil; i, at = i-2, at.Parent {
		if wrong := at.CheckID(segments[i]); wrong != "" {
			return k, fmt.Errorf("%q in %q %s", segments[i], name, wrong)
		}
	}
	return k, nil
}

// CheckName says what is wrong with a name of this kind.
func (k *Kind) CheckName(name string) error {
	got, err := Of(name)
	if got != k {
		return fmt.Errorf("%q is no name of this kind, which are like %s", name, k.Pattern())
	}
	return err
}

// Any is the id that stands for all in the parent of a list.
const Any = "-"

// CheckParents says what is wrong with the parent of a list, in which Any may
// stand for ids.
func (k *Kind) CheckParents(parent string) error {
	if k.Parent == nil {
		if parent != "" {
			return errors.New("this kind has no parent")
		}
		return nil
	}
	concrete := strings.Split(parent, "/")
	for i := 1; i < len(concrete); i += 2 {
		if concrete[i] == Any {
			concrete[i] = k.sample(len(concrete), i)
		}
	}
	if err := k.Parent.CheckName(strings.Join(concrete, "/")); err != nil {
		return fmt.Errorf("%q is no parent of this kind, which are like %s", parent, k.Parent.Pattern())
	}
	return nil
}

// sample is an id that fits at a place in the parent's name.
func (k *Kind) sample(segments, at int) string {
	of := k.Parent
	for i := segments - 1; i > at && of.Parent != nil; i -= 2 {
		of = of.Parent
	}
	if of.numbered {
		return "1"
	}
	return "a"
}

// Split takes a name apart into its parent's name, "" at the top, and its id.
func Split(name string) (parent, id string) {
	slash := strings.LastIndexByte(name, '/')
	if slash < 0 {
		return "", name
	}
	rest, id := name[:slash], name[slash+1:]
	if collection := strings.LastIndexByte(rest, '/'); collection >= 0 {
		return rest[:collection], id
	}
	return "", id
}

// AccountOf is the account that a name lies in, "" for none.
func AccountOf(name string) string {
	if !strings.HasPrefix(name, "accounts/") {
		return ""
	}
	parts := strings.SplitN(name, "/", 3)
	return parts[0] + "/" + parts[1]
}

// Reference is a field that names another resource.
type Reference struct {
	Field, Target string
	// Kinds are those that it may name.
	Kinds []*Kind
}

// References lists what a resource refers to, apart from its parent.
func (k *Kind) References(m proto.Message) []Reference {
	if k.references == nil {
		return nil
	}
	refs := k.references(m)
	out := refs[:0]
	for _, r := range refs {
		if r.Target != "" {
			out = append(out, r)
		}
	}
	return out
}

// UniqueKey is something that only one resource may have.
type UniqueKey struct{ Field, Key, What string }

// UniqueKeys lists what no other resource may have.
func (k *Kind) UniqueKeys(m proto.Message) []UniqueKey {
	if k.uniqueKeys == nil {
		return nil
	}
	return k.uniqueKeys(m)
}

// Kept lists the fields that an applied resource leaves as they are when it
// does not set them.
func (k *Kind) Kept() []string { return k.kept }

// with makes a function on messages of one type fit the table.
func with[M proto.Message, R any](f func(M) R) func(proto.Message) R {
	return func(m proto.Message) R { return f(m.(M)) }
}

func changes[M proto.Message](f func(M)) func(proto.Message) {
	return func(m proto.Message) { f(m.(M)) }
}

func checks[M proto.Message](f func(M, *Violations)) func(proto.Message, *Violations) {
	return func(m proto.Message, v *Violations) { f(m.(M), v) }
}
