package filetail

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/platform/testenv"
)

// The format that is shipped, written by a real Envoy.
func TestRealEnvoy(t *testing.T) {
	shipped, err := os.ReadFile(filepath.Join("..", "..", "..", "deploy", "envoy", "access-log-json.yaml"))
	require.NoError(t, err)
	dir, log := t.TempDir(), &memory{rows: call.NewBatch()}
	path := filepath.Join(dir, "access.log")
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte("hello"))
	}))
	defer upstream.Close()
	host, port, _ := strings.Cut(strings.TrimPrefix(upstream.URL, "http://"), ":")
	snippet := strings.ReplaceAll(strings.ReplaceAll(string(shipped), "/var/log/envoy/access.log", path), "\n", "\n          ")
	proxy := testenv.Envoy(t, `
static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          `+snippet+`
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: api
              domains: ["*"]
              routes:
              - {name: orders, match: {prefix: /v1}, route: {cluster: orders}}
  clusters:
  - name: orders
    type: STATIC
    load_assignment: {cluster_name: orders, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: `+host+`, port_value: `+port+`}}}}]}]}
`)
	for _, path := range []string{"/v1/orders?key=secret", "/nowhere"} {
		res, err := http.Post("http://"+proxy.ListenerAddr("http")+path, "text/plain", strings.NewReader("body"))
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
	}
	proxy.Stop(true)
	cfg := config(dir, "access.log")
	cfg.MaxLineBytes = 64 << 10
	cfg.Envoy.MaxFuture = 24 * 365 * 10 * 3600e9 // the test's clock stands still
	cfg.Envoy.MaxAge = cfg.Envoy.MaxFuture
	r := run(t, cfg, log)
	require.Eventually(t, func() bool { return len(log.ids()) == 2 }, waitFor, tick)
	r.stop()
	b := log.rows
	row := 0
	if b.Path.Value(0) != "/v1/orders" {
		row = 1
	}
	require.Equal(t, "/v1/orders", b.Path.Value(row))
	require.Equal(t, "POST", b.Strings[call.Method].Value(row))
	require.Equal(t, "orders", b.Strings[call.Upstream].Value(row))
	require.Equal(t, "orders", b.Strings[call.Route].Value(row))
	require.Equal(t, host+":"+port, b.Strings[call.UpstreamHost].Value(row))
	require.Equal(t, call.FaultNone, b.Strings[call.Fault].Value(row))
	require.Equal(t, "127.0.0.0", b.ClientIP.Value(row))
	require.EqualValues(t, 201, b.Status[row])
	require.EqualValues(t, 1, b.Attempts[row])
	require.Greater(t, b.RequestBytes[row], int64(4))
	require.Greater(t, b.ResponseBytes[row], int64(5))
	for column := range call.LatencyColumns {
		require.GreaterOrEqual(t, b.Latency[column][row], int64(0), call.LatencyColumn(column).String())
	}
	require.EqualValues(t, 404, b.Status[1-row])
	require.Equal(t, call.FaultGateway, b.Strings[call.Fault].Value(1-row))
	require.Equal(t, "NR", b.Strings[call.Flags].Value(1-row))
}
