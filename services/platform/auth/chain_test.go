package auth

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/tollway/tollway/services/platform/jwks"
)

type answers func(bearer string) (Principal, error)

func (f answers) Authenticate(_ context.Context, bearer string) (Principal, error) { return f(bearer) }

func TestChain(t *testing.T) {
	down := errors.New("keys are not available")
	c, _ := testChain(
		Static(map[string]Principal{"a": adminP}),
		answers(func(bearer string) (Principal, error) {
			switch bearer {
			case "no role":
				return Principal{}, fmt.Errorf("%w: no role", errForbidden)
			case "x.y.z":
				return Principal{}, down
			}
			return Principal{}, ErrUnauthenticated
		}),
	)
	c.Add(Static(map[string]Principal{"g": gatewayP, "no role": adminP}))
	for _, tc := range []struct {
		bearer string
		want   Principal
		err    error
	}{
		{"a", adminP, nil}, {"g", gatewayP, nil}, {"", Principal{}, ErrUnauthenticated}, {"b", Principal{}, ErrUnauthenticated},
		{"no role", Principal{}, errForbidden}, {"x.y.z", Principal{}, down},
	} {
		got, err := c.Authenticate(context.Background(), tc.bearer)
		if !errors.Is(err, tc.err) || !cmp.Equal(got, tc.want) {
			t.Errorf("%q: %v %v", tc.bearer, got, err)
		}
	}
}

type records map[[sha256.Size]byte]TokenRecord

func (r records) Lookup(hash [sha256.Size]byte) (TokenRecord, bool) {
	record, ok := r[hash]
	return record, ok
}

func TestStoredTokens(t *testing.T) {
	source, texts := records{}, map[string]string{}
	now := time.Now()
	add := func(role Role, r TokenRecord) {
		t.Helper()
		text, hash, err := NewToken(role)
		if err != nil {
			t.Fatal(err)
		}
		r.Role = role
		source[hash], texts[r.Name] = r, text
	}
	add(Finance, TokenRecord{Name: "tokens/books", Scopes: []string{"reports.read"}, NotAfter: now.Add(time.Hour)})
	add(Consumer, TokenRecord{Name: "tokens/acme", Account: "accounts/acme"})
	add(Consumer, TokenRecord{Name: "tokens/hooli", Account: "hooli"})
	add(Consumer, TokenRecord{Name: "tokens/nobody"})
	add(Admin, TokenRecord{Name: "tokens/half", Account: "acme"})
	add(Admin, TokenRecord{Name: "tokens/gone", Revoked: true})
	king, _, err := NewToken("king")
	if err == nil || king != "" {
		t.Error("a token for a role that nobody knows was made")
	}
	tokens := NewStoredTokens(source)
	tokens.now = func() time.Time { return now }
	for _, tc := range []struct {
		name string
		want Principal
		ok   bool
	}{
		{"tokens/books", Principal{Name: "tokens/books", Role: Finance, Scopes: []string{"reports.read"}, TokenName: "tokens/books"}, true},
		{"tokens/acme", Principal{Name: "tokens/acme", Role: Consumer, Account: "acme", TokenName: "tokens/acme"}, true},
		{"tokens/hooli", Principal{Name: "tokens/hooli", Role: Consumer, Account: "hooli", TokenName: "tokens/hooli"}, true},
		{"tokens/nobody", Principal{}, false},
		{"tokens/half", Principal{}, false},
		{"tokens/gone", Principal{}, false},
		{"tokens/unknown", Principal{}, false},
	} {
		got, err := tokens.Authenticate(context.Background(), texts[tc.name])
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, ErrUnauthenticated) || !cmp.Equal(got, tc.want) {
			t.Errorf("%s: %+v %v", tc.name, got, err)
		}
	}

	first := now
	now = now.Add(time.Minute)
	if _, err := tokens.Authenticate(context.Background(), texts["tokens/books"]); err != nil {
		t.Fatal(err)
	}
	second := func(at time.Time) time.Time { return time.Unix(at.Unix(), 0) }
	want := map[string]time.Time{"tokens/books": second(now), "tokens/acme": second(first), "tokens/hooli": second(first)}
	if got := tokens.LastUsed(); !cmp.Equal(got, want) {
		t.Errorf("last used: %v, want %v", got, want)
	}
	if got := tokens.LastUsed(); len(got) != 0 {
		t.Errorf("uses are told twice: %v", got)
	}
	now = now.Add(time.Hour)
	if _, err := tokens.Authenticate(context.Background(), texts["tokens/books"]); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("an expired token: %v", err)
	}
	for n := range maxUsed + 10 {
		tokens.use(fmt.Sprint(n), 1)
	}
	if n := len(tokens.LastUsed()); n > maxUsed {
		t.Errorf("%d tokens are remembered", n)
	}
}

