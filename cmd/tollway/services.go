package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/pipelines/delivery"
	"github.com/tollway/tollway/pipelines/load"
	"github.com/tollway/tollway/pipelines/reconcile"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/schemas/proto/tollway/events/v1"
	"github.com/tollway/tollway/schemas/proto/tollway/reports/v1"
	"github.com/tollway/tollway/services/catalog"
	"github.com/tollway/tollway/services/catalog/keys"
	"github.com/tollway/tollway/services/catalog/outbox"
	"github.com/tollway/tollway/services/collector"
	"github.com/tollway/tollway/services/collector/als"
	"github.com/tollway/tollway/services/collector/otlp"
	"github.com/tollway/tollway/services/collector/served"
	"github.com/tollway/tollway/services/events"
	"github.com/tollway/tollway/services/platform/auth"
	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/jwks"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/quota/extauthz"
	"github.com/tollway/tollway/services/reports"
	"github.com/tollway/tollway/sql"
)

// addCollector takes calls from every source.
func (p *process) addCollector(ctx context.Context) error {
	partitions, err := p.kafka.Partitions(ctx, p.cfg.Delivery.Topic)
	if err != nil {
		return err
	}
	cfg := p.cfg.Collector
	cfg.Publish.Topic = p.cfg.Delivery.Topic
	listener, err := p.listenHTTP(ctx)
	if err != nil {
		return err
	}
	p.onClose(func() { listener.Close() })
	p.collector, err = collector.New(cfg, collector.Deps{
		Log: p.producer, Partitions: len(partitions), Guard: p.guard.Middleware, Trusted: trusted,
		Listener: listener, Clock: time.Now, Registry: p.registry, Logger: p.log,
	})
	if err != nil {
		return err
	}
	publisher := p.collector.Publisher()
	access, err := als.New(p.cfg.ALS, als.Deps{Publisher: publisher, Trusted: trusted, Clock: time.Now, Metrics: p.registry, Logger: p.log})
	if err != nil {
		return err
	}
	access.Register(p.server())
	p.collector.Add("als", access.Run)
	logs, err := otlp.New(p.cfg.OTLP, otlp.Deps{Publisher: publisher, Trusted: trusted, Clock: time.Now, Metrics: p.registry, Logger: p.log})
	if err != nil {
		return err
	}
	logs.Register(p.server())
	p.collector.Handle(otlp.Path, logs)
	statistics, err := served.New(p.cfg.Served, served.Deps{Sink: servedTopic{p.producer}, Clock: time.Now, Metrics: p.registry, Logger: p.log})
	if err != nil {
		return err
	}
	statistics.Register(p.server())
	p.collector.Add("served", statistics.Run)
	p.add("collector", p.collector.Run)
	p.admin.AddCheck("collector", func(context.Context) error { return p.collector.Ready() })
	return nil
}

// servedTopic gives what gateways say they served to the log.
type servedTopic struct{ producer *kafkaio.Producer }

func (t servedTopic) Put(ctx context.Context, records []served.Served) error {
	messages := make([]kafkaio.Message, 0, len(records))
	for _, r := range records {
		value, err := served.Encode(r)
		if err != nil {
			return err
		}
		messages = append(messages, kafkaio.Message{Key: r.Key(), Value: value})
	}
	return t.producer.Produce(ctx, served.Topic, 0, messages)
}

// migrate brings the usage store to this program's schema.
func migrate(ctx context.Context, cfg Config) (int, error) {
	replicated := cfg.ClickHouse.Engine == clickhouse.Replicated
	return clickhouse.Migrate(ctx, cfg.ClickHouse.Config, sql.ClickHouseMigrations,
		sql.ClickHouseVariables(replicated, cfg.Retention.CallsDays, cfg.Retention.RollupsDays))
}

// addPipelines moves calls from the log into ClickHouse.
func (p *process) addPipelines(ctx context.Context) error {
	shards, err := clickhouse.OpenShards(ctx, p.cfg.ClickHouse.Config)
	if err != nil {
		return err
	}
	p.onClose(func() { closeAll(shards) })
	partitions, err := p.kafka.Partitions(ctx, p.cfg.Delivery.Topic)
	if err != nil {
		return err
	}
	loader := load.New(p.cfg.Load, shards, len(partitions), p.attribute, p.registry, p.log)
	p.consumer = delivery.New(p.cfg.Delivery, p.kafka, p.producer,
		func(partition int32) delivery.Store { return loader.Open(partition) }, p.registry, p.log)
	p.add("pipelines", func(ctx context.Context) error {
		if err := p.feed.Wait(ctx); err != nil {
			return err
		}
		return p.consumer.Run(ctx)
	})
	sealer, err := reconcile.New(p.cfg.Reconcile, reconcile.Deps{
		Shards: shards, Watermark: delivery.NewWatermark(p.kafka, p.cfg.Delivery), Metrics: p.registry, Logger: p.log,
	})
	if err != nil {
		return err
	}
	p.add("sealer", sealer.Run)
	statistics, err := reconcile.NewServedRunner(reconcile.DefaultServedConfig(), reconcile.ServedDeps{
		Client: p.kafka, DB: shards[0], Metrics: p.registry, Logger: p.log,
	})
	if err != nil {
		return err
	}
	p.add("served", statistics.Run)
	p.admin.AddCheck("pipelines", p.consumer.Ready)
	return nil
}

// attribute says who called what, by the catalog as it is known now.
func (p *process) attribute(batch *call.Batch) uint64 { return p.feed.Snapshot().Attribute(batch) }

// watermark says up to when everything is stored. It asks the log at most once
// a second.
type watermark struct {
	log   *delivery.Watermark
	mu    sync.Mutex
	asked time.Time
	last  time.Time
}

func (w *watermark) Watermark(ctx context.Context) (time.Time, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.asked) < time.Second {
		return w.last, nil
	}
	asked := time.Now()
	at, err := w.log.Complete(ctx)
	if err == nil {
		w.asked, w.last = asked, at
	}
	return at, err
}

// addReports answers queries.
func (p *process) addReports(ctx context.Context) error {
	db, err := clickhouse.Open(ctx, p.cfg.ClickHouse.reader().AllShards())
	if err != nil {
		return err
	}
	p.onClose(func() { _ = db.Close() })
	mark := &watermark{log: delivery.NewWatermark(p.kafka, p.cfg.Delivery)}
	report, err := reports.New(p.cfg.Reports, reports.Deps{
		Store: reports.ClickHouse(db), Watermark: mark, Caller: reports.Authenticated, Log: p.log, Registerer: p.registry,
	})
	if err != nil {
		return err
	}
	trace := events.New(events.Deps{
		Store: events.ClickHouse(db), Watermark: mark, Log: p.log,
		DeadLetters: &deadLetters{p.kafka, p.producer, p.cfg.Delivery.DeadLetterTopic},
	})
	reportsv1.RegisterReportsServer(p.server(), report)
	eventsv1.RegisterEventsServer(p.server(), trace)

	return p.serveREST(ctx, reportsv1.RegisterReportsHandler, eventsv1.RegisterEventsHandler)
}

// trusted tells whether a caller may say which account and product a call
// belongs to.
func trusted(ctx context.Context) bool {
	p, ok := auth.FromContext(ctx)
	return ok && (p.Role == auth.Gateway || p.Role == auth.Admin)
}

// openLedger opens the ledger database and brings it to this version's schema.
func (p *process) openLedger(ctx context.Context) (*ledger.DB, error) {
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
	db, err := p.openLedger(ctx)
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
