package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/pipelines/delivery"
	"github.com/tollway/tollway/pipelines/load"
	"github.com/tollway/tollway/pipelines/reconcile"
	"github.com/tollway/tollway/schemas/proto/tollway/events/v1"
	"github.com/tollway/tollway/schemas/proto/tollway/reports/v1"
	"github.com/tollway/tollway/services/catalog"
	"github.com/tollway/tollway/services/catalog/feed"
	"github.com/tollway/tollway/services/collector"
	"github.com/tollway/tollway/services/collector/als"
	"github.com/tollway/tollway/services/collector/otlp"
	"github.com/tollway/tollway/services/collector/served"
	"github.com/tollway/tollway/services/events"
	"github.com/tollway/tollway/services/platform/admin"
	"github.com/tollway/tollway/services/platform/auth"
	"github.com/tollway/tollway/services/platform/certs"
	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/jwks"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/logging"
	"github.com/tollway/tollway/services/platform/rest"
	"github.com/tollway/tollway/services/quota/extauthz"
	"github.com/tollway/tollway/services/reports"
	"github.com/tollway/tollway/sql"
)

// process is what runs in one operating-system process: the services it was
// asked for, one port for gRPC, one for HTTP and one for operators.
type process struct {
	cfg      Config
	log      zerolog.Logger
	registry *prometheus.Registry
	admin    *admin.Server
	auth     *auth.Chain
	tokens   *auth.StoredTokens // access tokens of the catalog
	guard    *auth.Guard
	kafka    *kafkaio.Client
	producer *kafkaio.Producer
	feed     *feed.Feed // the catalog as it is published
	grpc     *grpc.Server
	network  credentials.TransportCredentials // of the gRPC port
	rest     *rest.Gateway
	mux      *http.ServeMux // of the HTTP port; nil where the collector has it
	parts    []part
	closes   []func()

	collector *collector.Collector
	consumer  *delivery.Consumer
}

// part is what works in a process until its context ends.
type part struct {
	name string
	run  func(ctx context.Context) error
}

// newProcess prepares what all services need. The data folder holds the
// tokens.
func newProcess(ctx context.Context, cfg Config, data string, log zerolog.Logger) (*process, error) {
	p := &process{cfg: cfg, log: log, registry: prometheus.NewRegistry()}
	p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	adminConfig := admin.DefaultConfig()
	adminConfig.Listen, adminConfig.TLS, adminConfig.Pprof = cfg.Listen.Admin, cfg.Listen.AdminTLS, cfg.Listen.Pprof
	var err error
	if p.admin, err = admin.New(adminConfig, p.registry, log); err != nil {
		return nil, err
	}
	p.add("admin", p.admin.Run)

	if err := auth.FirstStart(data); err != nil {
		return nil, err
	}
	tokens, err := auth.OpenTokens(filepath.Join(data, auth.TokensFile), log)
	if err != nil {
		return nil, err
	}
	p.auth = auth.NewChain(p.registry, tokens, auth.Certificates(cfg.Auth.Certificates))
	if err := p.addLogins(); err != nil {
		return nil, err
	}
	if p.guard, err = auth.NewGuard(p.auth, rules()); err != nil {
		return nil, err
	}
	if p.network, err = p.networkCredentials(); err != nil {
		return nil, err
	}
	if p.kafka, err = kafkaio.Open(cfg.Kafka.Config, log, kafkaio.WithRegisterer(p.registry)); err != nil {
		return nil, err
	}
	p.onClose(func() { _ = p.kafka.Close() })
	if p.producer, err = kafkaio.NewProducer(p.kafka, cfg.Kafka.Producer); err != nil {
		return nil, err
	}
	if err := ensureTopics(ctx, p.kafka, cfg); err != nil {
		return p, err
	}
	return p, p.addFeed()
}

// addFeed follows the published catalog. Every process does: access tokens are
// in it.
func (p *process) addFeed() error {
	var err error
	if p.feed, err = feed.New(p.cfg.Feed, p.kafka, p.registry, p.log); err != nil {
		return err
	}
	p.add("feed", p.feed.Run)
	p.admin.AddCheck("catalog feed", p.feed.Ready)
	p.tokens = auth.NewStoredTokens(p.feed)
	p.auth.Add(p.tokens)
	return nil
}

// addLogins lets in who has logged in with an identity provider.
func (p *process) addLogins() error {
	if len(p.cfg.Auth.OIDC) == 0 {
		return nil
	}
	verifier, err := jwks.New(p.cfg.Auth.Issuers(), jwks.Deps{Registry: p.registry, Logger: p.log})
	if err != nil {
		return err
	}
	p.add("logins", verifier.Run)
	p.auth.Add(auth.Logins(p.cfg.Auth.OIDC, verifier))
	return nil
}

func (p *process) add(name string, fn func(ctx context.Context) error) {
	p.parts = append(p.parts, part{name, fn})
}

func (p *process) onClose(fn func()) { p.closes = append(p.closes, fn) }

func (p *process) close() {
	for _, fn := range slices.Backward(p.closes) {
		fn()
	}
}

