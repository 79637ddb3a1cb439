package jwks

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	maxKeySet = 1 << 20
	maxKeys   = 100
	minRSA    = 2048 // bits

	fetchTimeout = 5 * time.Second
	// refreshEvery is how long a key that was withdrawn may still be believed.
	refreshEvery = 10 * time.Minute
	// unknownEvery is how often tokens with keys that nobody knows may cause a
	// fetch.
	unknownEvery = time.Minute
	// retryEvery is the same for as long as there are no keys at all.
	retryEvery = 10 * time.Second
	// maxStale is how long keys are believed that cannot be fetched again.
	maxStale = 6 * time.Hour
)

// keySet is the keys of an issuer at one time.
type keySet struct {
	text string
	keys []jose.JSONWebKey // public, fit for signatures
}

// parseKeySet leaves out what is no use here. A set without any key is an error:
// it is more likely a mistake than the wish to lock everybody out.
func parseKeySet(text []byte) (*keySet, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("read key set: %w", err)
	}
	if len(raw.Keys) > maxKeys {
		return nil, fmt.Errorf("key set has %d keys, at most %d are taken", len(raw.Keys), maxKeys)
	}
	set := &keySet{text: string(text)}
	for _, r := range raw.Keys {
		var k jose.JSONWebKey
		// A kind of key that is not known must not hide the others (RFC 7517, 5).
		if json.Unmarshal(r, &k) != nil || k.Use != "" && k.Use != "sig" {
			continue
		}
		if k = k.Public(); fit(k) {
			set.keys = append(set.keys, k)
		}
	}
	if len(set.keys) == 0 {
		return nil, errors.New("key set has no public key for signatures")
	}
	return set, nil
}

func fit(k jose.JSONWebKey) bool {
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() >= minRSA
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false
}

// verifies tells whether a key is meant for an algorithm.
func verifies(k jose.JSONWebKey, algorithm jose.SignatureAlgorithm) bool {
	if k.Algorithm != "" && k.Algorithm != string(algorithm) {
		return false
	}
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(string(algorithm), "RS") || strings.HasPrefix(string(algorithm), "PS")
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return algorithm == jose.ES256
		case elliptic.P384():
			return algorithm == jose.ES384
		case elliptic.P521():
			return algorithm == jose.ES512
		}
	case ed25519.PublicKey:
		return algorithm == jose.EdDSA
	}
	return false
}

// find returns the key for a token; known is whether the set has its id at all. A
// token without an id is for the one key that fits.
func (s *keySet) find(id string, algorithm jose.SignatureAlgorithm) (key *jose.JSONWebKey, known bool) {
	for i := range s.keys {
		if id != "" && s.keys[i].KeyID != id {
			continue
		}
		known = true
		if !verifies(s.keys[i], algorithm) {
			continue
		}
		if key != nil {
			return nil, true
		}
		key = &s.keys[i]
	}
	return key, known
}

// store holds the keys of one issuer and fetches them.
type store struct {
	load   func(ctx context.Context) ([]byte, error)
	now    func() time.Time
	report func(err error, changed bool)

	current atomic.Pointer[keySet]
	loaded  atomic.Int64 // when the keys were last seen at their source, Unix nanoseconds

	mu        sync.Mutex
	flight    chan struct{} // closed when the fetch that is under way has ended
	attempted time.Time
	failure   error // of the last attempt
}

// usable returns the keys if they are not too old.
func (s *store) usable() *keySet {
	if s.age() > maxStale {
		return nil
	}
	return s.current.Load()
}

func (s *store) age() time.Duration { return s.now().Sub(time.Unix(0, s.loaded.Load())) }

// refresh fetches the keys, unless that was tried within the interval. Callers
// that come while a fetch is under way wait for it. It returns the outcome of the
// last attempt.
func (s *store) refresh(ctx context.Context, interval time.Duration) error {
	s.mu.Lock()
	if flight := s.flight; flight != nil {
		s.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
			return ctx.Err()
		}
		return s.outcome()
	}
	now := s.now()
	// A clock that was put back does not stop fetches.
	if since := now.Sub(s.attempted); since >= 0 && since < interval {
		defer s.mu.Unlock()
		return s.failure
	}
	s.attempted, s.flight = now, make(chan struct{})
	s.mu.Unlock()

	// Others wait for this fetch too, so it does not end with the first caller.
	fetch, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	changed, err := s.fetch(fetch, now)

	s.report(err, changed)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = err
	close(s.flight)
	s.flight = nil
	return err
}

func (s *store) outcome() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

func (s *store) fetch(ctx context.Context, now time.Time) (changed bool, err error) {
	text, err := s.load(ctx)
	if err != nil {
		return false, err
	}
	// Keys that did not change stay the same value: what was verified with them
	// stays verified.
	if old := s.current.Load(); old == nil || old.text != string(text) {
		set, err := parseKeySet(text)
		if err != nil {
			return false, err
		}
		s.current.Store(set)
		changed = true
	}
	s.loaded.Store(now.UnixNano())
	return changed, nil
}

func fromFile(path string) func(context.Context) ([]byte, error) {
	return func(context.Context) ([]byte, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read keys: %w", err)
		}
		defer f.Close()
		return readBounded(f)
	}
}

func fromURL(client *http.Client, url string) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, fmt.Errorf("fetch keys: %w", err)
		}
		r.Header.Set("Accept", "application/jwk-set+json, application/json")
		answer, err := client.Do(r)
		if err != nil {
			return nil, fmt.Errorf("fetch keys: %w", err)
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("fetch keys: %s answers %s", url, answer.Status)
		}
		return readBounded(answer.Body)
	}
}

func readBounded(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxKeySet+1))
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	if len(text) > maxKeySet {
		return nil, fmt.Errorf("key set has more than %d bytes", maxKeySet)
	}
	return text, nil
}
