package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog"
	"github.com/tollway/tollway/services/catalog/keys"
	"github.com/tollway/tollway/services/catalog/outbox"
	"github.com/tollway/tollway/services/platform/jwks"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/quota/extauthz"
	"github.com/tollway/tollway/sql"
)

// openLedger opens the ledger database and brings it to this version's schema.
func openLedger(ctx context.Context, p *process) (*ledger.DB, error) {
	db, err := ledger.Open(ctx, p.cfg.Ledger, p.log)
	if err != nil {
		return nil, err
	}
	p.onClose(func() { _ = db.Close() })
	steps, err := db.Migrate(ctx, sql.LedgerMigrations)
	if err != nil {
		return nil, err
	}
	if steps > 0 {
		p.log.Info().Int("steps", steps).Msg("ledger migrated")
	}
	return db, p.registry.Register(db)
}

// addCatalog keeps the record of accounts, products and plans, and publishes
// it.
func (p *process) addCatalog(ctx context.Context) error {
	db, err := openLedger(ctx, p)
	if err != nil {
		return err
	}
	publisher, err := outbox.New(p.cfg.Catalog.Outbox, outbox.Deps{
		Ledger: db, Producer: p.producer, Topics: p.kafka, Log: p.log, Registerer: p.registry,
	})
	if err != nil {
		return err
	}
	p.add("outbox", publisher.Run)
	service, err := catalog.New(p.cfg.Catalog, catalog.Deps{
		Ledger: db, Changed: publisher.Wake, LastUsed: p.tokens.LastUsed, Log: p.log, Registerer: p.registry,
	})
	if err != nil {
		return err
	}
	if err := service.Prepare(ctx); err != nil {
		return err
	}
	p.add("catalog", service.Run)
	p.admin.AddCheck("ledger", db.Ping)
	catalogv1.RegisterCatalogServer(p.server(), service)
	return p.serveREST(ctx, catalogv1.RegisterCatalogHandler)
}

// addQuota answers gateways in the request path: who calls, and may it.
func (p *process) addQuota(ctx context.Context) error {
	if !exists(p.cfg.Catalog.HashKeyFile) {
		return fmt.Errorf("there is no %s: without the hash key of the catalog's processes no API key is known; copy theirs, or name it in catalog.hash_key_file", p.cfg.Catalog.HashKeyFile)
	}
	key, err := keys.Load(p.cfg.Catalog.HashKeyFile)
	if err != nil {
		return err
	}
	deps := extauthz.Deps{Catalog: p.feed, HashKey: key, Clock: time.Now, Registry: p.registry}
	if len(p.cfg.Quota.Issuers) > 0 {
		verifier, err := jwks.New(p.cfg.Quota.Issuers, jwks.Deps{Registry: p.registry, Logger: p.log})
		if err != nil {
			return err
		}
		p.add("issuers", verifier.Run)
		deps.Verifier = bearer{verifier}
	}
	server, err := extauthz.New(p.cfg.Quota.ExtAuthz, deps)
	if err != nil {
		return err
	}
	server.Register(p.server())
	guarded := p.guard.Middleware(server)
	p.handle(extauthz.Path, guarded)
	p.handle(extauthz.Path+"/", guarded)
	return nil
}

// bearer reads the tokens that callers of the metered APIs bring.
type bearer struct{ verifier *jwks.Verifier }

func (b bearer) Verify(ctx context.Context, token string) (issuer, subject, clientID string, err error) {
	claims, err := b.verifier.Verify(ctx, token)
	if err != nil {
		if !errors.Is(err, jwks.ErrInvalid) {
			err = fmt.Errorf("%w: %w", extauthz.ErrUnavailable, err)
		}
		return "", "", "", err
	}
	// RFC 9068 has client_id, OpenID Connect azp.
	for _, name := range []string{"client_id", "azp"} {
		if clientID, _ = claims.All[name].(string); clientID != "" {
			break
		}
	}
	return claims.Issuer, claims.Subject, clientID, nil
}

// handle serves a path on the HTTP port, to which the collector gives what it
// does not serve itself. The handler checks its callers.
func (p *process) handle(pattern string, h http.Handler) {
	if p.collector != nil {
		p.collector.HandleOpen(pattern, h)
		return
	}
	if p.mux == nil {
		p.mux = http.NewServeMux()
		p.add("http", p.serveHTTP)
	}
	p.mux.Handle(pattern, h)
}
