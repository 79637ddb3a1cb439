package testenv

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// realWanted is the one switch of the tests that need a real part: with
// TOLLWAY_REAL=1 (make test-real) a missing part is a failure, without it the
// test is skipped.
func realWanted() bool { return os.Getenv("TOLLWAY_REAL") == "1" }

// needPart returns the path of file in the cache folder, or ends the test as
// realWanted says.
func needPart(t testing.TB, name, file string) string {
	t.Helper()
	path, err := cachePath(file)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err == nil {
		return path
	}
	if realWanted() {
		t.Fatalf("this test needs a real %s, and %v: run it with make test-real, which fetches one", name, err)
	}
	t.Skipf("this test needs a real %s: make test-real fetches one and runs it", name)
	return ""
}

// cachePath is the same rule as in the fetch.sh scripts.
func cachePath(file string) (string, error) {
	if dir := os.Getenv("TOLLWAY_CACHE"); dir != "" {
		return filepath.Join(dir, file), nil
	}
	dir, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	dir = filepath.Join(dir, ".cache")
	if xdg := os.Getenv("XDG_CACHE_HOME"); xdg != "" {
		dir = xdg
	}
	return filepath.Join(dir, "tollway", file), nil
}

// repoFile returns the absolute path of a file of this repository, found from
// the folder of the test upwards.
func repoFile(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatalf("find the repository: %v", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return filepath.Join(dir, name)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatalf("find the repository: no go.work above the folder of the test")
		}
		dir = parent
	}
}

// portRange lies below the range from which Linux picks ports for outgoing
// connections, so a port stays free while the broker that owns it is down.
const portRangeStart, portRangeEnd = 16000, 32000

// loopbackPorts returns n different ports nobody listens on.
func loopbackPorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, 0, n)
	for try := 0; len(ports) < n; try++ {
		if try == 1000 {
			t.Fatalf("find %d free ports: 1000 tries were not enough", n)
		}
		port := portRangeStart + rand.IntN(portRangeEnd-portRangeStart)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		// Held until all are found, so that no port is handed out twice.
		defer func() { _ = l.Close() }()
		ports = append(ports, port)
	}
	return ports
}

// process is one real part. It ends when the test ends, even when the test
// binary is killed (on Linux).
type process struct {
	name    string
	cmd     *exec.Cmd
	logPath string
	done    chan struct{} // closed once the process was waited for
}

// startProcess runs cmd with both outputs appended to a log file.
func startProcess(name, logPath string, cmd *exec.Cmd) (*process, error) {
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", name, err)
	}
	defer func() { _ = out.Close() }()
	cmd.Stdout, cmd.Stderr = out, out
	dieWithParent(cmd)
	p := &process{name: name, cmd: cmd, logPath: logPath, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel's "die with the parent" means the parent's thread, so the
		// thread that starts the process stays until the process has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // its state says the same
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal sends sig and waits until the process has ended; after the patience
// it is killed and an error says so.
func (p *process) signal(sig syscall.Signal, patience time.Duration) error {
	if !p.running() {
		return nil
	}
	// A process stopped by SIGSTOP must run to be able to end.
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	return fmt.Errorf("%s did not end within %s after %s", p.name, patience, sig)
}

// showLog prints the end of the log of a part into a failed test.
func (p *process) showLog(t testing.TB) {
	t.Helper()
	t.Logf("end of the log of %s:\n%s", p.name, tail(p.logPath, 4000))
}

func tail(path string, limit int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > limit {
		if _, err := f.Seek(-limit, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// waitFor polls ready until it returns nil, the process ends, or the patience
// is over.
func (p *process) waitFor(patience time.Duration, ready func() error) error {
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %s: %w", p.name, patience, err)
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended early: %s", p.name, p.cmd.ProcessState)
		case <-tick.C:
		}
	}
}
