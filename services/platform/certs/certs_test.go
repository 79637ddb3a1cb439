package certs

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/tollway/tollway/services/platform/certs/certstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server greets whoever gets through the handshake, with the client's first URI.
type server struct {
	files *Files
	addr  string
	log   *bytes.Buffer
	mu    sync.Mutex
	now   time.Time
}

func start(t *testing.T, cfg Config) *server {
	t.Helper()
	s := &server{log: &bytes.Buffer{}, now: time.Now()}
	var err error
	if s.files, err = Open(cfg, zerolog.New(s.log), "greeting"); err != nil {
		t.Fatal(err)
	}
	s.files.now = func() time.Time {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.now
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := s.files.Listen(inner)
	s.addr = l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			greeting := "hello"
			if c := conn.(*tls.Conn); c.Handshake() == nil && len(c.ConnectionState().VerifiedChains) > 0 {
				greeting = c.ConnectionState().PeerCertificates[0].URIs[0].String()
			}
			_, _ = io.WriteString(conn, greeting)
			conn.Close()
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return s
}

// later lets the server look at its files again.
func (s *server) later() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(recheck)
}

// dial returns what the server says and the serial number of its certificate.
func (s *server) dial(t *testing.T, client ClientConfig, change func(*tls.Config)) (string, string, error) {
	t.Helper()
	cfg, err := Client(client)
	if err != nil {
		t.Fatal(err)
	}
	cfg.NextProtos = []string{"greeting"}
	if change != nil {
		change(cfg)
	}
	conn, err := tls.Dial("tcp", s.addr, cfg)
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	text, err := io.ReadAll(conn) // with TLS 1.3 the server's refusal comes after the handshake
	return string(text), conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), err
}

func TestFollowsTheFiles(t *testing.T) {
	ca := certstest.NewAuthority(t)
	cert, key := ca.Issue(t, "127.0.0.1")
	s := start(t, Config{CertFile: cert, KeyFile: key})
	client := ClientConfig{CAFile: ca.File}
	serial := func() string {
		t.Helper()
		s.later()
		text, serial, err := s.dial(t, client, nil)
		if err != nil || text != "hello" {
			t.Fatalf("%q %v", text, err)
		}
		return serial
	}
	first := serial()
	ca.Issue(t, "127.0.0.1")
	second := serial()
	if second == first {
		t.Error("a new certificate is not taken over")
	}
	oldKey, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	ca.Issue(t, "127.0.0.1")
	newKey, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, broken := range [][]byte{oldKey, []byte("no key"), nil} {
		if broken != nil {
			err = os.WriteFile(key, broken, 0o600)
		} else {
			err = os.Remove(key)
		}
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if got := serial(); got != second {
				t.Errorf("with the key %.20q the certificate is %s", broken, got)
			}
		}
	}
	if n := strings.Count(s.log.String(), "not taken over"); n != 3 {
		t.Errorf("three errors are logged %d times:\n%s", n, s.log)
	}
	if strings.Contains(s.log.String(), "PRIVATE") {
		t.Errorf("a key is in the log: %s", s.log)
	}
	if err := os.WriteFile(key, newKey, 0o600); err != nil {
		t.Fatal(err)
	}
	if third := serial(); third == second {
		t.Error("a repaired pair is not taken over")
	}
	left := time.Until(time.Unix(int64(testutil.ToFloat64(s.files.Expiry("test"))), 0))
	if left < 23*time.Hour || left > 24*time.Hour {
		t.Errorf("the certificate of a day expires in %s", left)
	}
}

func TestClientCertificates(t *testing.T) {
	ca, foreign := certstest.NewAuthority(t), certstest.NewAuthority(t)
	cert, key := ca.Issue(t, "127.0.0.1")
	clientCert, clientKey := ca.Issue(t, "spiffe://prod/edge")
	strangeCert, strangeKey := foreign.Issue(t, "spiffe://prod/edge")
	for _, required := range []bool{false, true} {
		s := start(t, Config{CertFile: cert, KeyFile: key, ClientCAFile: ca.File, RequireClientCert: required})
		for _, tc := range []struct {
			name   string
			client ClientConfig
			want   string
		}{
			{"none", ClientConfig{CAFile: ca.File}, map[bool]string{false: "hello"}[required]},
			{"good", ClientConfig{CAFile: ca.File, CertFile: clientCert, KeyFile: clientKey}, "spiffe://prod/edge"},
		} {
			got, _, err := s.dial(t, tc.client, nil)
			if got != tc.want || (err == nil) != (tc.want != "") {
				t.Errorf("required %v, %s: %q %v", required, tc.name, got, err)
			}
		}
		// A client only offers what it thinks the server takes; this one insists.
		strange, err := tls.LoadX509KeyPair(strangeCert, strangeKey)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := s.dial(t, ClientConfig{CAFile: ca.File}, func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &strange, nil }
		})
		if err == nil || got != "" {
			t.Errorf("required %v, a stranger's certificate: %q %v", required, got, err)
		}
	}

	// An authority that is no longer trusted is refused, with a session to resume too.
	authorities := filepath.Join(t.TempDir(), "clients.pem")
	replace := func(a *certstest.Authority) {
		t.Helper()
		text, err := os.ReadFile(a.File)
		if err == nil {
			err = os.WriteFile(authorities, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	replace(ca)
	s := start(t, Config{CertFile: cert, KeyFile: key, ClientCAFile: authorities, RequireClientCert: true})
	sessions := tls.NewLRUClientSessionCache(1)
	try := func() error {
		_, _, err := s.dial(t, ClientConfig{CAFile: ca.File, CertFile: clientCert, KeyFile: clientKey}, func(c *tls.Config) { c.ClientSessionCache = sessions })
		return err
	}
	if err := try(); err != nil {
		t.Fatal(err)
	}
	replace(foreign)
	s.later()
	if err := try(); err == nil {
		t.Error("the authority that was withdrawn is still trusted")
	}
}

func TestVersions(t *testing.T) {
	ca := certstest.NewAuthority(t)
	cert, key := ca.Issue(t, "127.0.0.1")
	s := start(t, Config{CertFile: cert, KeyFile: key})
	for version, want := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		_, _, err := s.dial(t, ClientConfig{CAFile: ca.File}, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, version })
		if (err == nil) != want {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
}

func TestBadConfig(t *testing.T) {
	ca := certstest.NewAuthority(t)
	cert, key := ca.Issue(t, "127.0.0.1")
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "no certificate is configured"},
		{Config{CertFile: cert}, "cert_file and key_file belong together"},
		{Config{KeyFile: key}, "cert_file and key_file belong together"},
		{Config{ClientCAFile: ca.File}, "client_ca_file needs cert_file and key_file"},
		{Config{CertFile: cert, KeyFile: key, RequireClientCert: true}, "require_client_cert needs client_ca_file"},
		{Config{CertFile: key, KeyFile: key}, "read certificate"},
		{Config{CertFile: "none.pem", KeyFile: key}, "no such file"},
		{Config{CertFile: cert, KeyFile: key, ClientCAFile: key}, "has no certificate in PEM"},
	} {
		if _, err := Open(tc.cfg, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %s", tc.cfg, err, tc.want)
		}
	}
	for _, c := range []ClientConfig{{CAFile: key}, {CAFile: "none"}, {CertFile: cert}, {CertFile: cert, KeyFile: "none"}} {
		if _, err := Client(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}
