package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/rs/zerolog"
	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/tollway/tollway/services/platform/certs"
	"github.com/tollway/tollway/services/platform/certs/certstest"
	"github.com/tollway/tollway/services/platform/embedded"
)

// newLogin makes an identity provider's key, the file that publishes it, and what
// signs its tokens for a member of a group.
func newLogin(t *testing.T, issuer string) (file string, token func(group string) string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: "1", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, keys, 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: private}, (&jose.SignerOptions{}).WithHeader("kid", "1"))
	if err != nil {
		t.Fatal(err)
	}
	return file, func(group string) string {
		t.Helper()
		text, err := jwt.Signed(signer).Claims(map[string]any{
			"iss": issuer, "sub": "ada", "aud": "tollway", "exp": time.Now().Add(time.Hour).Unix(), "groups": []string{group},
		}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
}

// A collector with mutual TLS on its ports knows a gateway by its certificate or
// its login, and takes over new certificates while it runs.
func TestServeTLS(t *testing.T) {
	ca := certstest.NewAuthority(t)
	cert, key := ca.Issue(t, "127.0.0.1")
	edgeCert, edgeKey := ca.Issue(t, "spiffe://prod/edge")
	otherCert, otherKey := ca.Issue(t, "spiffe://prod/other")
	ports := quietPorts(t, 3)
	data, file := t.TempDir(), filepath.Join(t.TempDir(), "tollway.yaml")
	logCfg := embedded.DefaultLogConfig()
	logCfg.DataDir, logCfg.Partitions, logCfg.Open = filepath.Join(data, "log"), 2, true
	broker, err := embedded.StartLog(context.WithoutCancel(t.Context()), logCfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Close() })
	const issuer = "https://login.example.com"
	keys, login := newLogin(t, issuer)
	files := fmt.Sprintf("cert_file: %s, key_file: %s, client_ca_file: %s", cert, key, ca.File)
	text := fmt.Sprintf(`
listen:
  grpc: "127.0.0.1:%d"
  http: "127.0.0.1:%d"
  admin: "127.0.0.1:%d"
  tls: {%s, require_client_cert: true}
  admin_tls: {%s}
auth:
  certificates:
  - {name: "spiffe://prod/edge", role: gateway, scopes: [events.write]}
  oidc:
  - {issuer: %q, audience: [tollway], jwks_file: %s, role_claim: groups, role_map: {edges: gateway}}
kafka: {brokers: [%q], partitions: 2}
`, ports[0], ports[1], ports[2], files, files, issuer, keys, broker.Addr())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := (&processFlags{config: file, data: data}).load(false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- serve(ctx, cfg, data, zerolog.Nop(), []string{"collector"}, func(context.Context) error { return nil })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the collector ended with: %v", err)
		}
	})

	client := func(cert, key string) (*http.Client, *tls.Config) {
		t.Helper()
		cfg, err := certs.Client(certs.ClientConfig{CAFile: ca.File, CertFile: cert, KeyFile: key})
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{TLSClientConfig: cfg.Clone(), ForceAttemptHTTP2: true}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}, cfg
	}
	edge, edgeTLS := client(edgeCert, edgeKey)
	other, otherTLS := client(otherCert, otherKey)
	nobody, _ := client("", "")
	ready := baseURL(cfg.Listen.AdminTLS, cfg.Listen.Admin) + "/readyz"
	await(t, time.Minute, func() error {
		answer, err := nobody.Get(ready)
		if err == nil {
			answer.Body.Close()
		}
		if err == nil && answer.StatusCode != http.StatusOK {
			err = errors.New(answer.Status)
		}
		return err
	})

	post := func(client *http.Client, token string) (int, string, error) {
		t.Helper()
		event := fmt.Sprintf(`{"id":"1","source":"test","time":%q,"api":"a","method":"GET","status":200}`, time.Now().UTC().Format(time.RFC3339))
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+cfg.Listen.HTTP+"/v1/events", strings.NewReader(event))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/x-ndjson")
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		answer, err := client.Do(request)
		if err != nil {
			return 0, "", err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if answer.ProtoMajor != 2 {
			t.Errorf("answered over %s", answer.Proto)
		}
		return answer.StatusCode, string(text), err
	}
	gateway, err := os.ReadFile(filepath.Join(data, "gateway.token"))
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(gateway))
	for _, tc := range []struct {
		name   string
		client *http.Client
		token  string
		want   int
	}{
		{"the certificate of a gateway", edge, "", http.StatusAccepted},
		{"another certificate", other, "", http.StatusUnauthorized},
		{"another certificate and a token", other, token, http.StatusAccepted},
		{"the certificate of a gateway and a bad token", edge, "guess", http.StatusUnauthorized},
		{"another certificate and a login", other, login("edges"), http.StatusAccepted},
		{"a login without a role here", other, login("drivers"), http.StatusForbidden},
		{"a login that was tampered with", other, login("edges") + "x", http.StatusUnauthorized},
		{"a token alone", nobody, token, 0},
	} {
		if code, text, err := post(tc.client, tc.token); code != tc.want {
			t.Errorf("%s: %d %s %v", tc.name, code, text, err)
		}
	}

	export := func(cfg *tls.Config) error {
		t.Helper()
		conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", ports[0]), grpc.WithTransportCredentials(credentials.NewTLS(cfg.Clone())))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = collogspb.NewLogsServiceClient(conn).Export(t.Context(), &collogspb.ExportLogsServiceRequest{})
		return err
	}
	if err := export(edgeTLS); err != nil {
		t.Errorf("gRPC with the certificate of a gateway: %v", err)
	}
	if err := export(otherTLS); status.Code(err) != codes.Unauthenticated {
		t.Errorf("gRPC with another certificate: %v", err)
	}

	serial := func(port int) string {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), edgeTLS)
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := []string{serial(ports[0]), serial(ports[1]), serial(ports[2])}
	ca.Issue(t, "127.0.0.1")
	await(t, time.Minute, func() error {
		for i, port := range ports {
			if serial(port) == before[i] {
				return fmt.Errorf("port %d has its old certificate", i)
			}
		}
		return nil
	})
	if err := export(edgeTLS); err != nil {
		t.Errorf("gRPC with the new certificate: %v", err)
	}
}

