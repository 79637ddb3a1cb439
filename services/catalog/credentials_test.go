package catalog_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog"
	"github.com/tollway/tollway/services/catalog/keys"
	"github.com/tollway/tollway/services/catalog/outbox"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

const shop = "accounts/acme/apps/shop"

func apiKey() *catalogv1.Credential {
	return &catalogv1.Credential{Kind: &catalogv1.Credential_ApiKey{ApiKey: &catalogv1.ApiKey{}}}
}

func (e *env) key(c *catalogv1.Credential) *catalogv1.Credential {
	e.t.Helper()
	return must[*catalogv1.Credential](e.t)(e.CreateCredential(manager, &catalogv1.CreateCredentialRequest{Parent: shop, Credential: c}))
}

func TestCredentials(t *testing.T) {
	e := newEnv(t, testenv.Ledger(t))
	e.offer()
	ok := must[*catalogv1.Credential](t)
	get := func(name string) *catalogv1.Credential {
		t.Helper()
		return ok(e.GetCredential(manager, &catalogv1.GetCredentialRequest{Name: name}))
	}
	made := e.key(apiKey())
	key := made.GetApiKey()
	if !strings.HasPrefix(key.GetKey(), key.GetPrefix()+"_") || !strings.HasPrefix(key.GetPrefix(), "tk_") {
		t.Fatal("the key does not begin with its prefix")
	}
	if read := get(made.GetName()); read.GetApiKey().GetKey() != "" || read.GetApiKey().GetPrefix() != key.GetPrefix() {
		t.Errorf("read %v", read)
	}
	if dry := ok(e.CreateCredential(manager, &catalogv1.CreateCredentialRequest{Parent: shop, Credential: apiKey(), ValidateOnly: true})); dry.GetApiKey().GetKey() != "" {
		t.Error("a dry run shows a key that will not be")
	}

	// Rotation: the new key holds at once, the old one for a while.
	old := e.key(&catalogv1.Credential{DisplayName: "main", Kind: apiKey().Kind, ExpireTime: at(began.AddDate(0, 0, 90))})
	e.clock.forward(time.Hour)
	next := ok(e.RotateCredential(manager, &catalogv1.RotateCredentialRequest{Name: old.GetName(), CredentialId: "next", Overlap: durationpb.New(time.Minute)}))
	if next.GetName() != shop+"/credentials/next" || next.GetApiKey().GetKey() == "" || next.GetApiKey().GetKey() == old.GetApiKey().GetKey() || next.GetDisplayName() != "main" {
		t.Errorf("next is %v", next)
	}
	if !next.GetExpireTime().AsTime().Equal(e.clock.Now().AddDate(0, 0, 90)) {
		t.Errorf("the next one lives until %v", next.GetExpireTime().AsTime())
	}
	if left := get(old.GetName()); !left.GetExpireTime().AsTime().Equal(e.clock.Now().Add(time.Minute)) {
		t.Errorf("the old one lives until %v", left.GetExpireTime().AsTime())
	}
	for _, overlap := range []time.Duration{-1, 91 * 24 * time.Hour} {
		_, err := e.RotateCredential(manager, &catalogv1.RotateCredentialRequest{Name: old.GetName(), Overlap: durationpb.New(overlap)})
		refused(t, err, codes.InvalidArgument, "overlap: must be between")
	}

	// Revocation cannot be taken back.
	revoked := ok(e.RevokeCredential(manager, &catalogv1.RevokeCredentialRequest{Name: made.GetName()}))
	if !revoked.GetRevokeTime().AsTime().Equal(e.clock.Now()) {
		t.Errorf("revoked: %v", revoked)
	}
	e.clock.forward(time.Hour)
	if again := ok(e.RevokeCredential(manager, &catalogv1.RevokeCredentialRequest{Name: made.GetName()})); !again.GetRevokeTime().AsTime().Equal(revoked.GetRevokeTime().AsTime()) || again.GetEtag() != revoked.GetEtag() {
		t.Errorf("revoked again: %v", again)
	}
	_, err := e.RotateCredential(manager, &catalogv1.RotateCredentialRequest{Name: made.GetName()})
	refused(t, err, codes.FailedPrecondition, "is revoked")
	update := func(c *catalogv1.Credential, paths ...string) error {
		c.Name = made.GetName()
		_, err := e.UpdateCredential(manager, &catalogv1.UpdateCredentialRequest{Credential: c, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		return err
	}
	refused(t, update(&catalogv1.Credential{ExpireTime: at(e.clock.Now().Add(time.Hour))}), codes.FailedPrecondition, "is revoked")
	if err := update(&catalogv1.Credential{}, "revoke_time"); err != nil || get(made.GetName()).GetRevokeTime() == nil {
		t.Errorf("the revocation was taken back: %v", err)
	}
	other := &catalogv1.Credential_OauthClient{OauthClient: &catalogv1.OAuthClient{Issuer: "https://idp.example", ClientId: "x"}}
	refused(t, update(&catalogv1.Credential{Kind: other}), codes.InvalidArgument, "cannot change")

	// What somebody has nobody else can have.
	for _, c := range []*catalogv1.Credential{
		{Kind: other},
		{Kind: &catalogv1.Credential_JwtSubject{JwtSubject: &catalogv1.JwtSubject{Issuer: "https://idp.example", Subject: "x"}}},
		{Kind: &catalogv1.Credential_ClientCertificate{ClientCertificate: &catalogv1.ClientCertificate{UriSan: "spiffe://acme.example/x"}}},
	} {
		first := e.key(c)
		_, err := e.CreateCredential(manager, &catalogv1.CreateCredentialRequest{Parent: shop, Credential: c})
		refused(t, err, codes.AlreadyExists, "is that of "+first.GetName()+" already")
		if _, err := e.RotateCredential(manager, &catalogv1.RotateCredentialRequest{Name: first.GetName()}); err == nil {
			t.Error("rotated what is no key")
		}
		if _, err := e.DeleteCredential(manager, &catalogv1.DeleteCredentialRequest{Name: first.GetName()}); err != nil {
			t.Error(err)
		}
		e.key(c)
	}
}

func TestHashKey(t *testing.T) {
	db := testenv.Ledger(t)
	e := newEnv(t, db)
	again, err := catalog.New(e.cfg, catalog.Deps{Ledger: db, Log: zerolog.Nop(), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Prepare(t.Context()); err != nil {
		t.Errorf("second start: %v", err)
	}
	cfg := e.cfg
	cfg.HashKeyFile += ".other"
	wrong, err := catalog.New(cfg, catalog.Deps{Ledger: db, Log: zerolog.Nop(), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if err := wrong.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "is not the hash key of this database") {
		t.Errorf("another key: %v", err)
	}
}

func TestRegister(t *testing.T) {
	for _, c := range []struct {
		registration catalog.Registration
		state        catalogv1.AccountState
	}{{catalog.Open, catalogv1.AccountState_ACCOUNT_ACTIVE}, {catalog.Approval, catalogv1.AccountState_ACCOUNT_PENDING}} {
		e := newEnv(t, testenv.Ledger(t), func(cfg *catalog.Config) { cfg.Registration, cfg.RegistrationsPerMinute = c.registration, 3 })
		conn := catalogv1.NewCatalogClient(e.serve())
		register := func(id string) (*catalogv1.RegisterResponse, error) {
			return conn.Register(context.Background(), &catalogv1.RegisterRequest{AccountId: id, DisplayName: "Initech", Email: "it@initech.example"})
		}
		r := must[*catalogv1.RegisterResponse](t)(register("initech"))
		if r.GetAccount().GetState() != c.state || r.GetToken().GetRole() != "consumer" || r.GetToken().GetAccount() != "accounts/initech" || !strings.HasPrefix(r.GetToken().GetToken(), "tw_con_") {
			t.Errorf("registered %v", r.GetAccount())
		}
		_, err := register("initech")
		refused(t, err, codes.AlreadyExists, "accounts/initech exists already")
		_, err = conn.Register(context.Background(), &catalogv1.RegisterRequest{DisplayName: "X"})
		refused(t, err, codes.InvalidArgument, "email: is required")
		_, err = register("Bad")
		refused(t, err, codes.InvalidArgument, "account_id")
		_, err = register("fourth")
		refused(t, err, codes.ResourceExhausted, "too many accounts")
		e.clock.forward(time.Minute)
		must[*catalogv1.RegisterResponse](t)(register("fourth"))
		log := must[*catalogv1.ListAuditEntriesResponse](t)(e.ListAuditEntries(admin, &catalogv1.ListAuditEntriesRequest{Name: "accounts/fourth"}))
		if log.GetEntries()[0].GetActor() != "anonymous" {
			t.Errorf("log %v", log)
		}
		// The next stranger must not come into the reports and the log of the last.
		must[*emptypb.Empty](t)(e.DeleteToken(admin, &catalogv1.DeleteTokenRequest{Name: r.GetToken().GetName()}))
		must[*emptypb.Empty](t)(e.DeleteAccount(admin, &catalogv1.DeleteAccountRequest{Name: "accounts/initech"}))
		_, err = register("initech")
		refused(t, err, codes.AlreadyExists, "accounts/initech was somebody's before")
		must[*catalogv1.Account](t)(e.CreateAccount(admin, &catalogv1.CreateAccountRequest{AccountId: "initech", Account: &catalogv1.Account{DisplayName: "Initech"}}))
	}
}

// collector is a log that keeps what is produced.
type collector struct{ messages []kafkaio.Message }

func (c *collector) Produce(_ context.Context, _ string, _ int, msgs []kafkaio.Message) error {
	c.messages = append(c.messages, msgs...)
	return nil
}

func (c *collector) Offsets(context.Context, string) (map[int32]kafkaio.OffsetRange, error) {
	return map[int32]kafkaio.OffsetRange{0: {Last: int64(len(c.messages))}}, nil
}

// tables are all that can hold text.
var tables = []string{"resources", "resource_references", "unique_keys", "subscription_periods", "audit", "outbox", "settings", "applied_sets", "token_uses"}

// TestRealNoSecretAnywhere makes secrets in every way, and looks for them in every
// table, message, log line and answer but the one that shows them.
func TestRealNoSecretAnywhere(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		e := newEnv(t, db, func(c *catalog.Config) { c.Registration = catalog.Open })
		e.offer()
		var secrets []string
		made := e.key(apiKey())
		secrets = append(secrets, made.GetApiKey().GetKey())
		secrets = append(secrets, must[*catalogv1.Credential](t)(e.RotateCredential(manager, &catalogv1.RotateCredentialRequest{Name: made.GetName()})).GetApiKey().GetKey())
		secrets = append(secrets, must[*catalogv1.Token](t)(e.CreateToken(admin, &catalogv1.CreateTokenRequest{Token: &catalogv1.Token{Role: "admin"}})).GetToken())
		secrets = append(secrets, must[*catalogv1.RegisterResponse](t)(e.Register(context.Background(), &catalogv1.RegisterRequest{DisplayName: "X", Email: "x@x.example"})).GetToken().GetToken())
		applied := must[*catalogv1.ApplyResponse](t)(e.Apply(admin, &catalogv1.ApplyRequest{Resources: []*catalogv1.Resource{
			res(&catalogv1.Credential{Name: shop + "/credentials/applied", Kind: apiKey().Kind}), res(&catalogv1.Token{Name: "tokens/applied", Role: "gateway"}),
		}}))
		secrets = append(secrets, applied.GetChanges()[0].GetAfter().GetCredential().GetApiKey().GetKey(), applied.GetChanges()[1].GetAfter().GetToken().GetToken())
		// What a caller sends as a key or a token is dropped.
		secrets = append(secrets, "tk_chosen__by_caller", "tw_adm_chosen_by_caller")
		e.key(&catalogv1.Credential{Kind: &catalogv1.Credential_ApiKey{ApiKey: &catalogv1.ApiKey{Key: "tk_chosen__by_caller", Prefix: "tk_chosen__by_caller"}}})
		must[*catalogv1.Token](t)(e.CreateToken(admin, &catalogv1.CreateTokenRequest{Token: &catalogv1.Token{Role: "admin", Token: "tw_adm_chosen_by_caller"}}))

		hashKey, err := os.ReadFile(e.cfg.HashKeyFile)
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, strings.TrimSpace(string(hashKey)))

		log := &collector{}
		publisher, err := outbox.New(outbox.DefaultConfig(), outbox.Deps{Ledger: db, Producer: log, Topics: log, Log: zerolog.Nop(), Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := publisher.Publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		places := map[string]string{"log": e.log.String()}
		for _, m := range log.messages {
			places["topic"] += string(m.Key) + string(m.Value)
		}
		for _, table := range tables {
			places[table] = dump(t, db, table)
		}
		credentials := must[*catalogv1.ListCredentialsResponse](t)(e.ListCredentials(admin, &catalogv1.ListCredentialsRequest{Parent: "accounts/-/apps/-"}))
		tokens := must[*catalogv1.ListTokensResponse](t)(e.ListTokens(admin, &catalogv1.ListTokensRequest{}))
		entries := must[*catalogv1.ListAuditEntriesResponse](t)(e.ListAuditEntries(admin, &catalogv1.ListAuditEntriesRequest{PageSize: 1000}))
		places["answers"] = protojson.Format(credentials) + protojson.Format(tokens) + protojson.Format(entries)
		if len(credentials.GetCredentials()) != 4 || len(tokens.GetTokens()) != 4 || len(log.messages) < 20 || !strings.Contains(places["resources"], shop) {
			t.Fatalf("looked at too little: %d credentials, %d tokens, %d messages", len(credentials.GetCredentials()), len(tokens.GetTokens()), len(log.messages))
		}
		for place, text := range places {
			for i, secret := range secrets {
				if len(secret) < 20 {
					t.Fatalf("secret %d is missing", i)
				}
				if strings.Contains(text, secret) {
					t.Errorf("secret %d is in %s", i, place)
				}
			}
		}
		// What is there is the hash, by which the key is recognized.
		key, err := keys.Load(e.cfg.HashKeyFile)
		if err != nil {
			t.Fatal(err)
		}
		if hash := hex.EncodeToString(key.Hash(secrets[0])); !strings.Contains(places["unique_keys"], "api_key:"+hash) || strings.Contains(places["audit"], hash) {
			t.Error("the hash is not where it belongs")
		}
		if !strings.Contains(places["topic"], string(key.Hash(secrets[0]))) {
			t.Error("the hash is not in the topic")
		}
	})
}

// dump is all text of a table.
func dump(t *testing.T, db *ledger.DB, table string) string {
	t.Helper()
	columns := map[string]string{
		"resources": "name || body", "resource_references": "name || target", "unique_keys": "key || name", "subscription_periods": "name || subject",
		"audit": "name || actor || COALESCE(before, '') || COALESCE(after, '') || request_id", "outbox": "name || COALESCE(body, '')",
		"settings": "key || value", "applied_sets": "name || set_name", "token_uses": "name",
	}
	var rows []string
	err := db.Read(t.Context(), func(tx *ledger.Tx) (err error) {
		rows, err = ledger.Select(t.Context(), tx, func(r ledger.Row) (s string, err error) {
			err = r.Scan(&s)
			return s, err
		}, fmt.Sprintf("SELECT %s FROM %s", columns[table], table))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(rows, "\n")
}

func TestLastUsed(t *testing.T) {
	db := testenv.Ledger(t)
	e := newEnv(t, db)
	token := must[*catalogv1.Token](t)(e.CreateToken(admin, &catalogv1.CreateTokenRequest{TokenId: "ci", Token: &catalogv1.Token{Role: "gateway"}}))
	used := began.Add(90 * time.Second)
	s, err := catalog.New(e.cfg, catalog.Deps{Ledger: db, Log: zerolog.New(e.log), Registerer: prometheus.NewRegistry(), LastUsed: func() map[string]time.Time {
		return map[string]time.Time{token.GetName(): used, "tokens/none": used, "file": used}
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // what was used is written down at the end
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
	read := must[*catalogv1.Token](t)(e.GetToken(admin, &catalogv1.GetTokenRequest{Name: token.GetName()}))
	if !read.GetLastUsedTime().AsTime().Equal(began.Add(time.Minute)) || read.GetEtag() != token.GetEtag() {
		t.Errorf("used: %v; log %s", read, e.log)
	}
	if list := must[*catalogv1.ListTokensResponse](t)(e.ListTokens(admin, &catalogv1.ListTokensRequest{Filter: "last_used_time:*"})); len(list.GetTokens()) != 1 {
		t.Errorf("listed: %v", list)
	}
}
