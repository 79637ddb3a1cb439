package auth

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// CheckAccount tells whether the caller in the context may see an account, given
// as its id, its resource name or the name of something in it. The error is a
// gRPC status; it does not say whether the account exists. The guard has already
// checked the names in a request: this is for accounts that a handler has found
// out itself.
func CheckAccount(ctx context.Context, account string) error {
	p, ok := FromContext(ctx)
	if !ok {
		return status.Error(codes.Unauthenticated, ErrUnauthenticated.Error())
	}
	if p.Role != Consumer {
		return nil
	}
	if id, _, _ := strings.Cut(accountID(account), "/"); id == "" || id != p.Account {
		return status.Error(codes.PermissionDenied, errForeign.Error())
	}
	return nil
}

var (
	errForeign   = errors.New("a consumer may reach its own account only")
	errNoAccount = errors.New("a consumer's request must name its account")
)

// ownAccount checks what a consumer asks for. Wherever in the request a text
// names an account, it must be the caller's. Where the rule wants it, what the
// request is about (its name or parent, or the name of the resource in it) must
// be in that account.
func ownAccount(rule Rule, account string, request any) error {
	m, ok := request.(proto.Message)
	if !ok || account == "" {
		return errNoAccount
	}
	r := m.ProtoReflect()
	if err := onlyAccount(account, r); err != nil {
		return err
	}
	if rule.OwnAccount {
		return aboutAccount(account, r)
	}
	return nil
}

// aboutAccount finds what the request is about, as the API's names have it:
// name, parent, or RESOURCE.name in an update.
func aboutAccount(account string, m protoreflect.Message) error {
	found := false
	for _, field := range []protoreflect.Name{"name", "parent"} {
		switch value := text(m, field); {
		case value == "":
		case inAccount(account, value):
			found = true
		default:
			return errForeign
		}
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Kind() == protoreflect.MessageKind && !f.IsList() && !f.IsMap() {
			found = found || inAccount(account, text(v.Message(), "name"))
		}
		return true
	})
	if !found {
		return errNoAccount
	}
	return nil
}

func text(m protoreflect.Message, field protoreflect.Name) string {
	f := m.Descriptor().Fields().ByName(field)
	if f == nil || f.Kind() != protoreflect.StringKind || f.Cardinality() == protoreflect.Repeated {
		return ""
	}
	return m.Get(f).String()
}

// inAccount tells whether a resource name is that of the account or of something
// in it. A name with empty or dot segments is neither, whatever a handler might
// make of it.
func inAccount(account, name string) bool {
	rest, ok := strings.CutPrefix(name, accountPrefix+account)
	return ok && (rest == "" || rest[0] == '/' && path.Clean(name) == name)
}

// onlyAccount goes through all of a message.
func onlyAccount(account string, m protoreflect.Message) (err error) {
	if m.Descriptor().FullName() == "google.protobuf.Any" {
		return fmt.Errorf("%w: a request with a message of any type is not for consumers", errForeign)
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			v.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
				if err = onlyAccountIn(account, f.MapKey(), key.Value()); err == nil {
					err = onlyAccountIn(account, f.MapValue(), value)
				}
				return err == nil
			})
		case f.IsList():
			for list, i := v.List(), 0; i < list.Len() && err == nil; i++ {
				err = onlyAccountIn(account, f, list.Get(i))
			}
		default:
			err = onlyAccountIn(account, f, v)
		}
		return err == nil
	})
	return err
}

func onlyAccountIn(account string, f protoreflect.FieldDescriptor, v protoreflect.Value) error {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return onlyAccount(account, v.Message())
	case protoreflect.StringKind:
		s := v.String()
		// A field named account may hold the bare id.
		named := f.Name() == "account" && s != "" && !strings.HasPrefix(s, accountPrefix)
		if named && s != account || strings.HasPrefix(s, accountPrefix) && !inAccount(account, s) {
			return errForeign
		}
	}
	return nil
}
