package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Accounts of the engine.
const (
	// TollwayUser has all rights.
	TollwayUser = "tollway"
	// ReaderUser may only select, and only from the readable databases.
	ReaderUser = "reader"
)

var errLocked = errors.New("locked by another process")

// Engine is a ClickHouse server in a child process, started again when it
// dies, until the context it was started with ends or Close is called.
type Engine struct {
	cfg       EngineConfig
	log       zerolog.Logger
	library   string
	config    string
	passwords Passwords
	lock      *os.File

	nativePort, httpPort int

	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	pid      int
	restarts int
	err      error
}

// StartEngine returns when the engine answers queries. It stops the engine
// when ctx ends.
func StartEngine(ctx context.Context, cfg EngineConfig) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	library, err := FindLibrary(cfg.Library)
	if err != nil {
		return nil, err
	}
	if cfg.DataDir, err = filepath.Abs(cfg.DataDir); err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	lock, err := lockFolder(filepath.Join(cfg.DataDir, "engine.lock"))
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("the data folder %s is in use by another Tollway; stop that one or choose another folder", cfg.DataDir)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the data folder %s: %w", cfg.DataDir, err)
	}

	e := &Engine{cfg: cfg, log: cfg.Log, library: library, lock: lock, done: make(chan struct{})}
	if err := e.start(ctx); err != nil {
		lock.Close()
		return nil, err
	}
	return e, nil
}

// start brings the first child up and hands it to the supervisor.
func (e *Engine) start(ctx context.Context) error {
	state, err := loadState(e.cfg.DataDir)
	if err != nil {
		return err
	}
	e.passwords = merge(e.cfg.Passwords, state.Passwords)
	if e.config, err = writeConfig(e.cfg, e.passwords); err != nil {
		return err
	}

	begin := time.Now()
	var first *child
	for attempt := 1; ; attempt++ {
		if e.nativePort, err = choosePort(e.cfg.NativePort, state.NativePort); err != nil {
			return fmt.Errorf("choose the engine's native port: %w", err)
		}
		if e.httpPort, err = choosePort(e.cfg.HTTPPort, state.HTTPPort); err != nil {
			return fmt.Errorf("choose the engine's http port: %w", err)
		}
		if first, err = e.launch(ctx); err == nil {
			break
		}
		// Between choosing a port and binding it, another process may have
		// taken it; and the engine of a parent that was just killed may need a
		// moment to let go of the folder.
		if attempt == 5 || ctx.Err() != nil || !isTransientStart(err) {
			return fmt.Errorf("start engine: %w", err)
		}
		time.Sleep(200 * time.Millisecond)
	}

	state = engineState{Passwords: state.Passwords, NativePort: e.nativePort, HTTPPort: e.httpPort}
	if err := state.save(e.cfg.DataDir); err != nil {
		first.kill()
		return fmt.Errorf("save the engine's state: %w", err)
	}
	e.log.Info().Int("pid", first.pid()).Str("native", e.NativeAddr()).Str("http", e.HTTPAddr()).
		Dur("took", time.Since(begin)).Msg("clickhouse engine is up")

	ctx, e.cancel = context.WithCancel(ctx)
	go e.supervise(ctx, first)
	return nil
}

// launch starts a child and waits until it answers. On error no child is left.
func (e *Engine) launch(ctx context.Context) (*child, error) {
	c, err := startChild(e.library, e.arguments())
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	e.pid = c.pid()
	e.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, e.cfg.StartTimeout)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-c.exited:
			return nil, fmt.Errorf("the engine ended before it answered: %s", c.reason())
		case <-ctx.Done():
			c.kill()
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil, fmt.Errorf("the engine did not answer within %s: %s", e.cfg.StartTimeout, c.reason())
			}
			return nil, ctx.Err()
		case <-tick.C:
			if e.ask(ctx, "SELECT 1") == nil {
				return c, nil
			}
		}
	}
}

func (e *Engine) arguments() []string {
	// The last statement never ends by itself: it is what keeps the process,
	// and with it the two listeners, alive.
	const boot = "SYSTEM START LISTEN TCP; SYSTEM START LISTEN HTTP; " + keepAliveQuery
	return []string{
		"--config-file=" + e.config,
		"--path=" + filepath.Join(e.cfg.DataDir, "store"),
		"--tcp_port=" + strconv.Itoa(e.nativePort),
		"--http_port=" + strconv.Itoa(e.httpPort),
		"--listen_host=127.0.0.1",
		"--multiquery", "--query", boot,
	}
}

const keepAliveQuery = "INSERT INTO FUNCTION null('x UInt8') SELECT sleepEachRow(1) FROM system.numbers SETTINGS max_block_size=1"

