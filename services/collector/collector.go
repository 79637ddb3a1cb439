// Package collector takes calls from every source and gives them to the log.
//
// In: POST /v1/events (package events), JSON access logs (package filetail),
// and the sources that are added to it: Envoy's gRPC access log (als) and
// OpenTelemetry logs (otlp). Out: Arrow messages in the log (package publish),
// and to each source word of what was acknowledged.
//
// It validates, stamps and identifies calls and does nothing else: what a call
// means is decided in the pipelines. A crash loses what no source was told to
// be acknowledged; the sources send it again, and copies have the same identity.
package collector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/tollway/tollway/services/collector/events"
	"github.com/tollway/tollway/services/collector/filetail"
	"github.com/tollway/tollway/services/collector/publish"
	"github.com/tollway/tollway/services/platform/logging"
)

// Deps is what a collector works with.
type Deps struct {
	Log        publish.Log
	Partitions int // of the topic
	// Guard wraps the HTTP sources: it checks tokens and marks the request's
	// context. nil lets everybody in.
	Guard func(http.Handler) http.Handler
	// Trusted says whether a request may name account, product and the like.
	Trusted func(ctx context.Context) bool
	// Listener serves HTTP, with TLS if it has it; nil listens on the
	// configured address.
	Listener net.Listener
	Clock    func() time.Time
	Registry prometheus.Registerer
	Logger   zerolog.Logger
}

// Collector is all sources and the publisher behind them.
type Collector struct {
	cfg       Config
	deps      Deps
	publisher *publish.Publisher
	mux       *http.ServeMux
	sources   []source
	address   chan net.Addr
}

// source is something that runs until its context ends, and needs the publisher
// for as long as it runs.
type source struct {
	name string
	run  func(ctx context.Context) error
}

// New makes a collector.
func New(cfg Config, deps Deps) (*Collector, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("collector config: %w", err)
	}
	if deps.Partitions < 1 {
		return nil, fmt.Errorf("collector: topic %s has %d partitions", cfg.Publish.Topic, deps.Partitions)
	}
	c := &Collector{
		cfg: cfg, deps: deps, mux: http.NewServeMux(), address: make(chan net.Addr, 1),
		publisher: publish.New(cfg.Publish, deps.Partitions, deps.Log, deps.Clock, deps.Registry, deps.Logger),
	}
	c.Handle("/v1/events", events.New(cfg.Events, events.Deps{
		Publisher: c.publisher, Trusted: deps.Trusted, Clock: deps.Clock, Registry: deps.Registry, Logger: deps.Logger,
	}))
	c.Add("http", c.serve)
	if len(cfg.Files.Files) > 0 {
		tailer, err := filetail.New(cfg.Files, filetail.Deps{
			Publisher: c.publisher, Clock: deps.Clock, Registry: deps.Registry, Logger: deps.Logger,
		})
		if err != nil {
			return nil, err
		}
		c.Add("files", tailer.Run)
	}
	return c, nil
}

// Publisher is what an added source gives its calls to.
func (c *Collector) Publisher() *publish.Publisher { return c.publisher }

// Add lets Run run a source too: it is stopped before the publisher is.
func (c *Collector) Add(name string, run func(ctx context.Context) error) {
	c.sources = append(c.sources, source{name, run})
}

// Handle serves a path of an added source, such as OTLP's, behind the guard.
func (c *Collector) Handle(pattern string, h http.Handler) {
	if c.deps.Guard != nil {
		h = c.deps.Guard(h)
	}
	c.mux.Handle(pattern, h)
}

// HandleOpen serves a path without the guard, for a handler that checks callers
// itself.
func (c *Collector) HandleOpen(pattern string, h http.Handler) { c.mux.Handle(pattern, h) }

// Run runs everything until ctx ends or a source fails. Sources stop first, and
// what they gave is sent before the publisher stops.
func (c *Collector) Run(ctx context.Context) error {
	publishing, stopPublisher := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPublisher()
	published := make(chan error, 1)
	go func() { published <- c.publisher.Run(publishing) }()

	sourcing, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var sources sync.WaitGroup
	errs := make([]error, len(c.sources))
	for i, s := range c.sources {
		sources.Go(func() {
			if err := s.run(sourcing); err != nil {
				errs[i] = fmt.Errorf("%s: %w", s.name, err)
				stop(errs[i])
			}
		})
	}
	<-sourcing.Done()
	sources.Wait()
	stopPublisher()
	return errors.Join(append(errs, <-published)...)
}

// Ready says whether calls get through to the log.
func (c *Collector) Ready() error {
	if age := c.publisher.Oldest(); age > c.cfg.MaxUnacknowledged {
		return fmt.Errorf("the log has not acknowledged anything for %s", age.Round(time.Second))
	}
	return nil
}

// Addr is the address of the HTTP sources, once Run listens on it.
func (c *Collector) Addr(ctx context.Context) (net.Addr, error) {
	select {
	case addr := <-c.address:
		c.address <- addr
		return addr, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve is the HTTP source.
func (c *Collector) serve(ctx context.Context) error {
	listener := c.deps.Listener
	if listener == nil {
		var lc net.ListenConfig
		var err error
		if listener, err = lc.Listen(ctx, "tcp", c.cfg.HTTP.Address); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
	c.address <- listener.Addr()
	server := &http.Server{
		Handler:           c.mux,
		ReadHeaderTimeout: c.cfg.HTTP.ReadTimeout,
		ReadTimeout:       c.cfg.HTTP.ReadTimeout,
		WriteTimeout:      c.cfg.HTTP.ReadTimeout + c.cfg.Events.AckTimeout + time.Second,
		IdleTimeout:       c.cfg.HTTP.IdleTimeout,
		ErrorLog:          logging.HTTP(c.deps.Logger),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.HTTP.StopTimeout)
	defer cancel()
	err := server.Shutdown(last)
	if err != nil {
		err = fmt.Errorf("stop: %w", errors.Join(err, server.Close()))
	}
	if end := <-served; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, end)
	}
	return err
}
