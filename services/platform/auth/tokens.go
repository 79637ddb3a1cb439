package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	secretBits  = 160
	secretChars = 27 // 62^27 > 2^160
	maxToken    = 128
)

type tokenHash [sha256.Size]byte

// NewToken makes tw_<role>_<27 characters of base 62>, and the hash to keep of it.
//
// The hash has no salt and no key. Those slow down whoever has stolen the hashes
// and guesses what people choose as passwords. Here 160 random bits are guessed,
// which no table and no machine gets through, and a key would be one more secret
// to lose.
func NewToken(role Role) (token string, hash [sha256.Size]byte, err error) {
	prefix, ok := prefixes[role]
	if !ok {
		return "", hash, fmt.Errorf("role is %q, must be admin, product_manager, finance, gateway or consumer", role)
	}
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), secretBits))
	if err != nil {
		return "", hash, fmt.Errorf("make token: %w", err)
	}
	// big.Int writes digits as 0-9a-zA-Z, which is base 62.
	digits := n.Text(62)
	token = "tw_" + prefix + "_" + strings.Repeat("0", secretChars-len(digits)) + digits
	return token, sha256.Sum256([]byte(token)), nil
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
			p.Account = accountID(p.Account)
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

// TokenRecord is what a store keeps of a token.
type TokenRecord struct {
	Name string
	Role Role
	// Account is an account's id or resource name, for consumers only.
	Account  string
	Scopes   []string
	NotAfter time.Time // zero: never expires
	Revoked  bool
}

// TokenSource is where tokens are kept, by the SHA-256 of their text. Lookup is
// asked with every call, so it answers from memory.
type TokenSource interface {
	Lookup(hash [sha256.Size]byte) (TokenRecord, bool)
}

// StoredTokens authenticates against a TokenSource and remembers when each token
// was last used.
type StoredTokens struct {
	source TokenSource
	now    func() time.Time

	mu   sync.RWMutex
	used map[string]*atomic.Int64 // Unix seconds
}

// maxUsed bounds what is remembered when nobody asks for it.
const maxUsed = 100_000

// NewStoredTokens makes an authenticator of the tokens of a source.
func NewStoredTokens(source TokenSource) *StoredTokens {
	return &StoredTokens{source: source, now: time.Now, used: map[string]*atomic.Int64{}}
}

// Authenticate finds the token in the source. That the source found it by its
// hash is the comparison: its time tells about hashes of guesses only.
func (t *StoredTokens) Authenticate(_ context.Context, bearer string) (Principal, error) {
	hash, ok := hashToken(bearer)
	if !ok {
		return Principal{}, ErrUnauthenticated
	}
	r, ok := t.source.Lookup(hash)
	now := t.now()
	if !ok || r.Revoked || !r.NotAfter.IsZero() && !now.Before(r.NotAfter) {
		return Principal{}, ErrUnauthenticated
	}
	// A source that is wrong about a role or an account opens nothing.
	if _, ok := prefixes[r.Role]; !ok || (r.Role == Consumer) != (r.Account != "") {
		return Principal{}, ErrUnauthenticated
	}
	t.use(r.Name, now.Unix())
	return Principal{Name: r.Name, Role: r.Role, Account: accountID(r.Account), Scopes: r.Scopes, TokenName: r.Name}, nil
}

func (t *StoredTokens) use(name string, second int64) {
	t.mu.RLock()
	at := t.used[name]
	if at != nil && at.Load() < second {
		at.Store(second)
	}
	t.mu.RUnlock()
	if at != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.used[name] == nil && len(t.used) < maxUsed {
		t.used[name] = new(atomic.Int64)
		t.used[name].Store(second)
	}
}

// LastUsed returns when the tokens were last used, by name, to the second: those
// that were used since it was last called.
func (t *StoredTokens) LastUsed() map[string]time.Time {
	t.mu.Lock()
	used := t.used
	t.used = make(map[string]*atomic.Int64, len(used))
	t.mu.Unlock()
	out := make(map[string]time.Time, len(used))
	for name, at := range used {
		out[name] = time.Unix(at.Load(), 0)
	}
	return out
}
