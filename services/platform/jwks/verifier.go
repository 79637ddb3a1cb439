// Package jwks verifies JSON Web Tokens against the key sets of their issuers. In
// come tokens; out come their claims, or why they are not believed. Key sets are
// fetched from a URL or read from a file, kept in memory, fetched again in time
// and when a token names a key that is not known, but never as often as somebody
// who makes up keys would like. A crash loses the cached keys, which are fetched
// again.
package jwks

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

const (
	maxToken = 8 << 10
	leeway   = time.Minute
	// maxVerified tokens, twice at most, are remembered, so that a token that
	// comes with every call is not verified with every call.
	maxVerified = 4096
)

var (
	// ErrInvalid means that a token is not to be believed; errors that wrap it say
	// why, for logs.
	ErrInvalid = errors.New("token is not valid")
	// ErrUnavailable means that a token cannot be judged, since there are no keys
	// or only old ones.
	ErrUnavailable = errors.New("keys are not available")
)

// Claims is what a token says. It is shared and must not be changed.
type Claims struct {
	Issuer  string
	Subject string
	Expires time.Time
	// All claims, these included, as encoding/json decodes them.
	All map[string]any
}

// Deps is what a verifier works with.
type Deps struct {
	Clock    func() time.Time // nil: the clock
	Registry prometheus.Registerer
	Logger   zerolog.Logger
}

// Verifier knows some issuers.
type Verifier struct {
	issuers    map[string]*issuer
	algorithms []jose.SignatureAlgorithm // of any issuer
	now        func() time.Time

	mu         sync.RWMutex
	young, old map[[sha256.Size]byte]verified
}

type issuer struct {
	store      store
	audiences  jwt.Audience
	algorithms []jose.SignatureAlgorithm
	period     time.Duration
}

type verified struct {
	claims Claims
	issuer *issuer
	keys   *keySet
}

// New makes a verifier. It can be used at once; Run keeps its keys fresh.
func New(issuers []Config, deps Deps) (*Verifier, error) {
	if deps.Clock == nil {
		deps.Clock = time.Now
	}
	fetches, err := registered(deps.Registry, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tollway_jwks_fetches_total", Help: "Attempts to read an issuer's keys, by issuer and result (ok or error).",
	}, []string{"issuer", "result"}))
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true // nothing is left open between rare fetches
	client := &http.Client{
		Transport: transport,
		Timeout:   fetchTimeout,
		// Who issues tokens names the place of the keys; a redirect would name another.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	v := &Verifier{issuers: map[string]*issuer{}, now: deps.Clock, young: map[[sha256.Size]byte]verified{}}
	for _, cfg := range issuers {
		if err := cfg.Validate(); err != nil {
			return nil, fmt.Errorf("issuer %q: %w", cfg.Issuer, err)
		}
		if v.issuers[cfg.Issuer] != nil {
			return nil, fmt.Errorf("issuer %q is there twice", cfg.Issuer)
		}
		i := &issuer{audiences: cfg.Audiences, algorithms: cfg.algorithms(), period: refreshEvery}
		i.store.load, i.store.now = fromURL(client, cfg.URL), deps.Clock
		if cfg.File != "" {
			i.store.load, i.period = fromFile(cfg.File), unknownEvery
		}
		log := deps.Logger.With().Str("issuer", cfg.Issuer).Logger()
		ok, failed := fetches.WithLabelValues(cfg.Issuer, "ok"), fetches.WithLabelValues(cfg.Issuer, "error")
		i.store.report = func(err error, changed bool) {
			if err != nil {
				failed.Inc()
				log.Error().Err(err).Msg("the issuer's keys cannot be read; known keys are used for some hours")
				return
			}
			ok.Inc()
			if changed {
				log.Info().Int("keys", len(i.store.current.Load().keys)).Msg("read the issuer's keys")
			}
		}
		v.issuers[cfg.Issuer] = i
		for _, a := range i.algorithms {
			if !slices.Contains(v.algorithms, a) {
				v.algorithms = append(v.algorithms, a)
			}
		}
	}
	return v, nil
}

// registered registers a collector, or returns the one that another verifier of
// the process has registered.
func registered[C prometheus.Collector](reg prometheus.Registerer, c C) (C, error) {
	err := reg.Register(c)
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) {
		if existing, ok := there.ExistingCollector.(C); ok {
			return existing, nil
		}
	}
	if err != nil {
		return c, fmt.Errorf("register metrics: %w", err)
	}
	return c, nil
}

