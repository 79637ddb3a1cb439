package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tollway/tollway/services/platform/jwks"
)

// TokenVerifier tells what a JWT says; jwks.Verifier is one.
type TokenVerifier interface {
	Verify(ctx context.Context, token string) (jwks.Claims, error)
}

// Issuers is what a verifier for the configured identity providers is made of.
func (c Config) Issuers() []jwks.Config {
	out := make([]jwks.Config, len(c.OIDC))
	for i, p := range c.OIDC {
		out[i] = p.jwks()
	}
	return out
}

type logins struct {
	verifier  TokenVerifier
	providers map[string]OIDC
}

// Logins makes an authenticator of the tokens of identity providers.
func Logins(providers []OIDC, verifier TokenVerifier) Authenticator {
	l := logins{verifier: verifier, providers: map[string]OIDC{}}
	for _, p := range providers {
		l.providers[p.Issuer] = p
	}
	return l
}

// Authenticate tells who has logged in. Somebody who is known and has no role here
// is forbidden, rather than not authenticated.
func (l logins) Authenticate(ctx context.Context, bearer string) (Principal, error) {
	if strings.Count(bearer, ".") != 2 {
		return Principal{}, ErrUnauthenticated // no JWT
	}
	claims, err := l.verifier.Verify(ctx, bearer)
	if errors.Is(err, jwks.ErrInvalid) {
		return Principal{}, ErrUnauthenticated
	}
	if err != nil {
		return Principal{}, err
	}
	provider := l.providers[claims.Issuer]
	role, ok := provider.role(claims.All)
	if !ok || claims.Subject == "" {
		return Principal{}, fmt.Errorf("%w: the identity provider gives no role here", errForbidden)
	}
	// A subject is unique only together with its issuer.
	p := Principal{Name: claims.Issuer + "#" + claims.Subject, Role: role}
	if role == Consumer {
		account, _ := claim(claims.All, provider.AccountClaim).(string)
		if p.Account = accountID(account); p.Account == "" || strings.Contains(p.Account, "/") {
			return Principal{}, fmt.Errorf("%w: the identity provider gives no account", errForbidden)
		}
	}
	return p, nil
}

// rank is the order in which one of several roles is taken.
var rank = []Role{Admin, ProductManager, Finance, Gateway, Consumer}

func (p OIDC) role(claims map[string]any) (Role, bool) {
	var texts []any
	switch v := claim(claims, p.RoleClaim).(type) {
	case string:
		texts = []any{v}
	case []any:
		texts = v
	}
	has := map[Role]bool{}
	for _, t := range texts {
		if s, ok := t.(string); ok {
			has[p.RoleMap[s]] = true
		}
	}
	for _, r := range rank {
		if has[r] {
			return r, true
		}
	}
	return "", false
}

// claim finds a claim by its name, which may have dots, as in a URL, or by the
// way to it.
func claim(claims map[string]any, name string) any {
	if v, ok := claims[name]; ok {
		return v
	}
	first, rest, ok := strings.Cut(name, ".")
	if !ok {
		return nil
	}
	inner, _ := claims[first].(map[string]any)
	return claim(inner, rest)
}

type certificates map[string]Certificate

// Certificates makes an authenticator of callers who are known by their client
// certificate and send no token. A token that is not good is not made good by a
// certificate.
func Certificates(known []Certificate) Authenticator {
	out := certificates{}
	for _, c := range known {
		out[c.Name] = c
	}
	return out
}

// Authenticate takes the first name of the certificate that is known.
func (c certificates) Authenticate(ctx context.Context, bearer string) (Principal, error) {
	if bearer != "" {
		return Principal{}, ErrUnauthenticated
	}
	for _, name := range CertificateNames(ctx) {
		if k, ok := c[name]; ok {
			return Principal{Name: name, Role: k.Role, Account: accountID(k.Account), Scopes: k.Scopes}, nil
		}
	}
	return Principal{}, ErrUnauthenticated
}
