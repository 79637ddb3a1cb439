package jwks

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testIssuer   = "https://login.example.com/"
	testAudience = "tollway"
)

// pair is a key of an identity provider.
type pair struct {
	id        string
	algorithm jose.SignatureAlgorithm
	private   any
	public    any
}

func newPair(t testing.TB, id string, algorithm jose.SignatureAlgorithm) pair {
	t.Helper()
	p := pair{id: id, algorithm: algorithm}
	var err error
	switch algorithm {
	case jose.RS256:
		var k *rsa.PrivateKey
		if k, err = rsa.GenerateKey(rand.Reader, 2048); err == nil {
			p.private, p.public = k, &k.PublicKey
		}
	case jose.ES256:
		var k *ecdsa.PrivateKey
		if k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err == nil {
			p.private, p.public = k, &k.PublicKey
		}
	case jose.EdDSA:
		p.public, p.private, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil || p.private == nil {
		t.Fatal(algorithm, err)
	}
	return p
}

func (p pair) jwk() jose.JSONWebKey {
	return jose.JSONWebKey{Key: p.public, KeyID: p.id, Use: "sig"}
}

// sign makes a token of a key, with an id in its header unless that is empty.
func sign(t testing.TB, algorithm jose.SignatureAlgorithm, key any, id string, claims any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT")
	if id != "" {
		options = options.WithHeader("kid", id)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (p pair) sign(t testing.TB, claims any) string {
	t.Helper()
	return sign(t, p.algorithm, p.private, p.id, claims)
}

// provider serves a key set that can change and fail.
type provider struct {
	*httptest.Server
	fetches atomic.Int64

	mu     sync.Mutex
	answer []byte
	status int
	hold   chan struct{} // requests wait for it
}

func newProvider(t testing.TB, keys ...pair) *provider {
	t.Helper()
	p := &provider{}
	p.publish(t, keys...)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p.fetches.Add(1)
		p.mu.Lock()
		answer, status, hold := p.answer, p.status, p.hold
		p.mu.Unlock()
		if hold != nil {
			<-hold
		}
		w.WriteHeader(status)
		_, _ = w.Write(answer)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) publish(t testing.TB, keys ...pair) {
	t.Helper()
	set := jose.JSONWebKeySet{}
	for _, k := range keys {
		set.Keys = append(set.Keys, k.jwk())
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	p.set(http.StatusOK, text)
}

func (p *provider) set(status int, answer []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status, p.answer = status, answer
}

// clock is moved by tests.
type clock struct{ nanoseconds atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.nanoseconds.Store(time.Now().UnixNano())
	return c
}
func (c *clock) now() time.Time          { return time.Unix(0, c.nanoseconds.Load()) }
func (c *clock) advance(d time.Duration) { c.nanoseconds.Add(int64(d)) }

func newVerifier(t testing.TB, c *clock, cfg Config) *Verifier {
	t.Helper()
	cfg.Issuer, cfg.Audiences = testIssuer, []string{"other", testAudience}
	v, err := New([]Config{cfg}, Deps{Clock: c.now, Registry: prometheus.NewRegistry(), Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func goodClaims(now time.Time) map[string]any {
	return map[string]any{
		"iss": testIssuer, "sub": "ada", "aud": []string{testAudience, "more"}, "groups": []string{"finance"},
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
}

func with(claims map[string]any, name string, value any) map[string]any {
	if value == nil {
		delete(claims, name)
	} else {
		claims[name] = value
	}
	return claims
}

func TestVerify(t *testing.T) {
	c := newClock()
	rs, es, ed := newPair(t, "rs", jose.RS256), newPair(t, "es", jose.ES256), newPair(t, "ed", jose.EdDSA)
	stranger := newPair(t, "es", jose.ES256)
	v := newVerifier(t, c, Config{URL: newProvider(t, rs, es, ed).URL})
	now := c.now()
	publicDER, err := x509.MarshalPKIXPublicKey(rs.public)
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})
	jwkText, err := rs.jwk().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	good := es.sign(t, goodClaims(now))
	parts := strings.Split(good, ".")
	// Tokens without a signature, in both spellings of none.
	none := func(alg string) string {
		return fmt.Sprintf("%s.%s.", encode(fmt.Sprintf(`{"alg":%q,"kid":"es"}`, alg)), parts[1])
	}
	for _, tc := range []struct {
		name, token, want string
	}{
		{"RS256", rs.sign(t, goodClaims(now)), ""},
		{"ES256", good, ""},
		{"again, from memory", good, ""},
		{"EdDSA", ed.sign(t, goodClaims(now)), ""},
		{"one audience as a text", es.sign(t, with(goodClaims(now), "aud", testAudience)), ""},
		{"no key id, one key that fits", sign(t, jose.ES256, es.private, "", goodClaims(now)), ""},
		{"expired within the leeway", es.sign(t, with(goodClaims(now), "exp", now.Add(-50*time.Second).Unix())), ""},

		{"empty", "", "token is not valid"},
		{"words", "tw_adm_0000", "three parts"},
		{"two parts", parts[0] + "." + parts[1], "three parts"},
		{"too long", good + strings.Repeat("A", maxToken), "at most 8192 are read"},
		{"signature of another", stranger.sign(t, goodClaims(now)), "error in cryptographic primitive"},
		{"changed claims", parts[0] + "." + encode(`{"iss":"`+testIssuer+`","sub":"eve"}`) + "." + parts[2], "error in cryptographic primitive"},
		{"none", none("none"), "unexpected signature algorithm"},
		{"None", none("None"), "unexpected signature algorithm"},
		{"HS256 with the public key as PEM", sign(t, jose.HS256, publicPEM, "rs", goodClaims(now)), "unexpected signature algorithm"},
		{"HS256 with the public key as DER", sign(t, jose.HS256, publicDER, "rs", goodClaims(now)), "unexpected signature algorithm"},
		{"HS256 with the public key as JWK", sign(t, jose.HS256, jwkText, "rs", goodClaims(now)), "unexpected signature algorithm"},
		{"PS256 is not configured", sign(t, jose.PS256, rs.private, "rs", goodClaims(now)), "unexpected signature algorithm"},
		{"key of another algorithm", sign(t, jose.ES256, es.private, "rs", goodClaims(now)), `no key "rs" for ES256`},
		{"key in the header", withEmbeddedKey(t, stranger, goodClaims(now)), "error in cryptographic primitive"},
		{"wrong issuer", es.sign(t, with(goodClaims(now), "iss", "https://login.example.com")), "is not known"},
		{"no issuer", es.sign(t, with(goodClaims(now), "iss", nil)), "is not known"},
		{"wrong audience", es.sign(t, with(goodClaims(now), "aud", "someone")), "invalid audience"},
		{"no audience", es.sign(t, with(goodClaims(now), "aud", nil)), "invalid audience"},
		{"expired", es.sign(t, with(goodClaims(now), "exp", now.Add(-2*time.Minute).Unix())), "expired"},
		{"no expiry", es.sign(t, with(goodClaims(now), "exp", nil)), "no exp"},
		{"not yet", es.sign(t, with(goodClaims(now), "nbf", now.Add(2*time.Minute).Unix())), "not valid yet"},
		{"issued in the future", es.sign(t, with(goodClaims(now), "iat", now.Add(2*time.Minute).Unix())), "issued in the future"},
		{"expiry is a text", es.sign(t, with(goodClaims(now), "exp", "tomorrow")), "token is not valid"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			claims, err := v.Verify(t.Context(), tc.token)
			if tc.want == "" {
				if err != nil || claims.Subject != "ada" || claims.Issuer != testIssuer || fmt.Sprint(claims.All["groups"]) != "[finance]" {
					t.Errorf("%+v %v", claims, err)
				}
				return
			}
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tc.want) || claims.Subject != "" {
				t.Errorf("%+v, %v", claims, err)
			}
		})
	}
	c.advance(time.Hour + 2*time.Minute)
	if _, err := v.Verify(t.Context(), good); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("a token that is remembered does not expire: %v", err)
	}
}

func encode(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

func withEmbeddedKey(t *testing.T, p pair, claims any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: p.algorithm, Key: p.private},
		(&jose.SignerOptions{EmbedJWK: true}).WithHeader("kid", p.id))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestKeySets(t *testing.T) {
	ed := newPair(t, "ed", jose.EdDSA)
	good, err := ed.jwk().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := jose.JSONWebKey{Key: &small.PublicKey, KeyID: "weak"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	private, err := jose.JSONWebKey{Key: ed.private, KeyID: "private"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	secret := `{"kty":"oct","kid":"secret","k":"c2VjcmV0"}`
	encryption := strings.Replace(string(good), `"use":"sig"`, `"use":"enc"`, 1)
	for _, tc := range []struct {
		name, keys string
		want       int
	}{
		{"one", string(good), 1},
		{"a kind that nobody knows beside", `{"kty":"future","x":1},` + string(good), 1},
		{"shared secret", secret, 0},
		{"weak", string(weak), 0},
		{"for encryption", encryption, 0},
		{"private, of which the public half is taken", string(private), 1},
		{"none", "", 0},
		{"too many", strings.Repeat(string(good)+",", maxKeys) + string(good), 0},
		{"not JSON", "{", 0},
	} {
		set, err := parseKeySet([]byte(`{"keys":[` + tc.keys + `]}`))
		if (err == nil) != (tc.want > 0) || err == nil && len(set.keys) != tc.want {
			t.Errorf("%s: %v %v", tc.name, set, err)
		}
		if err == nil && !set.keys[0].IsPublic() {
			t.Errorf("%s: a private key is kept", tc.name)
		}
	}
}

func TestRotation(t *testing.T) {
	c := newClock()
	old, next := newPair(t, "1", jose.ES256), newPair(t, "2", jose.ES256)
	p := newProvider(t, old)
	v := newVerifier(t, c, Config{URL: p.URL})
	oldToken, nextToken := old.sign(t, goodClaims(c.now())), next.sign(t, goodClaims(c.now()))
	verify := func(token string, want error) {
		t.Helper()
		if _, err := v.Verify(t.Context(), token); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	verify(oldToken, nil)
	p.publish(t, old, next)
	verify(nextToken, ErrInvalid) // the keys were fetched just now
	c.advance(unknownEvery)
	verify(nextToken, nil)
	verify(oldToken, nil)
	if n := p.fetches.Load(); n != 2 {
		t.Errorf("%d fetches", n)
	}
	// A key that is withdrawn is believed until the keys are fetched again, and
	// then not even from memory.
	p.publish(t, next)
	verify(oldToken, nil)
	i := v.issuers[testIssuer]
	c.advance(refreshEvery)
	if err := i.store.refresh(t.Context(), unknownEvery); err != nil {
		t.Fatal(err)
	}
	verify(oldToken, ErrInvalid)
	verify(nextToken, nil)
}

// Run fetches before anybody asks, and does not wait for long.
func TestRun(t *testing.T) {
	c := newClock()
	k := newPair(t, "1", jose.EdDSA)
	p := newProvider(t, k)
	v := newVerifier(t, c, Config{URL: p.URL})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	for deadline := time.Now().Add(time.Minute); v.issuers[testIssuer].store.usable() == nil; {
		if time.Now().After(deadline) {
			t.Fatal("keys are not fetched")
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := v.Verify(t.Context(), k.sign(t, goodClaims(c.now()))); err != nil || p.fetches.Load() != 1 {
		t.Errorf("%v, %d fetches", err, p.fetches.Load())
	}
}

func TestServerDown(t *testing.T) {
	c := newClock()
	k, unknown := newPair(t, "1", jose.ES256), newPair(t, "2", jose.ES256)
	p := newProvider(t, k)
	v := newVerifier(t, c, Config{URL: p.URL})
	claims := goodClaims(c.now().Add(24 * time.Hour))
	delete(claims, "nbf")
	delete(claims, "iat")
	verify := func(pr pair, want error) {
		t.Helper()
		// Another token each time, since the others are remembered.
		claims["jti"] = fmt.Sprint(c.now(), want)
		if _, err := v.Verify(t.Context(), pr.sign(t, claims)); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	p.set(http.StatusInternalServerError, nil)
	verify(k, ErrUnavailable)
	verify(k, ErrUnavailable)
	if n := p.fetches.Load(); n != 1 {
		t.Errorf("%d fetches within a moment", n)
	}
	c.advance(retryEvery)
	p.publish(t, k)
	verify(k, nil)
	for _, broken := range []func(){
		func() { p.set(http.StatusInternalServerError, nil) },
		func() { p.set(http.StatusOK, []byte("<html>")) },
		func() { p.set(http.StatusOK, []byte(`{"keys":[]}`)) },
		func() { p.set(http.StatusFound, nil) },
		func() { p.set(http.StatusOK, []byte(`{"keys":["`+strings.Repeat("x", maxKeySet)+`"]}`)) },
	} {
		broken()
		c.advance(unknownEvery)
		verify(unknown, ErrUnavailable)
		verify(k, nil)
	}
	p.Close()
	c.advance(unknownEvery)
	verify(unknown, ErrUnavailable)
	verify(k, nil)
	c.advance(maxStale)
	verify(k, ErrUnavailable)
}

// Many made-up key ids cause no more fetches than one, and nobody waits for ever.
func TestUnknownKeys(t *testing.T) {
	c := newClock()
	k := newPair(t, "1", jose.EdDSA)
	p := newProvider(t, k)
	v := newVerifier(t, c, Config{URL: p.URL})
	good := k.sign(t, goodClaims(c.now()))
	if _, err := v.Verify(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	storm := func() {
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() {
				for m := range 25 {
					fake := sign(t, jose.EdDSA, k.private, fmt.Sprint("made up ", n, m), goodClaims(c.now()))
					if _, err := v.Verify(t.Context(), fake); !errors.Is(err, ErrInvalid) {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	storm()
	if n := p.fetches.Load(); n != 1 {
		t.Errorf("%d fetches in the first minute", n)
	}
	c.advance(unknownEvery)
	storm()
	if n := p.fetches.Load(); n != 2 {
		t.Errorf("%d fetches in two minutes", n)
	}

	// While the provider takes its time, a caller can leave, known keys work, and
	// the caller who waits gets the answer.
	hold := make(chan struct{})
	p.mu.Lock()
	p.hold = hold
	p.mu.Unlock()
	c.advance(unknownEvery)
	waits := make(chan error, 1)
	go func() {
		_, err := v.Verify(context.Background(), sign(t, jose.EdDSA, k.private, "made up", goodClaims(c.now())))
		waits <- err
	}()
	for p.fetches.Load() != 3 {
		time.Sleep(time.Millisecond)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Verify(gone, sign(t, jose.EdDSA, k.private, "made up too", goodClaims(c.now()))); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who left: %v", err)
	}
	if _, err := v.Verify(t.Context(), k.sign(t, goodClaims(c.now()))); err != nil {
		t.Errorf("a known key: %v", err)
	}
	close(hold)
	if err := <-waits; !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

func TestFile(t *testing.T) {
	c := newClock()
	path := filepath.Join(t.TempDir(), "keys.json")
	write := func(keys ...pair) {
		t.Helper()
		set := jose.JSONWebKeySet{}
		for _, k := range keys {
			set.Keys = append(set.Keys, k.jwk())
		}
		text, err := json.Marshal(set)
		if err == nil {
			err = os.WriteFile(path, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	first, second := newPair(t, "1", jose.ES256), newPair(t, "2", jose.ES256)
	v := newVerifier(t, c, Config{File: path})
	token := second.sign(t, goodClaims(c.now()))
	if _, err := v.Verify(t.Context(), token); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without the file: %v", err)
	}
	write(first)
	c.advance(retryEvery)
	if _, err := v.Verify(t.Context(), token); !errors.Is(err, ErrInvalid) {
		t.Errorf("with another's key: %v", err)
	}
	write(first, second)
	c.advance(unknownEvery)
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Errorf("with the key: %v", err)
	}
}

func TestConfig(t *testing.T) {
	ok := Config{Issuer: "i", Audiences: []string{"a"}, URL: "https://login.example.com/keys"}
	for _, tc := range []struct {
		change func(*Config)
		want   string
	}{
		{func(*Config) {}, ""},
		{func(c *Config) { c.URL, c.File = "", "keys.json" }, ""},
		{func(c *Config) { c.URL = "http://127.0.0.1:8080/keys" }, ""},
		{func(c *Config) { c.Algorithms = []string{"ES384"} }, ""},
		{func(c *Config) { c.Issuer = "" }, "issuer must not be empty"},
		{func(c *Config) { c.Audiences = nil }, "audiences must name at least one"},
		{func(c *Config) { c.Audiences = []string{""} }, "audiences must name at least one"},
		{func(c *Config) { c.URL = "http://login.example.com/keys" }, "must be an https address"},
		{func(c *Config) { c.URL = "http://127.0.0.1.example.com/keys" }, "must be an https address"},
		{func(c *Config) { c.URL = "" }, "either jwks_url or jwks_file"},
		{func(c *Config) { c.File = "x" }, "either jwks_url or jwks_file"},
		{func(c *Config) { c.Algorithms = []string{"HS256"} }, `algorithm is "HS256"`},
		{func(c *Config) { c.Algorithms = []string{"none"} }, `algorithm is "none"`},
	} {
		cfg := ok
		tc.change(&cfg)
		err := cfg.Validate()
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	if _, err := New([]Config{ok, ok}, Deps{Registry: prometheus.NewRegistry()}); err == nil {
		t.Error("one issuer with two configurations was accepted")
	}
}

func TestMetricsAreShared(t *testing.T) {
	c, reg := newClock(), prometheus.NewRegistry()
	p := newProvider(t, newPair(t, "1", jose.EdDSA))
	for range 2 {
		v, err := New([]Config{{Issuer: testIssuer, Audiences: []string{"a"}, URL: p.URL}}, Deps{Clock: c.now, Registry: reg, Logger: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		if err := v.issuers[testIssuer].store.refresh(t.Context(), unknownEvery); err != nil {
			t.Fatal(err)
		}
	}
	want := `
# HELP tollway_jwks_fetches_total Attempts to read an issuer's keys, by issuer and result (ok or error).
# TYPE tollway_jwks_fetches_total counter
tollway_jwks_fetches_total{issuer="https://login.example.com/",result="error"} 0
tollway_jwks_fetches_total{issuer="https://login.example.com/",result="ok"} 2
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	v := newVerifier(t, newClock(), Config{File: "none"})
	for n := range 3 * maxVerified {
		var hash [32]byte
		hash[0], hash[1], hash[2] = byte(n), byte(n>>8), byte(n>>16)
		v.remember(hash, verified{})
	}
	if n := len(v.young) + len(v.old); n > 2*maxVerified {
		t.Errorf("%d tokens are remembered", n)
	}
}

func FuzzVerify(f *testing.F) {
	c := newClock()
	k := newPair(f, "1", jose.EdDSA)
	v := newVerifier(f, c, Config{URL: newProvider(f, k).URL})
	good := k.sign(f, goodClaims(c.now()))
	signed, err := v.Verify(f.Context(), good)
	if err != nil {
		f.Fatal(err)
	}
	want := fmt.Sprint(signed.All)
	f.Add(good)
	f.Add("")
	f.Add("..")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, token string) {
		// Base64 has more than one spelling of the same bytes, so a token that is
		// believed need not be the one that was signed, but must say the same.
		claims, err := v.Verify(t.Context(), token)
		if err == nil && (claims.Subject != "ada" || fmt.Sprint(claims.All) != want) {
			t.Errorf("%q was believed", token)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	for _, algorithm := range []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA} {
		c := newClock()
		k := newPair(b, "1", algorithm)
		v := newVerifier(b, c, Config{URL: newProvider(b, k).URL})
		token := k.sign(b, goodClaims(c.now()))
		run := func(name string, each func()) {
			b.Run(fmt.Sprintf("%s/%s", algorithm, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					each()
					if _, err := v.Verify(b.Context(), token); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		run("remembered", func() {})
		run("new", func() { clear(v.young) })
	}
}
