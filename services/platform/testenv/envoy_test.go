package testenv

import (
	"io"
	"net/http"
	"syscall"
	"testing"
)

const helloConfig = `
static_resources:
  listeners:
    - name: hello
      address: {socket_address: {address: 127.0.0.1, port_value: 0}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: hello
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes:
                        - match: {prefix: /}
                          direct_response: {status: 418, body: {inline_string: short and stout}}
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
`

func TestRealEnvoyStarts(t *testing.T) {
	envoy := Envoy(t, helloConfig)
	resp, err := http.Get("http://" + envoy.ListenerAddr("hello") + "/tea")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusTeapot || string(body) != "short and stout" {
		t.Errorf("answer is %d %q", resp.StatusCode, body)
	}
	if n := envoy.Stat("http.hello.downstream_rq_4xx"); n != 1 {
		t.Errorf("Envoy counted %d requests answered 4xx, want 1", n)
	}

	pid := envoy.PID()
	envoy.Stop(true)
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("after Stop the process is still there (%v)", err)
	}
}

func TestListenerAddr(t *testing.T) {
	body := []byte(`{"listener_statuses":[{"name":"web","local_address":{"socket_address":{"address":"127.0.0.1","port_value":4711}}}]}`)
	addr, err := listenerAddr(body, "web")
	if err != nil || addr != "127.0.0.1:4711" {
		t.Errorf("listenerAddr = %q, %v", addr, err)
	}
	for _, bad := range []string{`{`, `{}`} {
		if _, err := listenerAddr([]byte(bad), "web"); err == nil {
			t.Errorf("listenerAddr(%s) found something", bad)
		}
	}
}
