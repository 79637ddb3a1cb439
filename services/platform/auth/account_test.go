package auth

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	_ "google.golang.org/protobuf/types/known/anypb" // the descriptor below needs it
	"pgregory.net/rapid"
)

// The shapes that requests have: a name, a parent, a resource to be made or
// changed, and texts in lists, maps and messages below.
const shapes = `
name: "test.proto" syntax: "proto3" package: "test" dependency: "google/protobuf/any.proto"
message_type {
  name: "Resource"
  field { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "name" }
  field { name: "account" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "account" }
  field { name: "peers" number: 3 type: TYPE_STRING label: LABEL_REPEATED json_name: "peers" }
  field { name: "labels" number: 4 type: TYPE_MESSAGE type_name: ".test.Resource.LabelsEntry" label: LABEL_REPEATED json_name: "labels" }
  field { name: "children" number: 5 type: TYPE_MESSAGE type_name: ".test.Resource" label: LABEL_REPEATED json_name: "children" }
  field { name: "detail" number: 6 type: TYPE_MESSAGE type_name: ".google.protobuf.Any" label: LABEL_OPTIONAL json_name: "detail" }
  nested_type {
    name: "LabelsEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "key" }
    field { name: "value" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "value" }
  }
}
message_type {
  name: "Request"
  field { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "name" }
  field { name: "parent" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "parent" }
  field { name: "resource" number: 3 type: TYPE_MESSAGE type_name: ".test.Resource" label: LABEL_OPTIONAL json_name: "resource" }
  field { name: "page_size" number: 4 type: TYPE_INT32 label: LABEL_OPTIONAL json_name: "pageSize" }
}
message_type { name: "Bare" field { name: "name" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL json_name: "name" } }
`