// rules is who may call what. What is not here is refused to everyone.
func rules() auth.Rules {
	ingest := auth.Rule{Roles: []auth.Role{auth.Gateway, auth.Admin}, Scope: "events.write"}
	all := auth.Rules{
		"/envoy.service.accesslog.v3.AccessLogService/*":       ingest,
		"/envoy.service.metrics.v3.MetricsService/*":           ingest,
		"/opentelemetry.proto.collector.logs.v1.LogsService/*": ingest,
		"POST /v1/events":                        ingest,
		"POST /v1/logs":                          ingest,
		"/envoy.service.auth.v3.Authorization/*": {Roles: ingest.Roles, Scope: "quota.check"},
	}
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions} {
		all[method+" "+extauthz.Path+"*"] = auth.Rule{Roles: ingest.Roles, Scope: "quota.check"}
	}
	maps.Copy(all, catalog.Rules)
	for scope, table := range map[string]map[string][]string{"reports.read": reports.Rules, "events.read": events.Rules} {
		for method, roles := range table {
			rule := auth.Rule{Scope: scope}
			for _, role := range roles {
				rule.Roles = append(rule.Roles, auth.Role(role))
			}
			// A report has no name: the reports service ties it to the account.
			rule.SelfScoped = slices.Contains(rule.Roles, auth.Consumer)
			if method == eventsv1.Events_RedriveDeadLetters_FullMethodName {
				rule.Scope = "events.write"
			}
			all[method] = rule
		}
	}
	return all
}

// ensureTopics makes the topics, or checks those that are there.
func ensureTopics(ctx context.Context, client *kafkaio.Client, cfg Config) error {
	keep, keepLetters := retention(cfg.Kafka.RetentionDays), retention(cfg.Kafka.DeadLetterRetentionDays)
	for _, t := range []kafkaio.TopicSpec{
		{Name: cfg.Delivery.Topic, Partitions: cfg.Kafka.Partitions, Config: map[string]string{"message.timestamp.type": "LogAppendTime", "retention.ms": keep}},
		{Name: cfg.Delivery.DeadLetterTopic, Partitions: 1, Config: map[string]string{"retention.ms": keepLetters}},
		{Name: cfg.Feed.Topic, Partitions: 1, Config: map[string]string{"cleanup.policy": "compact"}},
		{Name: served.Topic, Partitions: 1, Config: map[string]string{"retention.ms": keep}},
	} {
		t.ReplicationFactor = cfg.Kafka.Replication
		if err := client.EnsureTopic(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// trusted tells whether a caller may say which account and product a call
// belongs to.
func trusted(ctx context.Context) bool {
	p, ok := auth.FromContext(ctx)
	return ok && (p.Role == auth.Gateway || p.Role == auth.Admin)
}

// server is the gRPC server that services register with.
func (p *process) server() *grpc.Server {
	if p.grpc == nil {
		p.grpc = grpc.NewServer(append(als.ServerOptions(), grpc.Creds(rest.Credentials(p.network)),
			grpc.UnaryInterceptor(p.guard.Unary()), grpc.StreamInterceptor(p.guard.Stream()))...)
	}
	return p.grpc
}

// networkCredentials are what connections to the gRPC port are secured with.
func (p *process) networkCredentials() (credentials.TransportCredentials, error) {
	if !p.cfg.Listen.TLS.Enabled() {
		return insecure.NewCredentials(), nil
	}
	files, err := certs.Open(p.cfg.Listen.TLS, p.log, "h2")
	if err != nil {
		return nil, err
	}
	return credentials.NewTLS(files.Server()), p.registry.Register(files.Expiry("grpc"))
}

// serveREST lets HTTP callers reach services that are registered with the gRPC
// server. What the collector does not serve itself goes there too.
func (p *process) serveREST(ctx context.Context, services ...rest.Registration) error {
	if p.rest != nil {
		return p.rest.Register(ctx, services...)
	}
	var err error
	if p.rest, err = rest.New(p.guard); err != nil {
		return err
	}
	p.onClose(func() { _ = p.rest.Close() })
	p.add("rest", func(ctx context.Context) error { return p.rest.Serve(ctx, p.server()) })
	p.handle("/", p.rest)
	return p.rest.Register(ctx, services...)
}

// listenHTTP opens the port for HTTP.
func (p *process) listenHTTP(ctx context.Context) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", p.cfg.Listen.HTTP)
	if err != nil || !p.cfg.Listen.TLS.Enabled() {
		return listener, err
	}
	files, err := certs.Open(p.cfg.Listen.TLS, p.log, "h2", "http/1.1")
	if err != nil {
		listener.Close()
		return nil, err
	}
	return files.Listen(listener), p.registry.Register(files.Expiry("http"))
}

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

func (p *process) serveHTTP(ctx context.Context) error {
	listener, err := p.listenHTTP(ctx)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: p.mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: logging.HTTP(p.log)}
	stopped := context.AfterFunc(ctx, func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = server.Shutdown(last) // what is left is cut off
	})
	defer stopped()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (p *process) serveGRPC(ctx context.Context) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", p.cfg.Listen.GRPC)
	if err != nil {
		return err
	}
	stopped := context.AfterFunc(ctx, p.grpc.GracefulStop)
	defer stopped()
	return p.grpc.Serve(listener)
}

// run runs every part until ctx ends or one fails, and then stops them all.
func (p *process) run(ctx context.Context) error {
	if p.grpc != nil {
		if missing := p.guard.Missing(p.grpc); len(missing) > 0 {
			return fmt.Errorf("no rule says who may call %v", missing)
		}
		p.add("grpc", p.serveGRPC)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	errs := make([]error, len(p.parts))
	for i, r := range p.parts {
		wg.Go(func() {
			err := r.run(ctx)
			if err != nil && !errors.Is(err, context.Canceled) {
				errs[i] = fmt.Errorf("%s: %w", r.name, err)
			} else if ctx.Err() == nil {
				errs[i] = fmt.Errorf("%s: ended by itself", r.name)
			}
			if errs[i] != nil {
				stop(errs[i])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
