package catalog

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/catalog/store"
	"github.com/tollway/tollway/services/platform/auth"
)

// caller is who asks.
type caller struct {
	name string
	role auth.Role
	// account is the only one that a consumer has to do with, accounts/ID; empty
	// for every other role.
	account string
	// scopes limit what a token may do; none means no limit.
	scopes []string
}

func callerOf(ctx context.Context) (caller, error) {
	p, ok := auth.FromContext(ctx)
	if !ok {
		return caller{}, status.Error(codes.Unauthenticated, auth.ErrUnauthenticated.Error())
	}
	who := caller{name: p.Name, role: p.Role, scopes: p.Scopes}
	if p.Role != auth.Consumer {
		return who, nil
	}
	if p.Account == "" {
		return caller{}, denied("the caller is tied to an account, and nobody knows which")
	}
	who.account = kind.Account.Name("", strings.TrimPrefix(p.Account, "accounts/"))
	return who, nil
}

func (c caller) consumer() bool { return c.role == auth.Consumer }

// own keeps a consumer to what is in its account. The guard has checked the
// names in the request before; this is for a handler that is called without it.
func (c caller) own(name string) error {
	if c.consumer() && kind.AccountOf(name) != c.account {
		return denied("a consumer may reach its own account only")
	}
	return nil
}

// writes checks that the caller may change resources of a kind. The guard has
// judged the method; this is for methods that touch several kinds. What a
// consumer may do is in the rules of its methods, and what a stranger may do is
// to register.
func (c caller) writes(k *kind.Kind) error {
	rule := accessTo(k).write
	scoped := len(c.scopes) == 0 || slices.Contains(c.scopes, rule.Scope)
	if scoped && (c.consumer() || c.role == auth.Anyone || slices.Contains(rule.Roles, c.role)) {
		return nil
	}
	return denied("role %s, or the token's scopes, do not allow to change resources like %s", c.role, k.Pattern())
}

// reads checks that the caller, who may apply, may see resources of a kind: who
// may change them may, whatever the scopes are.
func (c caller) reads(k *kind.Kind) error {
	rule := accessTo(k).read
	scoped := len(c.scopes) == 0 || slices.Contains(c.scopes, rule.Scope)
	if c.writes(k) == nil || scoped && slices.Contains(rule.Roles, c.role) {
		return nil
	}
	return denied("role %s, or the token's scopes, do not allow to see resources like %s", c.role, k.Pattern())
}

// lends checks that a token gets no more than its maker has: one that is limited
// to scopes makes only tokens that are limited to the same or fewer.
func (c caller) lends(scopes []string) error {
	if len(c.scopes) == 0 {
		return nil
	}
	beyond := func(scope string) bool { return !slices.Contains(c.scopes, scope) }
	if len(scopes) == 0 || slices.ContainsFunc(scopes, beyond) {
		return denied("a token that is limited to scopes can give others no more than these: %s", strings.Join(c.scopes, ", "))
	}
	return nil
}

// author is the caller as the audit log knows it. All entries of one request
// have one id.
func (c caller) author(ctx context.Context) store.Author {
	method, _ := grpc.Method(ctx)
	return store.Author{Actor: c.name, Role: string(c.role), Method: method, RequestID: rand.Text()}
}

// sees tells whether the caller may know of a resource. product is the product
// that a plan or a version belongs to.
func (c caller) sees(m kind.Resource, product *catalogv1.Product) bool {
	if !c.consumer() {
		return true
	}
	switch m := m.(type) {
	case *catalogv1.Product:
		return kind.MaySee(m, c.account)
	case *catalogv1.Plan:
		return product != nil && kind.MaySee(product, c.account)
	case *catalogv1.PlanVersion:
		mine := m.GetAccount() == "" || m.GetAccount() == c.account
		return mine && m.GetState() == catalogv1.PlanVersionState_PUBLISHED && product != nil && kind.MaySee(product, c.account)
	}
	return kind.AccountOf(m.GetName()) == c.account
}