func requestTypes(t testing.TB) (request, bare protoreflect.MessageDescriptor) {
	t.Helper()
	var file descriptorpb.FileDescriptorProto
	if err := prototext.Unmarshal([]byte(shapes), &file); err != nil {
		t.Fatal(err)
	}
	built, err := protodesc.NewFile(&file, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	return built.Messages().ByName("Request"), built.Messages().ByName("Bare")
}

func message(t testing.TB, d protoreflect.MessageDescriptor, text string) proto.Message {
	t.Helper()
	m := dynamicpb.NewMessage(d)
	if err := prototext.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return m
}

func TestOwnAccount(t *testing.T) {
	request, bare := requestTypes(t)
	g, err := NewGuard(nil, Rules{
		"/s/Own":  {Roles: []Role{Admin, Consumer}, OwnAccount: true},
		"/s/Self": {Roles: []Role{Consumer}, SelfScoped: true},
		"/s/Any":  only(Anyone),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		text      string
		own, self bool
	}{
		{`name: "accounts/acme"`, true, true},
		{`name: "accounts/acme/apps/x"`, true, true},
		{`parent: "accounts/acme"`, true, true},
		{`parent: "accounts/acme" resource { name: "" }`, true, true},
		{`resource { name: "accounts/acme/apps/x" account: "acme" }`, true, true},
		{`resource { name: "accounts/acme/apps/x" account: "accounts/acme" peers: "accounts/acme/apps/y" labels { key: "a" value: "b" } }`, true, true},
		{`parent: "accounts/acme" resource { peers: "products/gold" }`, true, true},

		{``, false, true},
		{`page_size: 3`, false, true},
		{`name: "products/gold"`, false, true},
		{`name: "products/gold" resource { name: "accounts/acme/apps/x" }`, false, true},
		{`name: "accounts/acme" parent: "products/gold"`, false, true},
		{`resource { account: "acme" }`, false, true},
		{`resource { children { name: "accounts/acme/apps/x" } }`, false, true},
		{`name: "Accounts/acme"`, false, true},

		{`name: "accounts/hooli"`, false, false},
		{`name: "accounts/acme2"`, false, false},
		{`name: "accounts/acm"`, false, false},
		{`name: "accounts/"`, false, false},
		{`name: "accounts/-"`, false, false},
		{`parent: "accounts/-"`, false, false},
		{`name: "accounts//acme"`, false, false},
		{`name: "accounts/acme/../hooli"`, false, false},
		{`name: "accounts/acme/apps/../../hooli/apps/x"`, false, false},
		{`name: "accounts/acme//apps/x"`, false, false},
		{`name: "accounts/acme/"`, false, false},
		{`name: "accounts/acme" parent: "accounts/hooli"`, false, false},
		{`name: "accounts/acme" resource { name: "accounts/hooli/apps/x" }`, false, false},
		{`name: "accounts/acme" resource { account: "hooli" }`, false, false},
		{`name: "accounts/acme" resource { account: "accounts/hooli" }`, false, false},
		{`name: "accounts/acme" resource { peers: "accounts/acme/apps/x" peers: "accounts/hooli/apps/x" }`, false, false},
		{`name: "accounts/acme" resource { labels { key: "x" value: "accounts/hooli" } }`, false, false},
		{`name: "accounts/acme" resource { labels { key: "accounts/hooli" value: "x" } }`, false, false},
		{`name: "accounts/acme" resource { children { children { name: "accounts/hooli" } } }`, false, false},
		{`name: "accounts/acme" resource { detail { type_url: "x" } }`, false, false},
	} {
		m := message(t, request, tc.text)
		for method, want := range map[string]bool{"/s/Own": tc.own, "/s/Self": tc.self, "/s/Any": true} {
			err := g.AllowedRequest(method, consumerP, m)
			if (err == nil) != want || err != nil && status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s {%s}: %v", method, tc.text, err)
			}
		}
		if err := g.AllowedRequest("/s/Own", adminP, m); err != nil {
			t.Errorf("admin {%s}: %v", tc.text, err)
		}
		if err := g.AllowedRequest("/s/Own", Principal{Role: Consumer}, m); err == nil {
			t.Errorf("a consumer without account {%s}", tc.text)
		}
	}
	if err := g.AllowedRequest("/s/Own", consumerP, message(t, bare, `name: 7`)); err == nil {
		t.Error("a name that is a number")
	}
	if err := g.AllowedRequest("/s/Own", consumerP, "no message"); err == nil {
		t.Error("what is no message")
	}
	if err := g.AllowedRequest("/s/None", adminP, message(t, request, ``)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a method without a rule: %v", err)
	}
}

// Wherever the name of a foreign account is put into a request that would be
// allowed, it is refused.
func TestForeignAccountAnywhere(t *testing.T) {
	request, _ := requestTypes(t)
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SampledFrom([]string{"", "x", "products/gold", "accounts/acme", "accounts/acme/apps/x"})
		put, foreign := rapid.Bool().Draw(t, "foreign"), 0
		text := func(label string) string {
			if put && rapid.IntRange(0, 3).Draw(t, label+"?") == 0 {
				foreign++
				return rapid.SampledFrom([]string{"accounts/hooli", "accounts/hooli/apps/x", "accounts/acmeacme", "accounts/-"}).Draw(t, label)
			}
			return texts.Draw(t, label)
		}
		var fill func(m protoreflect.Message, depth int)
		fill = func(m protoreflect.Message, depth int) {
			fields := m.Descriptor().Fields()
			m.Set(fields.ByName("name"), protoreflect.ValueOfString(text("name")))
			peers := m.Mutable(fields.ByName("peers")).List()
			for range rapid.IntRange(0, 2).Draw(t, "peers") {
				peers.Append(protoreflect.ValueOfString(text("peer")))
			}
			labels := m.Mutable(fields.ByName("labels")).Map()
			if rapid.Bool().Draw(t, "labels") {
				labels.Set(protoreflect.ValueOfString("label").MapKey(), protoreflect.ValueOfString(text("label")))
			}
			children := m.Mutable(fields.ByName("children")).List()
			for range rapid.IntRange(0, 2-depth).Draw(t, "children") {
				child := children.NewElement()
				fill(child.Message(), depth+1)
				children.Append(child)
			}
		}
		m := dynamicpb.NewMessage(request)
		m.Set(request.Fields().ByName("parent"), protoreflect.ValueOfString("accounts/acme"))
		fill(m.Mutable(request.Fields().ByName("resource")).Message(), 0)
		err := ownAccount(Rule{OwnAccount: true}, "acme", m)
		if (err != nil) != (foreign > 0) {
			t.Fatalf("%v with %d foreign names: %v", m, foreign, err)
		}
	})
}

