// Package admin is the operators' HTTP port of a process: metrics, liveness,
// readiness and, when switched on, profiles. In come a Prometheus registry and
// named checks; out go plain answers without business data. It asks for no token,
// so it listens on loopback unless told otherwise; with TLS it can ask for a client
// certificate. It keeps nothing, so a crash loses nothing.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tollway/tollway/services/platform/certs"
	"github.com/tollway/tollway/services/platform/logging"
)

// Config says where to listen and what to show.
type Config struct {
	// Listen is host:port; port 0 picks a free one.
	Listen string `yaml:"listen"`
	// TLS is for the port; without certificates it is plain.
	TLS certs.Config `yaml:"tls"`
	// Pprof shows profiles under /debug/pprof. They tell much about a process.
	Pprof bool `yaml:"pprof"`
	// CheckTimeout limits each readiness check.
	CheckTimeout time.Duration `yaml:"check_timeout"`
}

// DefaultConfig listens on loopback only.
func DefaultConfig() Config {
	return Config{Listen: "127.0.0.1:9100", CheckTimeout: 2 * time.Second}
}

// Validate checks the address and the time limit.
func (c Config) Validate() error {
	var errs []error
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		errs = append(errs, fmt.Errorf("listen is %q, must be host:port", c.Listen))
	}
	if err := c.TLS.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("tls: %w", err))
	}
	if c.CheckTimeout <= 0 {
		errs = append(errs, fmt.Errorf("check_timeout is %s, must be above zero", c.CheckTimeout))
	}
	return errors.Join(errs...)
}

// Check tells whether a part can do its work: nil, or the reason why not.
type Check func(ctx context.Context) error

// Registry is what metrics are read from and the server's own go to.
type Registry interface {
	prometheus.Gatherer
	prometheus.Registerer
}

// Server is the admin port.
type Server struct {
	cfg      Config
	log      zerolog.Logger
	handler  http.Handler
	certs    *certs.Files // nil without TLS
	listener net.Listener

	mu     sync.Mutex
	checks map[string]Check
}

// New makes a server that does not listen yet.
func New(cfg Config, reg Registry, log zerolog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("admin config: %w", err)
	}
	s := &Server{cfg: cfg, log: log, checks: map[string]Check{}}
	if cfg.TLS.Enabled() {
		var err error
		if s.certs, err = certs.Open(cfg.TLS, log, "h2", "http/1.1"); err != nil {
			return nil, fmt.Errorf("admin port: %w", err)
		}
		if err := reg.Register(s.certs.Expiry("admin")); err != nil {
			return nil, fmt.Errorf("admin port: %w", err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg, ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"state": "live"})
	})
	mux.HandleFunc("GET /readyz", s.readyz)
	if cfg.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	s.handler = mux
	return s, nil
}

// AddCheck adds or replaces a readiness check. It may be called while running.
func (s *Server) AddCheck(name string, check Check) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks[name] = check
}

// Handler serves the port's paths, for tests and for sharing another port.
func (s *Server) Handler() http.Handler { return s.handler }

// Listen opens the port, so that the address is known before Run.
func (s *Server) Listen() (net.Addr, error) {
	l, err := net.Listen("tcp", s.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for admin requests: %w", err)
	}
	if s.certs != nil {
		l = s.certs.Listen(l)
	}
	s.listener = l
	return l.Addr(), nil
}

// Run serves until the context ends, and then waits a moment for running
// requests.
func (s *Server) Run(ctx context.Context) error {
	if s.listener == nil {
		if _, err := s.Listen(); err != nil {
			return err
		}
	}
	srv := &http.Server{Handler: s.handler, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 1 << 14, ErrorLog: logging.HTTP(s.log)}
	s.log.Info().Stringer("address", s.listener.Addr()).Msg("admin port is open")
	served := make(chan error, 1)
	go func() { served <- srv.Serve(s.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve admin requests: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		_ = srv.Close() // a profile or a slow scrape does not hold up the process
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve admin requests: %w", err)
	}
	return nil
}

// CheckResult is one line of the readiness answer.
type CheckResult struct {
	State  string `json:"state"` // ready or not_ready
	Reason string `json:"reason,omitempty"`
}

// Ready runs every check, all at the same time, and tells whether all are well.
func (s *Server) Ready(ctx context.Context) (bool, map[string]CheckResult) {
	s.mu.Lock()
	checks := maps.Clone(s.checks)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CheckTimeout)
	defer cancel()
	names := slices.Sorted(maps.Keys(checks))
	reasons := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { reasons[i] = checks[name](ctx) })
	}
	wg.Wait()
	ready, out := true, map[string]CheckResult{}
	for i, name := range names {
		out[name] = CheckResult{State: "ready"}
		if reasons[i] != nil {
			ready = false
			out[name] = CheckResult{State: "not_ready", Reason: reasons[i].Error()}
		}
	}
	return ready, out
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	ready, checks := s.Ready(r.Context())
	status, state := http.StatusOK, "ready"
	if !ready {
		status, state = http.StatusServiceUnavailable, "not_ready"
	}
	writeJSON(w, status, map[string]any{"state": state, "checks": checks})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // nobody is left to tell when the caller is gone
}

// RegisterHealth adds the standard gRPC health service to srv. Run the returned
// function beside the server: it keeps the status equal to the readiness checks
// until the context ends, and then reports not serving.
func (s *Server) RegisterHealth(srv *grpc.Server) (run func(ctx context.Context) error) {
	h := health.NewServer()
	h.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(srv, h)
	return func(ctx context.Context) error {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		defer h.Shutdown()
		for {
			status := healthpb.HealthCheckResponse_NOT_SERVING
			if ready, _ := s.Ready(ctx); ready {
				status = healthpb.HealthCheckResponse_SERVING
			}
			h.SetServingStatus("", status)
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	}
}
