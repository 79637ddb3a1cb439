package catalog

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/keys"
	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/catalog/store"
	"github.com/tollway/tollway/services/platform/auth"
	"github.com/tollway/tollway/sql"
)

// hook is what is particular to a kind and cannot be told from the message
// alone. Each function may be missing.
type hook struct {
	// adopt gives to what was not said the value that it is taken as; before is
	// nil for a new resource.
	adopt func(u *unit, before, m kind.Resource)
	// begin completes a new resource, and makes its secret.
	begin func(ctx context.Context, u *unit, m kind.Resource) (secret, error)
	// frozen refuses what cannot change whatever it is changed to.
	frozen func(before kind.Resource, fields []string) error
	// change judges, and completes, a change of these fields.
	change func(ctx context.Context, u *unit, before, after kind.Resource, fields []string) error
	// end judges a deletion.
	end func(u *unit, m kind.Resource) error
	// stored writes what stands beside the resource.
	stored func(ctx context.Context, u *unit, m kind.Resource) error
}

var hooks map[*kind.Kind]hook

func init() {
	hooks = map[*kind.Kind]hook{
		kind.App:          {begin: beginApp},
		kind.Credential:   {begin: beginCredential, change: changeCredential},
		kind.Token:        {begin: beginToken, change: changeToken},
		kind.PlanVersion:  {begin: beginPlanVersion, frozen: frozenPlanVersion, change: changePlanVersion},
		kind.Subscription: {adopt: adoptSubscription, begin: beginSubscription, change: changeSubscription, end: endSubscription, stored: storedSubscription},
	}
}

// secret is what was made for a resource, to be shown once.
type secret struct {
	store.Secret
	text string
}

// reveal puts the secret into a copy that goes to the caller and nowhere else.
// A dry run makes none.
func (u *unit) reveal(m kind.Resource, s secret) kind.Resource {
	if s.text == "" || u.dry {
		return m
	}
	shown := proto.Clone(m).(kind.Resource)
	switch m := shown.(type) {
	case *catalogv1.Credential:
		m.GetApiKey().Key = s.text
	case *catalogv1.Token:
		m.Token = s.text
	}
	return shown
}

func beginApp(ctx context.Context, u *unit, m kind.Resource) (secret, error) {
	return secret{}, u.limit(ctx, kind.App, m, u.s.cfg.MaxApps)
}

func beginCredential(ctx context.Context, u *unit, m kind.Resource) (secret, error) {
	c := m.(*catalogv1.Credential)
	if err := u.expiresFirst(c.GetExpireTime()); err != nil {
		return secret{}, err
	}
	if revoked := c.GetRevokeTime(); revoked != nil && revoked.AsTime().After(u.now) {
		return secret{}, wrong("revoke_time", "is in the future")
	}
	if err := u.limit(ctx, kind.Credential, m, u.s.cfg.MaxCredentials); err != nil {
		return secret{}, err
	}
	if c.GetApiKey() == nil {
		// Whoever claims a client id, a subject or a certificate gets the calls
		// that are made with it, so somebody has to look at the claim.
		if u.who.consumer() {
			return secret{}, denied("a consumer can make API keys only; ask the operator for other credentials")
		}
		return secret{}, nil
	}
	key, prefix, err := keys.New()
	if err != nil {
		return secret{}, err
	}
	c.GetApiKey().Prefix = prefix
	if len(u.s.hashKey) == 0 {
		return secret{}, errors.New("make an API key: the hash key was not read: Prepare comes before the first request")
	}
	hash := u.s.hashKey.Hash(key)
	return secret{store.Secret{Key: "api_key:" + hex.EncodeToString(hash), Hash: hash}, key}, nil
}

func changeCredential(_ context.Context, u *unit, before, after kind.Resource, fields []string) error {
	b, a := before.(*catalogv1.Credential), after.(*catalogv1.Credential)
	if !contains(fields, "expire_time") {
		return nil
	}
	if b.GetRevokeTime() != nil {
		return precondition("%s is revoked", b.GetName())
	}
	return u.future("expire_time", a.GetExpireTime())
}

func beginToken(_ context.Context, u *unit, m kind.Resource) (secret, error) {
	t := m.(*catalogv1.Token)
	if err := u.expiresFirst(t.GetExpireTime()); err != nil {
		return secret{}, err
	}
	if err := u.who.lends(t.GetScopes()); err != nil {
		return secret{}, err
	}
	text, hash, err := auth.NewToken(auth.Role(t.GetRole()))
	if err != nil {
		return secret{}, err
	}
	return secret{store.Secret{Key: "token:" + hex.EncodeToString(hash[:]), Hash: hash[:]}, text}, nil
}

func changeToken(_ context.Context, u *unit, _, after kind.Resource, fields []string) error {
	if contains(fields, "role") || contains(fields, "scopes") {
		if err := u.who.lends(after.(*catalogv1.Token).GetScopes()); err != nil {
			return err
		}
	}
	if !contains(fields, "expire_time") {
		return nil
	}
	return u.future("expire_time", after.(*catalogv1.Token).GetExpireTime())
}

// expiresFirst refuses a new resource that has expired, unless a file brings it
// from an installation where it was used before.
func (u *unit) expiresFirst(t *timestamppb.Timestamp) error {
	if u.transitions {
		return nil
	}
	return u.future("expire_time", t)
}

// future refuses a moment that has passed.
func (u *unit) future(field string, t *timestamppb.Timestamp) error {
	if t != nil && !t.AsTime().After(u.now) {
		return wrong(field, "is in the past")
	}
	return nil
}

var resourceCount = sql.LedgerQuery("resource_count")

// limit bounds what an account's own people can make.
func (u *unit) limit(ctx context.Context, k *kind.Kind, m kind.Resource, limit int) error {
	if !u.who.consumer() {
		return nil
	}
	parent, _ := kind.Split(m.GetName())
	var n int
	if err := u.tx.QueryRow(ctx, resourceCount, k.ID, parent).Scan(&n); err != nil {
		return fmt.Errorf("count %s of %s: %w", k.Segment, parent, err)
	}
	if n >= limit {
		return status.Errorf(codes.ResourceExhausted, "%s has %d %s already, which is as many as you can make; delete some or ask the operator", parent, n, k.Segment)
	}
	return nil
}

// contains tells whether a field, or something in it, is among paths.
func contains(paths []string, field string) bool {
	return slices.ContainsFunc(paths, func(p string) bool { return p == field || strings.HasPrefix(p, field+".") })
}
