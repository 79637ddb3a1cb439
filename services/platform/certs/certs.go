// Package certs serves TLS with certificates from files that are replaced while
// the process runs. In come the paths of a certificate, its key and the
// authorities of clients; out comes a tls.Config that follows the files. New files
// are taken over with the next connection; files that do not fit together leave
// the earlier ones in use. It keeps nothing; a crash loses nothing.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// Config names the files of a listener. Without a certificate it has no TLS.
type Config struct {
	CertFile string `yaml:"cert_file"` // PEM, the leaf first
	KeyFile  string `yaml:"key_file"`
	// ClientCAFile has the authorities whose client certificates are accepted.
	ClientCAFile string `yaml:"client_ca_file"`
	// RequireClientCert refuses connections without one.
	RequireClientCert bool `yaml:"require_client_cert"`
}

// Enabled tells whether there is to be TLS.
func (c Config) Enabled() bool { return c.CertFile != "" }

// Validate checks that the fields fit together, and not what is in the files.
func (c Config) Validate() error {
	switch {
	case (c.CertFile == "") != (c.KeyFile == ""):
		return errors.New("cert_file and key_file belong together")
	case c.ClientCAFile != "" && !c.Enabled():
		return errors.New("client_ca_file needs cert_file and key_file")
	case c.RequireClientCert && c.ClientCAFile == "":
		return errors.New("require_client_cert needs client_ca_file")
	}
	return nil
}

// recheck is how long a change of the files may go unnoticed.
const recheck = time.Second

// Files is a listener's certificates.
type Files struct {
	cfg       Config
	protocols []string
	log       zerolog.Logger
	now       func() time.Time

	current atomic.Pointer[tls.Config]
	next    atomic.Int64 // when to look at the files again, Unix nanoseconds

	mu     sync.Mutex
	seen   []fileState
	failed string // the error that was logged last
}

type fileState struct {
	modified int64 // Unix nanoseconds
	size     int64
}

// Open reads the files. Protocols are those of the application, such as h2, in
// order of preference.
func Open(cfg Config, log zerolog.Logger, protocols ...string) (*Files, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	if !cfg.Enabled() {
		return nil, errors.New("tls: no certificate is configured")
	}
	f := &Files{cfg: cfg, protocols: protocols, log: log, now: time.Now}
	if err := f.reload(); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return f, nil
}

// Server is for a listener.
func (f *Files) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: f.protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			f.follow()
			return f.current.Load(), nil
		},
	}
}

// Listen wraps a listener.
func (f *Files) Listen(l net.Listener) net.Listener { return tls.NewListener(l, f.Server()) }

// Expiry is a gauge of when the certificate in use ends.
func (f *Files) Expiry(listener string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tollway_certs_expiry_timestamp_seconds", Help: "When the certificate of a listener expires, in Unix time.",
		ConstLabels: prometheus.Labels{"listener": listener},
	}, func() float64 { return float64(f.current.Load().Certificates[0].Leaf.NotAfter.Unix()) })
}

// follow reads the files again if they have changed. A connection waits for it,
// since it may come with a certificate that only the new files accept.
func (f *Files) follow() {
	now := f.now()
	next := f.next.Load()
	wait := next - now.UnixNano()
	// A wait longer than was set means that the clock was put back.
	if wait > 0 && wait <= int64(recheck) || !f.next.CompareAndSwap(next, now.Add(recheck).UnixNano()) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.reload()
	if err != nil && err.Error() != f.failed { // not with every connection
		f.failed = err.Error()
		f.log.Error().Err(err).Str("cert_file", f.cfg.CertFile).Msg("changed certificates are not taken over, the earlier ones stay in use")
	}
}

// reload takes the files over if they have changed since it last looked.
func (f *Files) reload() error {
	// The state is noted before reading: what is written meanwhile is a new state.
	state, err := f.state()
	if err != nil {
		return err
	}
	if slices.Equal(state, f.seen) {
		return nil
	}
	f.seen = state
	next, err := f.cfg.read()
	if err != nil {
		return err
	}
	f.failed = ""
	next.NextProtos = f.protocols
	if f.current.Swap(next) != nil {
		f.log.Info().Str("cert_file", f.cfg.CertFile).Time("expires", next.Certificates[0].Leaf.NotAfter).Msg("changed certificates are in use")
	}
	return nil
}

func (f *Files) state() ([]fileState, error) {
	var out []fileState
	for _, path := range []string{f.cfg.CertFile, f.cfg.KeyFile, f.cfg.ClientCAFile} {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("read certificates: %w", err)
		}
		out = append(out, fileState{info.ModTime().UnixNano(), info.Size()})
	}
	return out, nil
}

// read makes a configuration of the files.
func (c Config) read() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if c.ClientCAFile != "" {
		if out.ClientCAs, err = Pool(c.ClientCAFile); err != nil {
			return nil, err
		}
		out.ClientAuth = tls.VerifyClientCertIfGiven
		// A session that is resumed would bring back a client whose authority may no
		// longer be trusted.
		out.SessionTicketsDisabled = true
	}
	if c.RequireClientCert {
		out.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return out, nil
}

// Pool reads a file of authorities.
func Pool(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read authorities: %s has no certificate in PEM", path)
	}
	return pool, nil
}

// ClientConfig names the files of who connects.
type ClientConfig struct {
	// CAFile has the authorities that the server's certificate may be from; empty
	// means those of the system.
	CAFile string
	// CertFile and KeyFile are the client's own, where a server wants them.
	CertFile, KeyFile string
}

// Client reads the files, once.
func Client(c ClientConfig) (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pool, err := Pool(c.CAFile)
		if err != nil {
			return nil, err
		}
		out.RootCAs = pool
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return nil, errors.New("a client's certificate and its key belong together")
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}
