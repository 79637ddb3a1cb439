//go:build linux

// Package proc starts, stops and kills the parts of a running Tollway: the
// program itself, as one tree or as separate processes, and Kafka brokers.
//
// In: a built program and a folder. Out: processes that answer, and what they
// say of themselves on their operators' port. When the process that started
// them dies, they die with it; their folder stays.
package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is one child. It may be started again after it ended.
type Process struct {
	Name    string
	LogFile string
	Admin   string // host:port of the operators' port, "" without one

	path string
	args []string
	env  []string
	cmd  *exec.Cmd
	done chan struct{}
}

// Start starts the process, with variables for this start only.
func (p *Process) Start(variables ...string) error {
	out, err := os.OpenFile(p.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(p.path, p.args...)
	cmd.Env = append(append(os.Environ(), p.env...), variables...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	done := make(chan struct{})
	started := make(chan error)
	go func() {
		// A process dies with the thread that started it, so the thread stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // ProcessState says the same
		}
		close(done)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.cmd, p.done = cmd, done
	return nil
}

// PID of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running tells whether the process is there.
func (p *Process) Running() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends a signal to the process alone.
func (p *Process) Signal(s syscall.Signal) error {
	if !p.Running() {
		return fmt.Errorf("signal %s: %s is not running", s, p.Name)
	}
	return p.cmd.Process.Signal(s)
}

// Kill kills the process with SIGKILL and waits for its end.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// KillTree kills the process and all its descendants at the same time.
func (p *Process) KillTree() error {
	if !p.Running() {
		return fmt.Errorf("kill the tree of %s: it is not running", p.Name)
	}
	children, err := Descendants(p.PID())
	if err != nil {
		return err
	}
	for _, pid := range append([]int{p.PID()}, children...) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill %d: %w", pid, err)
		}
	}
	<-p.done
	return nil
}

// Stop asks the process to end, and kills it after a while.
func (p *Process) Stop() error {
	if !p.Running() {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGCONT) // a stopped process cannot end
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(25 * time.Second):
	}
	_ = p.KillTree()
	return fmt.Errorf("%s did not end within 25 s of SIGTERM", p.Name)
}

// Ready waits until the operators' port says that the process is ready.
func (p *Process) Ready(ctx context.Context) error {
	client := &http.Client{Timeout: 2 * time.Second}
	return p.poll(ctx, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Admin+"/readyz", nil)
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(res.Body, 4096)) // what there is
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", res.Status, text)
		}
		return nil
	})
}

// poll tries until it succeeds, the process ends, or ctx does.
func (p *Process) poll(ctx context.Context, try func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := try()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err // rather than that the time is over
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; the end of its log:\n%s", p.Name, last, p.Tail(2000))
		case <-p.done:
			return fmt.Errorf("%s ended early: %s; the end of its log:\n%s", p.Name, p.cmd.ProcessState, p.Tail(2000))
		case <-tick.C:
		}
	}
}

// Tail is the end of the process's log.
func (p *Process) Tail(limit int) string {
	text, err := os.ReadFile(p.LogFile)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-limit):])
}

// Descendants are the processes below a process.
func Descendants(pid int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		// The name in parentheses may hold anything.
		_, rest, ok := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
		fields := strings.Fields(rest)
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if !ok || err != nil || len(fields) < 2 {
			continue
		}
		parent, err := strconv.Atoi(fields[1])
		if err == nil {
			children[parent] = append(children[parent], child)
		}
	}
	var out []int
	for queue := children[pid]; len(queue) > 0; queue = queue[1:] {
		out = append(out, queue[0])
		queue = append(queue, children[queue[0]]...)
	}
	return out, nil
}

// Engine is the process of the ClickHouse engine below a process.
func Engine(pid int) (int, error) {
	below, err := Descendants(pid)
	if err != nil {
		return 0, err
	}
	for _, child := range below {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child))
		if err == nil && strings.Contains(string(line), "__engine") {
			return child, nil
		}
	}
	return 0, fmt.Errorf("process %d has no engine below it", pid)
}

// Ports finds free ports of loopback, below those that the system gives to
// outgoing connections, so that one stays free while its owner is down.
func Ports(n int) ([]int, error) {
	const first, last = 16000, 32000
	var out []int
	for range 1000 {
		if len(out) == n {
			return out, nil
		}
		port := first + rand.IntN(last-first)
		l, err := net.Listen("tcp", Address(port))
		if err != nil {
			continue
		}
		defer l.Close() // only when all are found, so that none comes twice
		out = append(out, port)
	}
	return nil, fmt.Errorf("found no %d free ports", n)
}

// Address is a port of loopback.
func Address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
