package main

import (
	"context"
	"errors"
	"fmt"
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

	"github.com/tollway/tollway/pipelines/delivery"
	"github.com/tollway/tollway/services/catalog/feed"
	"github.com/tollway/tollway/services/collector"
	"github.com/tollway/tollway/services/collector/als"
	"github.com/tollway/tollway/services/collector/served"
	"github.com/tollway/tollway/services/platform/admin"
	"github.com/tollway/tollway/services/platform/auth"
	"github.com/tollway/tollway/services/platform/certs"
	"github.com/tollway/tollway/services/platform/jwks"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/logging"
	"github.com/tollway/tollway/services/platform/rest"
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

// server is the gRPC server that services register with.
func (p *process) server() *grpc.Server {
	if p.grpc == nil {
		p.grpc = grpc.NewServer(append(als.ServerOptions(), grpc.Creds(rest.Credentials(p.network)),
			grpc.InTapHandle(p.guard.Tap()), grpc.UnaryInterceptor(p.guard.Unary()), grpc.StreamInterceptor(p.guard.Stream()))...)
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
