package testenv

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// envoyHome is what deploy/real/envoy/fetch.sh makes in the cache folder.
const envoyHome = "envoy-1.40.0"

// drainPatience is how long an orderly Stop waits for open requests.
const drainPatience = 10 * time.Second

// EnvoyProxy is a real Envoy that lives as long as a test.
type EnvoyProxy struct {
	t         testing.TB
	process   *process
	adminFile string
	client    *http.Client
}

// Envoy starts a real Envoy with the given bootstrap configuration (YAML) and
// waits until it is ready. An admin interface on a free loopback port is added
// to the configuration; listeners may ask for port 0 and are found by
// ListenerAddr. Where no Envoy was fetched the test is skipped, or fails when
// TOLLWAY_REAL=1.
func Envoy(t testing.TB, yaml string) *EnvoyProxy {
	t.Helper()
	program := needPart(t, "Envoy", filepath.Join(envoyHome, "envoy"))
	dir := t.TempDir()
	config := filepath.Join(dir, "envoy.yaml")
	if err := os.WriteFile(config, []byte(yaml), 0o600); err != nil {
		t.Fatalf("start Envoy: %v", err)
	}
	e := &EnvoyProxy{
		t:         t,
		adminFile: filepath.Join(dir, "admin"),
		client:    &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	cmd := exec.Command(program,
		"--config-path", config,
		"--config-yaml", "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}",
		"--admin-address-path", e.adminFile,
		"--concurrency", "2",
		"--drain-time-s", "1",
		// Tests of several packages run at the same time; hot restart would make
		// their Envoys meet in one shared memory segment.
		"--disable-hot-restart",
		"--log-level", "warning",
	)
	var err error
	e.process, err = startProcess("Envoy", filepath.Join(dir, "envoy.log"), cmd)
	if err != nil {
		t.Fatalf("start Envoy: %v", err)
	}
	t.Cleanup(e.cleanup)
	if err := e.process.waitFor(30*time.Second, e.ready); err != nil {
		t.Fatalf("start Envoy: %v", err)
	}
	return e
}

// AdminURL is the address of the admin interface, without a slash at the end.
func (e *EnvoyProxy) AdminURL() string {
	e.t.Helper()
	addr, err := e.adminAddr()
	if err != nil {
		e.t.Fatalf("find Envoy's admin interface: %v", err)
	}
	return "http://" + addr
}

// ListenerAddr is the host:port on which the named listener really listens.
func (e *EnvoyProxy) ListenerAddr(name string) string {
	e.t.Helper()
	body, err := e.admin(http.MethodGet, "/listeners?format=json")
	if err != nil {
		e.t.Fatalf("list Envoy's listeners: %v", err)
	}
	addr, err := listenerAddr(body, name)
	if err != nil {
		e.t.Fatalf("list Envoy's listeners: %v", err)
	}
	return addr
}

func listenerAddr(body []byte, name string) (string, error) {
	var answer struct {
		Statuses []struct {
			Name  string `json:"name"`
			Local struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", err
	}
	for _, s := range answer.Statuses {
		if s.Name == name {
			return net.JoinHostPort(s.Local.Socket.Address, strconv.Itoa(s.Local.Socket.Port)), nil
		}
	}
	return "", fmt.Errorf("no listener is named %q", name)
}

// Stat is the value of one counter or gauge; a statistic Envoy has not made
// yet counts as 0.
func (e *EnvoyProxy) Stat(name string) int64 {
	e.t.Helper()
	body, err := e.admin(http.MethodGet, "/stats?filter=^"+strings.ReplaceAll(name, ".", `\.`)+"$")
	if err != nil {
		e.t.Fatalf("read Envoy's statistics: %v", err)
	}
	value, ok := strings.CutPrefix(strings.TrimSpace(string(body)), name+": ")
	if !ok {
		return 0
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		e.t.Fatalf("read Envoy's statistics: %v", err)
	}
	return n
}

// PID is the process id, for tests that read what Envoy used.
func (e *EnvoyProxy) PID() int { return e.process.cmd.Process.Pid }

// Stop ends Envoy: gracefully, which closes its listeners and waits for open
// requests before SIGTERM (connections that only idle are not waited for), or at once, as a crash does (SIGKILL).
func (e *EnvoyProxy) Stop(graceful bool) {
	e.t.Helper()
	if !e.process.running() {
		return
	}
	if !graceful {
		_ = e.process.signal(syscall.SIGKILL, drainPatience)
		return
	}
	if _, err := e.admin(http.MethodPost, "/drain_listeners?graceful"); err != nil {
		e.t.Errorf("drain Envoy: %v", err)
	}
	if err := e.process.waitFor(drainPatience, e.idle); err != nil {
		e.t.Errorf("drain Envoy: %v", err)
	}
	if err := e.process.signal(syscall.SIGTERM, drainPatience); err != nil {
		e.t.Errorf("stop Envoy: %v", err)
	}
}

func (e *EnvoyProxy) ready() error {
	_, err := e.admin(http.MethodGet, "/ready")
	return err
}

// idle is nil when no listener has an open request. The admin interface always
// has one: the question itself.
func (e *EnvoyProxy) idle() error {
	body, err := e.admin(http.MethodGet, "/stats?filter=downstream_rq_active$")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(body)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if name != "http.admin.downstream_rq_active" && value != "0" {
			return fmt.Errorf("%s requests are open (%s)", value, name)
		}
	}
	return nil
}

func (e *EnvoyProxy) adminAddr() (string, error) {
	addr, err := os.ReadFile(e.adminFile)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(addr)), nil
}

func (e *EnvoyProxy) admin(method, path string) ([]byte, error) {
	addr, err := e.adminAddr()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+addr+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

func (e *EnvoyProxy) cleanup() {
	_ = e.process.signal(syscall.SIGKILL, drainPatience)
	if e.t.Failed() {
		e.process.showLog(e.t)
	}
}