func BenchmarkStoredTokens(b *testing.B) {
	text, hash, err := NewToken(Gateway)
	if err != nil {
		b.Fatal(err)
	}
	tokens := NewStoredTokens(records{hash: {Name: "edge", Role: Gateway}})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tokens.Authenticate(b.Context(), text); err != nil {
			b.Fatal(err)
		}
	}
}

type verifies func(token string) (jwks.Claims, error)

func (f verifies) Verify(_ context.Context, token string) (jwks.Claims, error) { return f(token) }

func TestLogins(t *testing.T) {
	const issuer = "https://login.example.com"
	roles := map[string]Role{"tw-admins": Admin, "tw-finance": Finance, "tw-customers": Consumer}
	nested := OIDC{Issuer: issuer, RoleClaim: "realm_access.roles", RoleMap: roles, AccountClaim: "https://tollway.example.com/account"}
	flat := OIDC{Issuer: issuer, RoleClaim: "group", RoleMap: roles, AccountClaim: "org"}
	in := func(groups ...any) map[string]any {
		return map[string]any{"realm_access": map[string]any{"roles": groups}}
	}
	customer := func(account any) map[string]any {
		all := in("tw-customers")
		all["https://tollway.example.com/account"] = account
		return all
	}
	for _, tc := range []struct {
		name     string
		provider OIDC
		claims   map[string]any
		verify   error
		want     Principal
		err      error
	}{
		{"one role", nested, in("other", "tw-finance"), nil, Principal{Name: issuer + "#ada", Role: Finance}, nil},
		{"the first of several", nested, in("tw-customers", "tw-finance", "tw-admins"), nil, Principal{Name: issuer + "#ada", Role: Admin}, nil},
		{"a text", flat, map[string]any{"group": "tw-admins"}, nil, Principal{Name: issuer + "#ada", Role: Admin}, nil},
		{"consumer", nested, customer("acme"), nil, Principal{Name: issuer + "#ada", Role: Consumer, Account: "acme"}, nil},
		{"consumer by resource name", nested, customer("accounts/acme"), nil, Principal{Name: issuer + "#ada", Role: Consumer, Account: "acme"}, nil},
		{"consumer without account", nested, in("tw-customers"), nil, Principal{}, errForbidden},
		{"consumer with odd accounts", nested, customer("acme/apps"), nil, Principal{}, errForbidden},
		{"consumer of every account", nested, customer("-"), nil, Principal{}, errForbidden},
		{"consumer of every account by name", nested, customer("accounts/-"), nil, Principal{}, errForbidden},
		{"consumer with a list", nested, customer([]any{"acme"}), nil, Principal{}, errForbidden},
		{"no role", nested, in("other", 7, nil), nil, Principal{}, errForbidden},
		{"no claim", nested, map[string]any{"realm_access": "tw-admins"}, nil, Principal{}, errForbidden},
		{"a number", flat, map[string]any{"group": 1}, nil, Principal{}, errForbidden},
		{"not valid", flat, nil, fmt.Errorf("%w: expired", jwks.ErrInvalid), Principal{}, ErrUnauthenticated},
		{"no keys", flat, nil, jwks.ErrUnavailable, Principal{}, jwks.ErrUnavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := Logins([]OIDC{tc.provider}, verifies(func(string) (jwks.Claims, error) {
				return jwks.Claims{Issuer: issuer, Subject: "ada", All: tc.claims}, tc.verify
			}))
			got, err := a.Authenticate(context.Background(), "x.y.z")
			if !errors.Is(err, tc.err) || !cmp.Equal(got, tc.want) {
				t.Errorf("%+v %v", got, err)
			}
			if _, err := a.Authenticate(context.Background(), "tw_adm_0000"); !errors.Is(err, ErrUnauthenticated) {
				t.Errorf("a token that is no JWT: %v", err)
			}
		})
	}
}

