// Package extauthz decides whether a call may pass: it finds out whose
// credential came with it, and whether that caller may call this.
//
// In: checks of gateways, by Envoy's ext_authz protocol over gRPC or as plain
// HTTP requests (nginx auth_request and its like), and the snapshot of the
// catalog. Out: an admission with who called under which plan, which Envoy puts
// into its access log as dynamic metadata, or a refusal, 401 or 403, with the
// reason, and with the same metadata, so that refused calls show up under their
// caller too. It keeps nothing; a crash loses nothing.
//
// A decision touches memory only, except where a token's issuer has to be asked
// for its keys. API keys are hashed as soon as they are found; neither a key nor
// a token is in a log, an error or an answer. The upstream does not see keys:
// an admission takes them out of the request.
//
// While the catalog is not loaded no decision is possible, and checks fail:
// Envoy then does what failure_mode_allow says.
package extauthz

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"hash"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollway/tollway/pipelines/attribute"
	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// Catalog is where decisions come from.
type Catalog interface {
	Snapshot() *attribute.Snapshot
	// Ready is nil once the snapshot can be relied on.
	Ready(ctx context.Context) error
}

// Verifier believes a JWT or does not. ErrUnavailable says that it cannot tell
// now. clientID is empty in a token that names no client.
type Verifier interface {
	Verify(ctx context.Context, token string) (issuer, subject, clientID string, err error)
}

// ErrUnavailable is what a Verifier answers, wrapped, when it cannot tell.
var ErrUnavailable = errors.New("cannot be decided now")

// Deps is what a server works with.
type Deps struct {
	Catalog Catalog
	// Verifier of JWTs; nil: none is accepted.
	Verifier Verifier
	// HashKey is the key of the installation's hashes of API keys.
	HashKey  []byte
	Clock    func() time.Time
	Registry prometheus.Registerer
}

// Server answers checks.
type Server struct {
	cfg     Config
	deps    Deps
	metrics *metrics
	hashes  sync.Pool
}

// New makes a server.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, deps: deps, metrics: newMetrics(deps.Registry)}
	s.hashes.New = func() any { return hmac.New(sha256.New, deps.HashKey) }
	return s, nil
}

// Reasons for a refusal, as they stand in metadata and metrics.
const (
	reasonNone            = "none"
	noCredential          = "no_credential"
	unknownCredential     = "unknown_credential"
	invalidToken          = "invalid_token"
	revokedCredential     = "revoked_credential"
	expiredCredential     = "expired_credential"
	inactiveAccount       = "inactive_account"
	inactiveApp           = "inactive_app"
	unknownOperation      = "unknown_operation"
	noSubscription        = "no_subscription"
	suspendedSubscription = "suspended_subscription"
)

// details tell the caller why. What is said of a credential is said to whoever
// has it.
var details = map[string]string{
	noCredential:          "The call has no API key, token or client certificate.",
	unknownCredential:     "The API key, client or certificate is not known.",
	invalidToken:          "The token is not valid.",
	revokedCredential:     "The credential was revoked.",
	expiredCredential:     "The credential has expired.",
	inactiveAccount:       "The account is not active.",
	inactiveApp:           "The app is not active.",
	unknownOperation:      "There is nothing here to call.",
	noSubscription:        "The app has no subscription to a product with this operation.",
	suspendedSubscription: "The subscription to this product is suspended.",
}

// request is a call that a gateway asks about.
type request struct {
	method, host, path string // the path with its query
	authorization      string
	principal          string // of the client's certificate
	environment        string
	header             func(name string) string
}

// decision is what became of it.
type decision struct {
	status     int    // 200, 401 or 403
	reason     string // reasonNone when admitted
	credential *attribute.Credential
	grant      attribute.Grant
	// bearerKey tells that the API key came as a bearer.
	bearerKey bool
}

func (d *decision) admitted() bool { return d.status == http.StatusOK }

// decide decides. An error says that no decision was possible.
func (s *Server) decide(ctx context.Context, r *request) (decision, error) {
	start := s.deps.Clock()
	d, err := s.judge(ctx, r, start)
	if err != nil {
		s.metrics.failures.Inc()
		return d, err
	}
	s.metrics.decided(&d, s.deps.Clock().Sub(start))
	return d, nil
}

func (s *Server) judge(ctx context.Context, r *request, now time.Time) (d decision, err error) {
	if err := s.deps.Catalog.Ready(ctx); err != nil {
		return d, err
	}
	catalog := s.deps.Catalog.Snapshot()
	at := now.UnixMicro()
	d.status, d.reason = http.StatusUnauthorized, noCredential
	if err := s.identify(ctx, catalog, r, &d); err != nil {
		return d, err
	}
	d.grant = catalog.Grant(d.credential, r.method, r.host, r.path, r.environment, at)
	if d.credential != nil {
		d.status, d.reason = s.verdict(&d, at)
	}
	return d, nil
}