// supervise waits for the child and starts it again, with a pause that grows
// while the child keeps dying.
func (e *Engine) supervise(ctx context.Context, c *child) {
	defer close(e.done)
	defer e.lock.Close()
	const shortest, longest, steady = 100 * time.Millisecond, 10 * time.Second, time.Minute
	pause := shortest
	for {
		up := time.Now()
		select {
		case <-ctx.Done():
			e.stop(c)
			return
		case <-c.exited:
		}
		if time.Since(up) > steady {
			pause = shortest
		}
		e.log.Error().Int("pid", c.pid()).Str("reason", c.reason()).Msg("clickhouse engine died, starting it again")

		for {
			if !sleep(ctx, pause) {
				return
			}
			pause = min(2*pause, longest)
			next, err := e.launch(ctx)
			if err == nil {
				c = next
				break
			}
			e.setErr(err)
			if ctx.Err() != nil {
				return
			}
			e.log.Error().Err(err).Dur("next_try", pause).Msg("clickhouse engine does not start")
		}
		e.mu.Lock()
		e.restarts++
		e.err = nil
		e.mu.Unlock()
		e.log.Info().Int("pid", c.pid()).Msg("clickhouse engine is up again")
	}
}

// stop ends the child cleanly. Ending the query that keeps it alive is the way
// to that: its own reaction to SIGTERM is to drop everything at once, which
// is what the second step does when it no longer answers, and SIGKILL is the
// last.
func (e *Engine) stop(c *child) {
	ctx, cancel := context.WithTimeout(context.Background(), e.cfg.StopTimeout)
	defer cancel()
	err := e.ask(ctx, "KILL QUERY WHERE query = '"+strings.ReplaceAll(keepAliveQuery, "'", `\'`)+"' ASYNC")
	if err != nil {
		c.terminate()
	}
	select {
	case <-c.exited:
	case <-ctx.Done():
		e.log.Warn().Int("pid", c.pid()).Dur("after", e.cfg.StopTimeout).Msg("clickhouse engine does not stop, killing it")
		c.kill()
	}
}

// Close stops the engine and waits until its process is gone. It may be called
// more than once.
func (e *Engine) Close() error {
	e.cancel()
	<-e.done
	return nil
}

// Done is closed when the engine has been stopped for good.
func (e *Engine) Done() <-chan struct{} { return e.done }

// Err is why the engine is not running now, nil when it is.
func (e *Engine) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

func (e *Engine) setErr(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = err
}

// Pid is the process id of the child; it changes when the child is restarted.
func (e *Engine) Pid() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pid
}

// Restarts counts how often the child had to be started again.
func (e *Engine) Restarts() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.restarts
}

// NativeAddr is where the native protocol is spoken, host:port.
func (e *Engine) NativeAddr() string { return loopback(e.nativePort) }

// HTTPAddr is where the HTTP interface is, host:port.
func (e *Engine) HTTPAddr() string { return loopback(e.httpPort) }

// Passwords are those of TollwayUser and ReaderUser.
func (e *Engine) Passwords() Passwords { return e.passwords }

// WaitReady returns when the engine answers a query, which after a crash takes
// a moment.
func (e *Engine) WaitReady(ctx context.Context) error {
	for {
		err := e.ask(ctx, "SELECT 1")
		if err == nil {
			return nil
		}
		if !sleep(ctx, 25*time.Millisecond) {
			return fmt.Errorf("wait for the engine: %w", err)
		}
	}
}

func merge(wanted, stored Passwords) Passwords {
	if wanted.Tollway == "" {
		wanted.Tollway = stored.Tollway
	}
	if wanted.Reader == "" {
		wanted.Reader = stored.Reader
	}
	return wanted
}

// choosePort returns the wanted port if one is wanted, else the last one if it
// is free, else a free one. The last one gets a moment: what held it may have
// been killed just now.
func choosePort(wanted, last int) (int, error) {
	if wanted != 0 {
		return wanted, nil
	}
	for try := 0; last != 0 && try < 40; try++ {
		if listener, err := net.Listen("tcp", loopback(last)); err == nil {
			return last, listener.Close()
		}
		time.Sleep(25 * time.Millisecond)
	}
	return FreePort()
}

// FreePort returns a loopback port that was free a moment ago.
func FreePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return listener.Addr().(*net.TCPAddr).Port, listener.Close()
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func isTransientStart(err error) bool {
	text := err.Error()
	return strings.Contains(text, "Address already in use") || strings.Contains(text, "Cannot lock file")
}

// sleep reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
