// Package auth knows who calls and lets through only whom a rule allows. In come
// bearer tokens, JWTs of identity providers and client certificates over gRPC and
// HTTP, and rules; out come principals in the context, or a refusal. A consumer
// reaches nothing but its own account, which is checked here, before any handler.
// Tokens are kept as SHA-256 hashes, so neither a copy of the store nor a log line
// gives access. A file of tokens is written as a whole before a token is shown; a
// crash loses at most failure counters and when tokens were last used.
package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Role is what a principal may do; rules name roles.
type Role string

// The roles. Anyone is for rules only: no token is needed.
const (
	Admin          Role = "admin"
	ProductManager Role = "product_manager"
	Finance        Role = "finance"
	Gateway        Role = "gateway"
	Consumer       Role = "consumer"
	Anyone         Role = "anyone"
)

var prefixes = map[Role]string{Admin: "adm", ProductManager: "pm", Finance: "fin", Gateway: "gw", Consumer: "con"}

// Principal is a caller whose token was good.
type Principal struct {
	// Name says who it is, for the audit log.
	Name string
	Role Role
	// Account is the id, without accounts/, of the one account that a consumer
	// may see; empty for every other role.
	Account string
	// Scopes limit what the token may do below what its role may; none means
	// no limit. Not to be changed: the slice is shared.
	Scopes []string
	// TokenName is the token that was used, "" when there was none.
	TokenName string
}

// Authenticator tells whose token it is. An empty bearer is for those who know
// callers by something else. ErrUnauthenticated means that it does not know the
// caller; another error, that it cannot tell now.
type Authenticator interface {
	Authenticate(ctx context.Context, bearer string) (Principal, error)
}

// accountPrefix begins the resource names of accounts.
const accountPrefix = "accounts/"

// everyAccount stands for all accounts where a request may name several.
const everyAccount = "-"

// accountID takes the id out of a resource name, or leaves an id as it is. A
// caller whose account, as some identity provider says, is every account has none.
func accountID(account string) string {
	id := strings.TrimPrefix(account, accountPrefix)
	if id == everyAccount {
		return ""
	}
	return id
}

// ErrUnauthenticated is the answer to a token that is missing, unknown or expired:
// the caller is not told which.
var ErrUnauthenticated = errors.New("a valid bearer token is needed")

// LockedOutError is the answer to an address that failed too often.
type LockedOutError struct{ RetryAfter time.Duration }

// Error says how long to wait.
func (e *LockedOutError) Error() string {
	return fmt.Sprintf("too many failed attempts, try again in %s", e.RetryAfter.Round(time.Second))
}

type principalKey struct{}

// WithPrincipal puts a caller into the context.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// FromContext returns the caller; false when nobody was authenticated.
func FromContext(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(principalKey{}).(Principal)
	return p, ok
}