// Run keeps the keys fresh until the context ends.
func (v *Verifier) Run(ctx context.Context) error {
	tick := time.NewTicker(unknownEvery)
	defer tick.Stop()
	for {
		for _, i := range v.issuers {
			if i.store.age() >= i.period {
				_ = i.store.refresh(ctx, unknownEvery) // it reports itself
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Verify tells what a token says, if it is signed by a key of one of the issuers,
// is for one of its audiences and has not expired. The error wraps ErrInvalid or
// ErrUnavailable, or is the context's.
func (v *Verifier) Verify(ctx context.Context, token string) (Claims, error) {
	if len(token) > maxToken {
		return Claims{}, invalid("it has %d bytes, at most %d are read", len(token), maxToken)
	}
	hash := sha256.Sum256([]byte(token))
	if known, ok := v.recall(hash); ok {
		if v.now().Add(-leeway).After(known.claims.Expires) {
			return Claims{}, invalid("%w", jwt.ErrExpired)
		}
		return known.claims, nil
	}
	parsed, err := jwt.ParseSigned(token, v.algorithms)
	if err != nil {
		return Claims{}, invalid("%w", err)
	}
	var unverified struct {
		Issuer string `json:"iss"`
	}
	if err := parsed.UnsafeClaimsWithoutVerification(&unverified); err != nil {
		return Claims{}, invalid("%w", err)
	}
	i := v.issuers[unverified.Issuer]
	if i == nil {
		return Claims{}, invalid("issuer %.100q is not known", unverified.Issuer)
	}
	result, err := i.verify(ctx, parsed, v.now)
	if err != nil {
		return Claims{}, err
	}
	v.remember(hash, result)
	return result.claims, nil
}

func (i *issuer) verify(ctx context.Context, token *jwt.JSONWebToken, now func() time.Time) (verified, error) {
	if len(token.Headers) != 1 {
		return verified{}, invalid("it has %d signatures", len(token.Headers))
	}
	id, algorithm := token.Headers[0].KeyID, jose.SignatureAlgorithm(token.Headers[0].Algorithm)
	if !slices.Contains(i.algorithms, algorithm) {
		return verified{}, invalid("algorithm %s is not allowed for this issuer", algorithm)
	}
	set, key, err := i.key(ctx, id, algorithm)
	if err != nil {
		return verified{}, err
	}
	var standard jwt.Claims
	claims := Claims{}
	if err := token.Claims(key.Key, &standard, &claims.All); err != nil {
		return verified{}, invalid("%w", err)
	}
	if standard.Expiry == nil {
		return verified{}, invalid("it has no exp")
	}
	if err := standard.ValidateWithLeeway(jwt.Expected{AnyAudience: i.audiences, Time: now()}, leeway); err != nil {
		return verified{}, invalid("%w", err)
	}
	claims.Issuer, claims.Subject, claims.Expires = standard.Issuer, standard.Subject, standard.Expiry.Time()
	return verified{claims: claims, issuer: i, keys: set}, nil
}

// key finds the key for a token, and looks for new ones if it must.
func (i *issuer) key(ctx context.Context, id string, algorithm jose.SignatureAlgorithm) (*keySet, *jose.JSONWebKey, error) {
	set := i.store.usable()
	if set == nil {
		err := i.store.refresh(ctx, retryEvery)
		if set = i.store.usable(); set == nil {
			return nil, nil, unavailable(ctx, err)
		}
	}
	key, known := set.find(id, algorithm)
	if !known {
		err := i.store.refresh(ctx, unknownEvery)
		if set = i.store.usable(); set != nil {
			key, known = set.find(id, algorithm)
		}
		if !known && err != nil {
			return nil, nil, unavailable(ctx, err) // it may be a new key
		}
	}
	if key == nil {
		return nil, nil, invalid("the issuer has no key %.100q for %s", id, algorithm)
	}
	return set, key, nil
}

// recall returns what was verified before with keys that are still good.
func (v *Verifier) recall(hash [sha256.Size]byte) (verified, bool) {
	v.mu.RLock()
	known, ok := v.young[hash]
	if !ok {
		known, ok = v.old[hash]
	}
	v.mu.RUnlock()
	return known, ok && known.issuer.store.usable() == known.keys
}

func (v *Verifier) remember(hash [sha256.Size]byte, result verified) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.young) >= maxVerified {
		v.old, v.young = v.young, make(map[[sha256.Size]byte]verified, maxVerified)
	}
	v.young[hash] = result
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

func unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
