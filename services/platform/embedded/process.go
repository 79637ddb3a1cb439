package embedded

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stderrLines is how much of the child's last words an error repeats.
const stderrLines = 20

// child is one run of the engine's process.
type child struct {
	cmd    *exec.Cmd
	alive  *os.File // the parent's end of the pipe that the child watches
	exited chan struct{}
	tail   *tail
	err    error // of Wait, set before exited is closed
}

// startChild starts this executable again as the engine. The goroutine that
// does it keeps its thread until the child ends, because the kernel sends the
// parent-death signal when the starting thread ends, not the process.
func startChild(library string, args []string) (*child, error) {
	executable, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this executable: %w", err)
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c := &child{
		cmd:    exec.Command(executable, append([]string{engineArgument, library}, args...)...),
		alive:  ours,
		exited: make(chan struct{}),
		tail:   &tail{},
	}
	c.cmd.ExtraFiles = []*os.File{theirs}
	c.cmd.Stdout, c.cmd.Stderr = c.tail, c.tail
	// If a grandchild kept standard error open, Wait would wait for it.
	c.cmd.WaitDelay = time.Second
	tieToParent(c.cmd)

	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		theirs.Close()
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
		}
		ours.Close()
		close(c.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start the engine's process: %w", err)
	}
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) terminate() { _ = c.cmd.Process.Signal(syscall.SIGTERM) }

// kill ends the child at once and waits until it is gone.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.exited
}

// reason is how the child ended and what it last said.
func (c *child) reason() string {
	state := "it is still running"
	select {
	case <-c.exited:
		state = c.cmd.ProcessState.String()
	default:
	}
	if said := c.tail.String(); said != "" {
		return state + ": " + said
	}
	return state
}

// tail keeps the last lines written to it.
type tail struct {
	mu    sync.Mutex
	lines []string
	rest  string
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const longest = 4 << 10
	scanner := bufio.NewReader(io.MultiReader(strings.NewReader(t.rest), strings.NewReader(string(p))))
	for {
		line, err := scanner.ReadString('\n')
		if err != nil {
			t.rest = line[max(0, len(line)-longest):]
			return len(p), nil
		}
		line = strings.TrimSpace(line)
		t.lines = append(t.lines, line[:min(len(line), longest)])
		if len(t.lines) > stderrLines {
			t.lines = t.lines[1:]
		}
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.Join(append(t.lines[:len(t.lines):len(t.lines)], t.rest), "\n"))
}

// ask sends one statement over HTTP as the owner. The password makes sure that
// it is this engine that answers and not another one on the same port.
func (e *Engine) ask(ctx context.Context, query string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+e.HTTPAddr()+"/", strings.NewReader(query))
	if err != nil {
		return err
	}
	request.Header.Set("X-ClickHouse-User", TollwayUser)
	request.Header.Set("X-ClickHouse-Key", e.passwords.Tollway)
	request.Close = true
	// A client of its own: the proxy variables of the environment must not
	// send a loopback request elsewhere.
	transport := &http.Transport{Proxy: nil, DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("http status %d: %s", response.StatusCode, strings.TrimSpace(string(body)))
	}
	return nil
}