func TestClientTLS(t *testing.T) {
	plain := newAPI(t, 200, `{"rows":[]}`)
	ca, foreign := certstest.NewAuthority(t), certstest.NewAuthority(t)
	cert, key := ca.Issue(t, "127.0.0.1")
	mine, mineKey := ca.Issue(t, "spiffe://prod/ada")
	files, err := certs.Open(certs.Config{CertFile: cert, KeyFile: key, ClientCAFile: ca.File, RequireClientCert: true}, zerolog.Nop(), "h2", "http/1.1")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(plain.Config.Handler)
	server.TLS = files.Server()
	server.StartTLS()
	t.Cleanup(server.Close)
	for _, tc := range []struct {
		args []string
		want string // of the error
	}{
		{[]string{"--ca-file", ca.File, "--cert-file", mine, "--key-file", mineKey}, ""},
		{[]string{"--ca-file", foreign.File}, "name its authority with --ca-file"},
		{nil, "name its authority with --ca-file"},
		{[]string{"--ca-file", ca.File}, "give one with --cert-file and --key-file"},
		{[]string{"--ca-file", key}, "has no certificate in PEM"},
		{[]string{"--cert-file", mine}, "belong together"},
		{[]string{"--server", strings.Replace(plain.URL, "http:", "https:", 1)}, "does not speak TLS"},
	} {
		args := append([]string{"traffic", "--server", server.URL}, tc.args...)
		_, err := run(t, newReportCommand(), args...)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: %v, want %q", tc.args, err, tc.want)
		}
	}
	t.Setenv("TOLLWAY_CA_FILE", ca.File)
	t.Setenv("TOLLWAY_CERT_FILE", mine)
	t.Setenv("TOLLWAY_KEY_FILE", mineKey)
	if _, err := run(t, newReportCommand(), "traffic", "--server", server.URL); err != nil {
		t.Errorf("with the environment's files: %v", err)
	}
}
