// Package auth knows who calls and lets through only whom a rule allows. In come
// bearer tokens over gRPC and HTTP; out come principals in the context, or a
// refusal. Tokens are kept as SHA-256 hashes in a file, so neither a copy of the
// file nor a log line gives access. The file is written as a whole before a token
// is shown; a crash loses at most failure counters.
package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc/peer"
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

// Principal is a caller whose token was good. Account is set for consumers: they
// may see nothing but this account.
type Principal struct {
	Name    string
	Role    Role
	Account string
}

// Authenticator tells whose token it is.
type Authenticator interface {
	Authenticate(ctx context.Context, bearer string) (Principal, error)
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

type (
	principalKey struct{}
	remoteKey    struct{}
)

// WithPrincipal puts a caller into the context.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// FromContext returns the caller; false when nobody was authenticated.
func FromContext(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(principalKey{}).(Principal)
	return p, ok
}

// WithRemote tells Authenticate the caller's address where gRPC's peer does not.
func WithRemote(ctx context.Context, address string) context.Context {
	return context.WithValue(ctx, remoteKey{}, address)
}

// remote is the caller's host, or "" when it is not known.
func remote(ctx context.Context) string {
	address, ok := ctx.Value(remoteKey{}).(string)
	if !ok {
		p, ok := peer.FromContext(ctx)
		if !ok || p.Addr == nil {
			return ""
		}
		address = p.Addr.String()
	}
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

const (
	secretBits  = 160
	secretChars = 27 // 62^27 > 2^160
	maxToken    = 128
)

type tokenHash [sha256.Size]byte

// newToken makes tw_<role>_<27 characters of base 62>.
func newToken(role Role) (string, error) {
	prefix, ok := prefixes[role]
	if !ok {
		return "", fmt.Errorf("role is %q, must be admin, product_manager, finance, gateway or consumer", role)
	}
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), secretBits))
	if err != nil {
		return "", fmt.Errorf("make token: %w", err)
	}
	// big.Int writes digits as 0-9a-zA-Z, which is base 62.
	digits := n.Text(62)
	return "tw_" + prefix + "_" + strings.Repeat("0", secretChars-len(digits)) + digits, nil
}

// hashToken is free of allocations. Anything longer than a token can be is not
// hashed at all.
func hashToken(token string) (tokenHash, bool) {
	var buf [maxToken]byte
	if len(token) == 0 || len(token) > len(buf) {
		return tokenHash{}, false
	}
	n := copy(buf[:], token)
	return sha256.Sum256(buf[:n]), true
}

type entry struct {
	principal Principal
	hash      tokenHash
	expires   time.Time
}

// lookup finds a token by its hash. What the map's timing shows is about the hash
// of a guess, from which nothing about a token follows; the last comparison is in
// constant time all the same.
func lookup(entries map[tokenHash]entry, token string, now time.Time) (Principal, bool) {
	hash, ok := hashToken(token)
	if !ok {
		return Principal{}, false
	}
	e, ok := entries[hash]
	if !ok || subtle.ConstantTimeCompare(e.hash[:], hash[:]) != 1 {
		return Principal{}, false
	}
	if !e.expires.IsZero() && !now.Before(e.expires) {
		return Principal{}, false
	}
	return e.principal, true
}

type static map[tokenHash]entry

// Static makes an authenticator of tokens held in memory, for embedded use.
func Static(tokens map[string]Principal) Authenticator {
	s := static{}
	for token, p := range tokens {
		if hash, ok := hashToken(token); ok {
			s[hash] = entry{principal: p, hash: hash}
		}
	}
	return s
}

// Authenticate finds the token among the ones given.
func (s static) Authenticate(_ context.Context, bearer string) (Principal, error) {
	if p, ok := lookup(s, bearer, time.Time{}); ok {
		return p, nil
	}
	return Principal{}, ErrUnauthenticated
}
