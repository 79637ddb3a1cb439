package catalog

import (
	"context"
	"maps"
	"time"

	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/catalog/store"
)

const (
	defaultOverlap = 24 * time.Hour
	maxOverlap     = 90 * 24 * time.Hour
)

// RotateCredential makes another API key for the same app and lets the old one
// expire.
func (s *Service) RotateCredential(ctx context.Context, r *catalogv1.RotateCredentialRequest) (*catalogv1.Credential, error) {
	overlap := defaultOverlap
	if r.GetOverlap() != nil {
		overlap = r.GetOverlap().AsDuration()
	}
	if overlap < 0 || overlap > maxOverlap || r.GetOverlap().CheckValid() != nil && r.GetOverlap() != nil {
		return nil, s.status(wrong("overlap", "must be between 0 and %s", maxOverlap))
	}
	var out *catalogv1.Credential
	err := s.write(ctx, false, func(u *unit) error {
		before, err := u.get(ctx, kind.Credential, r.GetName())
		if err != nil {
			return err
		}
		old := before.Message.(*catalogv1.Credential)
		switch {
		case old.GetApiKey() == nil:
			return precondition("%s is no API key", old.GetName())
		case old.GetRevokeTime() != nil:
			return precondition("%s is revoked", old.GetName())
		}
		made, err := u.successor(ctx, old, r.GetCredentialId())
		if err != nil {
			return err
		}
		out = made
		return u.expire(ctx, before, u.now.Add(overlap))
	})
	return out, err
}

// successor makes a key that is like another one. Where that was to expire, the
// new one will live as long.
func (u *unit) successor(ctx context.Context, old *catalogv1.Credential, id string) (*catalogv1.Credential, error) {
	app, _ := kind.Split(old.GetName())
	name, err := u.nameFor(ctx, kind.Credential, app, id, "credential_id")
	if err != nil {
		return nil, err
	}
	next := &catalogv1.Credential{
		DisplayName: old.GetDisplayName(), Labels: maps.Clone(old.GetLabels()),
		Kind: &catalogv1.Credential_ApiKey{ApiKey: &catalogv1.ApiKey{}},
	}
	if expires := old.GetExpireTime(); expires != nil {
		next.ExpireTime = timestamp(u.now.Add(expires.AsTime().Sub(old.GetCreateTime().AsTime())))
	}
	made, err := u.create(ctx, kind.Credential, name, next)
	if err != nil {
		return nil, err
	}
	return made.(*catalogv1.Credential), nil
}

// expire lets a credential end at a moment, unless it ends before.
func (u *unit) expire(ctx context.Context, before *store.Stored, at time.Time) error {
	c := proto.Clone(before.Message).(*catalogv1.Credential)
	if c.GetExpireTime() != nil && !c.GetExpireTime().AsTime().After(at) {
		return nil
	}
	c.ExpireTime = timestamp(at)
	_, err := u.save(ctx, before, c)
	return err
}

// RevokeCredential ends a credential now. Doing it again changes nothing.
func (s *Service) RevokeCredential(ctx context.Context, r *catalogv1.RevokeCredentialRequest) (*catalogv1.Credential, error) {
	var out *catalogv1.Credential
	err := s.write(ctx, false, func(u *unit) error {
		before, err := u.get(ctx, kind.Credential, r.GetName())
		if err != nil {
			return err
		}
		c := proto.Clone(before.Message).(*catalogv1.Credential)
		if out = c; c.GetRevokeTime() != nil {
			return nil
		}
		c.RevokeTime = timestamp(u.now)
		_, err = u.save(ctx, before, c)
		return err
	})
	return out, err
}