func TestCheckAccount(t *testing.T) {
	as := func(p Principal) context.Context { return WithPrincipal(context.Background(), p) }
	for _, tc := range []struct {
		ctx     context.Context
		account string
		want    codes.Code
	}{
		{as(adminP), "hooli", codes.OK}, {as(adminP), "", codes.OK},
		{as(consumerP), "acme", codes.OK}, {as(consumerP), "accounts/acme", codes.OK}, {as(consumerP), "accounts/acme/apps/x", codes.OK},
		{as(consumerP), "hooli", codes.PermissionDenied}, {as(consumerP), "accounts/hooli/apps/acme", codes.PermissionDenied},
		{as(consumerP), "acme2", codes.PermissionDenied}, {as(consumerP), "", codes.PermissionDenied}, {as(consumerP), "accounts/", codes.PermissionDenied},
		{as(Principal{Role: Consumer}), "", codes.PermissionDenied},
		{context.Background(), "acme", codes.Unauthenticated},
	} {
		if err := CheckAccount(tc.ctx, tc.account); status.Code(err) != tc.want {
			t.Errorf("%q: %v", tc.account, err)
		}
	}
}

// What comes on a stream is checked message by message.
func TestStreamedRequests(t *testing.T) {
	request, _ := requestTypes(t)
	g, err := NewGuard(answers(func(string) (Principal, error) { return consumerP, nil }),
		Rules{"/s/Watch": {Roles: []Role{Consumer}, OwnAccount: true}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]codes.Code{"accounts/acme": codes.OK, "accounts/hooli": codes.PermissionDenied, "": codes.PermissionDenied} {
		in := &incoming{message: message(t, request, `name: "`+name+`"`)}
		err := g.Stream()(nil, in, &grpc.StreamServerInfo{FullMethod: "/s/Watch"}, func(_ any, s grpc.ServerStream) error {
			return s.RecvMsg(dynamicpb.NewMessage(request))
		})
		if status.Code(err) != want {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// A stream that was let in ends when its caller's token does.
func TestStreamOfARevokedToken(t *testing.T) {
	request, _ := requestTypes(t)
	acme := Principal{Name: "tokens/a", Role: Consumer, Account: "acme"}
	other, demoted := acme, acme
	other.Account, demoted.Role = "hooli", Gateway
	for name, c := range map[string]struct {
		after time.Duration
		p     Principal
		err   error
		want  codes.Code
	}{
		"still good":        {2 * time.Second, acme, nil, codes.OK},
		"revoked":           {time.Second, Principal{}, ErrUnauthenticated, codes.Unauthenticated},
		"revoked just now":  {time.Second / 2, Principal{}, ErrUnauthenticated, codes.OK},
		"clock put back":    {-time.Minute, Principal{}, ErrUnauthenticated, codes.Unauthenticated},
		"cannot be judged":  {time.Hour, Principal{}, errors.New("no keys"), codes.OK},
		"of another role":   {time.Hour, demoted, nil, codes.PermissionDenied},
		"of another person": {time.Hour, other, nil, codes.Unauthenticated},
	} {
		now, answer, failure := time.Unix(1e9, 0), acme, error(nil)
		g, err := NewGuard(answers(func(string) (Principal, error) { return answer, failure }),
			Rules{"/s/Watch": {Roles: []Role{Consumer}, SelfScoped: true}})
		if err != nil {
			t.Fatal(err)
		}
		g.now = func() time.Time { return now }
		in := &incoming{message: message(t, request, `name: "accounts/acme"`)}
		err = g.Stream()(nil, in, &grpc.StreamServerInfo{FullMethod: "/s/Watch"}, func(_ any, s grpc.ServerStream) error {
			if err := s.RecvMsg(dynamicpb.NewMessage(request)); err != nil {
				t.Errorf("%s: the first message: %v", name, err)
			}
			now, answer, failure = now.Add(c.after), c.p, c.err
			return s.RecvMsg(dynamicpb.NewMessage(request))
		})
		if status.Code(err) != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

// incoming is a stream on which one message arrives.
type incoming struct {
	grpc.ServerStream
	message proto.Message
}

func (s *incoming) Context() context.Context { return context.Background() }

func (s *incoming) RecvMsg(m any) error {
	proto.Merge(m.(proto.Message), s.message)
	return nil
}

func BenchmarkOwnAccount(b *testing.B) {
	request, _ := requestTypes(b)
	m := message(b, request, `parent: "accounts/acme" resource { name: "accounts/acme/apps/x" `+strings.Repeat(`peers: "x" `, 20)+`}`)
	b.ReportAllocs()
	for b.Loop() {
		if err := ownAccount(Rule{OwnAccount: true}, "acme", m); err != nil {
			b.Fatal(err)
		}
	}
}
