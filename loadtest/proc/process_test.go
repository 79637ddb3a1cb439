//go:build linux

package proc

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func script(t *testing.T, text string) *Process {
	t.Helper()
	p := &Process{Name: "script", LogFile: filepath.Join(t.TempDir(), "log"), path: "/bin/sh", args: []string{"-c", text}}
	if err := p.Start("WORD=hello"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.Running() {
			_ = p.KillTree()
		}
	})
	return p
}

func eventually(t *testing.T, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not so after 10 s")
		}
	}
}

func TestKillTree(t *testing.T) {
	p := script(t, "echo $WORD; sleep 100 & (sleep 100; echo no) & wait")
	var below []int
	eventually(t, func() bool {
		below, _ = Descendants(p.PID())
		return len(below) == 3 && strings.Contains(p.Tail(100), "hello")
	})
	if err := p.KillTree(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range below {
		eventually(t, func() bool { return gone(pid) })
	}
	if p.Running() {
		t.Error("still running")
	}
	if err := p.KillTree(); err == nil {
		t.Error("what is dead was killed again")
	}
}

// gone: no such process, or one that nobody has waited for.
func gone(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(text), ") Z ")
}

func TestStopWakesAStoppedProcess(t *testing.T) {
	p := script(t, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
	eventually(t, func() bool { return strings.Contains(p.Tail(100), "up") })
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(p.Tail(100), "bye") {
		t.Errorf("log is %q", p.Tail(100))
	}
}

func TestReadySaysWhyNot(t *testing.T) {
	var answers atomic.Int32
	answers.Store(http.StatusServiceUnavailable)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(int(answers.Load()))
		fmt.Fprint(w, "# HELP x y\nx{partition=\"1\"} 2\nx{partition=\"2\"} 3\nxy 7\n")
	}))
	defer server.Close()
	p := script(t, "exec sleep 100")
	p.Admin = server.Listener.Addr().String()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := p.Ready(ctx); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("ready: %v", err)
	}
	answers.Store(http.StatusOK)
	if err := p.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	metrics, err := p.Metrics(t.Context())
	if err != nil || Sum(metrics, "x") != 5 || Sum(metrics, "xy") != 7 {
		t.Errorf("%v, %v", metrics, err)
	}
	answers.Store(http.StatusServiceUnavailable)
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "ended early") {
		t.Errorf("ready: %v", err)
	}
}

func TestUsage(t *testing.T) {
	before, err := ReadUsage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for busy := time.Now(); time.Since(busy) < 200*time.Millisecond; {
		_ = strings.Repeat("x", 1000)
	}
	after, err := ReadUsage(os.Getpid())
	if err != nil || after.CPU <= before.CPU || after.RSSBytes < 1<<20 || after.RSSBytes > 1<<34 {
		t.Errorf("%+v, %+v, %v", before, after, err)
	}
}

func TestPorts(t *testing.T) {
	ports, err := Ports(20)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ports)
	if len(slices.Compact(ports)) != 20 {
		t.Error("a port came twice")
	}
}