// verdict is about a caller who is known.
func (s *Server) verdict(d *decision, at int64) (status int, reason string) {
	c := d.credential
	switch account := c.App.Account; {
	case at >= c.Ends && c.Revoked:
		return http.StatusUnauthorized, revokedCredential
	case at >= c.Ends:
		return http.StatusUnauthorized, expiredCredential
	case !account.Present || account.State != catalogv1.AccountState_ACCOUNT_ACTIVE:
		return http.StatusForbidden, inactiveAccount
	case !c.App.Present || c.App.Disabled:
		return http.StatusForbidden, inactiveApp
	case !s.cfg.RequireSubscription:
		return http.StatusOK, reasonNone
	case d.grant.API == "":
		return http.StatusForbidden, unknownOperation
	case d.grant.Subscription == nil:
		return http.StatusForbidden, noSubscription
	case d.grant.Subscription.State == catalogv1.SubscriptionState_SUSPENDED:
		return http.StatusForbidden, suspendedSubscription
	}
	return http.StatusOK, reasonNone
}

// identify finds the credential: an API key before a token, and both before a
// certificate. One that is presented and not known is not passed over for
// another.
func (s *Server) identify(ctx context.Context, catalog *attribute.Snapshot, r *request, d *decision) error {
	key, bearerKey := s.key(r)
	var space [call.MaxString + 64]byte
	switch {
	case key != "":
		d.bearerKey, d.reason = bearerKey, unknownCredential
		if hash, ok := s.hash(key); ok {
			d.credential, _ = catalog.Key(hash)
		}
	case bearer(r.authorization) != "":
		return s.identifyToken(ctx, catalog, bearer(r.authorization), d)
	case r.principal != "":
		d.reason = unknownCredential
		d.credential, _ = catalog.Credential(call.AppendCertificate(space[:0], r.principal))
	}
	return nil
}

func (s *Server) identifyToken(ctx context.Context, catalog *attribute.Snapshot, token string, d *decision) error {
	d.reason = invalidToken
	if s.deps.Verifier == nil {
		return nil
	}
	issuer, subject, client, err := s.deps.Verifier.Verify(ctx, token)
	switch {
	case errors.Is(err, ErrUnavailable), ctx.Err() != nil:
		return err
	case err != nil:
		return nil // not to be believed: the refusal says so
	}
	d.reason = unknownCredential
	var space [call.MaxString + 64]byte
	if client != "" {
		d.credential, _ = catalog.Credential(call.AppendClient(space[:0], issuer, client))
	}
	if d.credential == nil && subject != "" {
		d.credential, _ = catalog.Credential(call.AppendSubject(space[:0], issuer, subject))
	}
	return nil
}

// key finds an API key.
func (s *Server) key(r *request) (key string, asBearer bool) {
	for _, name := range s.cfg.KeyHeaders {
		if v := r.header(name); v != "" {
			return v, false
		}
	}
	if i := strings.IndexByte(r.path, '?'); i >= 0 && len(s.cfg.KeyParameters) > 0 {
		if v := parameter(r.path[i+1:], s.cfg.KeyParameters); v != "" {
			return v, false
		}
	}
	if v := bearer(r.authorization); s.cfg.BearerPrefix != "" && strings.HasPrefix(v, s.cfg.BearerPrefix) {
		return v, true
	}
	return "", false
}

// parameter is the first value of one of the names in a query.
func parameter(query string, names []string) string {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, value, _ := strings.Cut(pair, "=")
		if unescaped, err := url.QueryUnescape(name); err == nil {
			name = unescaped
		}
		for _, n := range names {
			if name != n {
				continue
			}
			if unescaped, err := url.QueryUnescape(value); err == nil && unescaped != "" {
				return unescaped
			}
		}
	}
	return ""
}

// bearer is the token of an Authorization header.
func bearer(authorization string) string {
	scheme, token, ok := strings.Cut(authorization, " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// maxKey is longer than any API key. What is longer still is not hashed.
const maxKey = 256

func (s *Server) hash(key string) (sum [sha256.Size]byte, ok bool) {
	if len(key) > maxKey {
		return sum, false
	}
	h := s.hashes.Get().(hash.Hash)
	defer s.hashes.Put(h)
	h.Reset()
	var space [maxKey]byte
	h.Write(space[:copy(space[:], key)])
	h.Sum(sum[:0])
	return sum, true
}

// facts calls visit with what the decision says about the call, as the
// collector's names for it.
func (d *decision) facts(visit func(name, value string)) {
	verdict := "denied"
	if d.admitted() {
		verdict = "allowed"
	}
	visit("decision", verdict)
	if !d.admitted() {
		visit("reason", d.reason)
	}
	if c := d.credential; c != nil {
		visit("key_id", c.ID)
		visit("subject", c.App.ID)
		visit("account", c.App.Account.ID)
		visit("app", c.App.ID)
	}
	for _, f := range [...][2]string{{"api", d.grant.API}, {"operation", d.grant.Operation}, {"product", d.grant.Product}, {"plan", d.grant.Plan}} {
		if f[1] != "" {
			visit(f[0], f[1])
		}
	}
	if d.grant.Subscription != nil {
		visit("subscription", d.grant.Subscription.ID)
	}
}
