package catalog

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/catalog/store"
)

func create[M kind.Resource](ctx context.Context, s *Service, k *kind.Kind, parent, id string, m M, dry bool) (M, error) {
	var out M
	err := s.write(ctx, dry, func(u *unit) error {
		if !m.ProtoReflect().IsValid() {
			return wrong(k.ID, "is required")
		}
		name, err := u.nameFor(ctx, k, parent, id, k.ID+"_id")
		if err != nil {
			return err
		}
		if m.GetName() != "" && m.GetName() != name {
			return wrong(k.ID+".name", "is %q, but the parent and the id make %q", m.GetName(), name)
		}
		made, err := u.create(ctx, k, name, m)
		if err != nil {
			return err
		}
		out = present(u.who, u.now, made).(M)
		return nil
	})
	return out, err
}

// nameFor makes a name of the parts of a request.
func (u *unit) nameFor(ctx context.Context, k *kind.Kind, parent, id, field string) (string, error) {
	if k.Parent != nil {
		if err := k.Parent.CheckName(parent); err != nil {
			return "", wrong("parent", "%v", err)
		}
	}
	switch {
	case id != "":
		if text := k.CheckID(id); text != "" {
			return "", wrong(field, "%q %s", id, text)
		}
	case k == kind.PlanVersion:
		next, err := u.nextVersion(ctx, parent)
		if err != nil {
			return "", err
		}
		id = next
	default:
		id = randomID(k)
	}
	return k.Name(parent, id), nil
}

// randomID is an id of 80 random bits that begins with a letter.
func randomID(k *kind.Kind) string {
	return k.ID[:1] + strings.ToLower(rand.Text()[:16])
}

type updateRequest interface {
	GetUpdateMask() *fieldmaskpb.FieldMask
	GetAllowMissing() bool
	GetValidateOnly() bool
}

func update[M kind.Resource](ctx context.Context, s *Service, k *kind.Kind, m M, r updateRequest) (M, error) {
	var out M
	err := s.write(ctx, r.GetValidateOnly(), func(u *unit) error {
		if !m.ProtoReflect().IsValid() {
			return wrong(k.ID, "is required")
		}
		after, err := u.updateMasked(ctx, k, m, r.GetUpdateMask().GetPaths(), r.GetAllowMissing())
		if err != nil {
			return err
		}
		out = present(u.who, u.now, after).(M)
		return nil
	})
	return out, err
}

func (u *unit) updateMasked(ctx context.Context, k *kind.Kind, m kind.Resource, paths []string, allowMissing bool) (kind.Resource, error) {
	before, err := u.find(ctx, k, m.GetName())
	if err != nil {
		return nil, err
	}
	if before == nil {
		switch {
		case !allowMissing:
			return nil, notFound(m.GetName())
		case m.GetEtag() != "":
			return nil, conflict(m.GetName())
		case u.who.consumer() && k == kind.Account:
			return nil, notFound(m.GetName())
		}
		return u.create(ctx, k, m.GetName(), m)
	}
	if err := checkEtag(before, m.GetEtag()); err != nil {
		return nil, err
	}
	after, err := masked(before, m, paths)
	if err != nil {
		return nil, err
	}
	if u.who.consumer() && k == kind.Account {
		for _, path := range k.Diff(before.Message, after) {
			if field, _, _ := strings.Cut(path, "."); !slices.Contains(kind.AccountOwn, field) {
				return nil, denied("a consumer may change %s of its account, not %s", strings.Join(kind.AccountOwn, ", "), path)
			}
		}
	}
	return u.update(ctx, before, after)
}

// masked is the stored message with the fields of a mask as the request has
// them: all that are set for an empty mask, and all for "*".
func masked(before *store.Stored, m kind.Resource, paths []string) (kind.Resource, error) {
	if len(paths) == 1 && paths[0] == "*" {
		return m, nil
	}
	after := proto.Clone(before.Message).(kind.Resource)
	if len(paths) == 0 {
		m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			after.ProtoReflect().Set(f, v)
			return true
		})
		return after, nil
	}
	var v kind.Violations
	for _, path := range paths {
		if err := setPath(after.ProtoReflect(), m.ProtoReflect(), path); err != nil {
			v.Add("update_mask", "%q %v", path, err)
		}
	}
	return after, v.Err()
}

// setPath makes a field, in nested messages or a map, equal to the request's.
func setPath(to, from protoreflect.Message, path string) error {
	head, rest, nested := strings.Cut(path, ".")
	f := to.Descriptor().Fields().ByName(protoreflect.Name(head))
	switch {
	case f == nil:
		return errors.New("is no field of the resource")
	case !nested && from.Has(f):
		to.Set(f, from.Get(f))
	case !nested:
		to.Clear(f)
	case f.IsMap():
		key := protoreflect.ValueOfString(rest).MapKey()
		if value := from.Get(f).Map().Get(key); value.IsValid() {
			to.Mutable(f).Map().Set(key, value)
		} else if to.Has(f) {
			to.Mutable(f).Map().Clear(key)
		}
	case f.IsList() || f.Message() == nil:
		return errors.New("goes into a field that has no parts that can be changed by themselves")
	default:
		return setPath(to.Mutable(f).Message(), from.Get(f).Message(), rest)
	}
	return nil
}

type deleteRequest interface {
	GetName() string
	GetEtag() string
	GetValidateOnly() bool
}

func (s *Service) remove(ctx context.Context, k *kind.Kind, r deleteRequest) (*emptypb.Empty, error) {
	err := s.write(ctx, r.GetValidateOnly(), func(u *unit) error {
		before, err := u.get(ctx, k, r.GetName())
		if err != nil {
			return err
		}
		if err := checkEtag(before, r.GetEtag()); err != nil {
			return err
		}
		return u.remove(ctx, before)
	})
	return &emptypb.Empty{}, err
}