func TestCertificates(t *testing.T) {
	a := Certificates([]Certificate{
		{Name: "spiffe://prod/edge", Role: Gateway, Scopes: []string{"events.write"}},
		{Name: "acme.example.com", Role: Consumer, Account: "accounts/acme"},
	})
	uri := func(text string) *url.URL {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	connected := func(leaf *x509.Certificate, verified bool) context.Context {
		state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
		if verified {
			state.VerifiedChains = [][]*x509.Certificate{{leaf}}
		}
		return peer.NewContext(context.Background(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: state}})
	}
	edge := &x509.Certificate{URIs: []*url.URL{uri("spiffe://prod/other"), uri("spiffe://prod/edge")}}
	for _, tc := range []struct {
		name   string
		ctx    context.Context
		bearer string
		want   Principal
	}{
		{"URI", connected(edge, true), "", Principal{Name: "spiffe://prod/edge", Role: Gateway, Scopes: []string{"events.write"}}},
		{"DNS name", connected(&x509.Certificate{DNSNames: []string{"acme.example.com"}}, true), "", Principal{Name: "acme.example.com", Role: Consumer, Account: "acme"}},
		{"nobody has verified it", connected(edge, false), "", Principal{}},
		{"a URI among DNS names", connected(&x509.Certificate{DNSNames: []string{"spiffe://prod/edge"}}, true), "", Principal{}},
		{"another", connected(&x509.Certificate{DNSNames: []string{"edge"}}, true), "", Principal{}},
		{"a bad token beside", connected(edge, true), "x", Principal{}},
		{"none", context.Background(), "", Principal{}},
		{"what a stranger says over the network", metadata.NewIncomingContext(peer.NewContext(context.Background(), &peer.Peer{}),
			metadata.Pairs(nameHeader, "spiffe://prod/edge")), "", Principal{}},
		{"what the process itself says", metadata.NewIncomingContext(peer.NewContext(context.Background(), &peer.Peer{AuthInfo: InProcess{}}),
			metadata.Pairs(nameHeader, "spiffe://prod/edge")), "", Principal{Name: "spiffe://prod/edge", Role: Gateway, Scopes: []string{"events.write"}}},
	} {
		got, err := a.Authenticate(withCaller(tc.ctx), tc.bearer)
		if !cmp.Equal(got, tc.want) || (err == nil) != (tc.want.Name != "") {
			t.Errorf("%s: %+v %v", tc.name, got, err)
		}
	}
}

func TestConfig(t *testing.T) {
	provider := OIDC{Issuer: "i", Audience: []string{"a"}, JWKSFile: "keys.json", RoleClaim: "roles", RoleMap: map[string]Role{"x": Admin}}
	gateway := Certificate{Name: "spiffe://prod/edge", Role: Gateway}
	for _, tc := range []struct {
		change func(*OIDC, *Certificate)
		want   string
	}{
		{func(*OIDC, *Certificate) {}, ""},
		{func(p *OIDC, _ *Certificate) { p.JWKSFile = "" }, "oidc[0]: either jwks_url or jwks_file"},
		{func(p *OIDC, _ *Certificate) { p.Algorithms = []string{"none"} }, `algorithm is "none"`},
		{func(p *OIDC, _ *Certificate) { p.RoleClaim = "" }, "role_claim and role_map"},
		{func(p *OIDC, _ *Certificate) { p.RoleMap = nil }, "role_claim and role_map"},
		{func(p *OIDC, _ *Certificate) { p.RoleMap = map[string]Role{"x": Anyone} }, `role_map: "x" stands for role "anyone"`},
		{func(p *OIDC, _ *Certificate) { p.RoleMap = map[string]Role{"x": Consumer} }, "account_claim must be given"},
		{func(_ *OIDC, c *Certificate) { c.Name = "spiffe://prod/*" }, "certificates[0]: name is"},
		{func(_ *OIDC, c *Certificate) { c.Role = Anyone }, `role is "anyone"`},
		{func(_ *OIDC, c *Certificate) { c.Role = Consumer }, "an account belongs to a consumer"},
		{func(_ *OIDC, c *Certificate) { c.Scopes = []string{"all"} }, `scope is "all"`},
	} {
		p, c := provider, gateway
		tc.change(&p, &c)
		err := Config{OIDC: []OIDC{p}, Certificates: []Certificate{c}}.Validate()
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v, want %s", err, tc.want)
		}
	}
	twice := Config{OIDC: []OIDC{provider, provider}, Certificates: []Certificate{gateway, gateway}}
	if err := twice.Validate(); err == nil || strings.Count(err.Error(), "is there twice") != 2 {
		t.Errorf("entries that are there twice: %v", err)
	}
}
