package testenv

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tollway/tollway/services/platform/config"
	"github.com/tollway/tollway/services/platform/ledger"
)

// postgresHome is what deploy/real/postgres/fetch.sh makes in the cache folder.
const postgresHome = "postgres"

const postgresUser = "tollway"

// postgresServer is the one server of this test binary.
type postgresServer struct {
	programs string // folder of initdb and postgres
	library  string // folder of the libraries that came with them
	folder   string // belongs to the account that runs them
	owner    *syscall.Credential
	port     int
	password string
	process  *process
}

var sharedPostgres struct {
	mu      sync.Mutex
	server  *postgresServer
	err     error
	started bool
}

// PostgresConfig makes an empty database of this test's own on the PostgreSQL
// server that the tests of this binary share, and drops it when the test ends.
func PostgresConfig(t testing.TB) ledger.Config {
	t.Helper()
	server := postgresOf(t)
	database := "test_" + randomName()
	server.mustExec(t, "CREATE DATABASE "+database)
	t.Cleanup(func() { server.mustExec(t, "DROP DATABASE "+database+" WITH (FORCE)") })
	cfg := ledger.DefaultConfig()
	cfg.Driver = ledger.Postgres
	cfg.URL = config.Secret(server.url(database))
	patient(&cfg)
	return cfg
}

func postgresOf(t testing.TB) *postgresServer {
	t.Helper()
	home := filepath.Dir(needPart(t, "PostgreSQL", filepath.Join(postgresHome, "stamp")))
	sharedPostgres.mu.Lock()
	defer sharedPostgres.mu.Unlock()
	if !sharedPostgres.started {
		sharedPostgres.started = true
		sharedPostgres.server, sharedPostgres.err = startPostgres(t, home)
	}
	if sharedPostgres.err != nil {
		t.Fatalf("start PostgreSQL: %v", sharedPostgres.err)
	}
	return sharedPostgres.server
}

// stopPostgres is called when all tests have ended.
func stopPostgres() {
	server := sharedPostgres.server
	if server == nil {
		return
	}
	// SIGQUIT ends it at once and without leaving shared memory behind.
	_ = server.process.signal(syscall.SIGQUIT, 10*time.Second)
	os.RemoveAll(server.folder)
}

func startPostgres(t testing.TB, home string) (*postgresServer, error) {
	if !shared.isMain {
		return nil, fmt.Errorf("the package has no TestMain that calls testenv.Main")
	}
	// Another account may not pass the folders on the way to the cache, so it
	// needs the real path of the programs.
	programs, err := filepath.EvalSymlinks(filepath.Join(home, "bin"))
	if err != nil {
		return nil, err
	}
	library, err := filepath.EvalSymlinks(filepath.Join(home, "lib"))
	if err != nil {
		return nil, err
	}
	server := &postgresServer{
		programs: programs, library: library, port: loopbackPorts(t, 1)[0], password: randomName(),
	}
	if err := server.chooseOwner(); err != nil {
		return nil, err
	}
	if err := server.start(); err != nil {
		os.RemoveAll(server.folder)
		return nil, err
	}
	return server, nil
}

// chooseOwner finds an account for the server when the tests run as root, which
// PostgreSQL refuses to be.
func (s *postgresServer) chooseOwner() error {
	if os.Geteuid() != 0 {
		return nil
	}
	account, err := user.Lookup("nobody")
	if err != nil {
		return fmt.Errorf("find an account that is not root: %w", err)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return err
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return err
	}
	s.owner = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return nil
}

func (s *postgresServer) start() error {
	var err error
	if s.folder, err = os.MkdirTemp("", "tollway-postgres-"); err != nil {
		return err
	}
	passwordFile := filepath.Join(s.folder, "password")
	if err := os.WriteFile(passwordFile, []byte(s.password), 0o600); err != nil {
		return err
	}
	if s.owner != nil {
		for _, path := range []string{s.folder, passwordFile} {
			if err := os.Chown(path, int(s.owner.Uid), int(s.owner.Gid)); err != nil {
				return err
			}
		}
	}
	if err := s.initialize(passwordFile); err != nil {
		return err
	}
	cmd := s.command("postgres",
		"-D", s.data(), "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories=", // no second door
		"-c", "max_connections=200",
		"-c", "shared_buffers=32MB",
		"-c", "fsync=off", // the data goes with the tests
		"-c", "logging_collector=off",
	)
	logFile := filepath.Join(s.folder, "postgres.log")
	if s.process, err = startProcess("PostgreSQL", logFile, cmd); err != nil {
		return err
	}
	if err := s.process.waitFor(60*time.Second, func() error { return s.exec("SELECT 1") }); err != nil {
		_ = s.process.signal(syscall.SIGQUIT, 10*time.Second)
		return fmt.Errorf("%w\n%s", err, tail(logFile, 4000))
	}
	return nil
}

func (s *postgresServer) initialize(passwordFile string) error {
	cmd := s.command("initdb", "-D", s.data(), "--username", postgresUser, "--pwfile", passwordFile,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--no-sync", "--no-instructions",
		// As on many a server, text does not compare bytewise unless it is told to.
		"--locale", "C", "--locale-provider", "icu", "--icu-locale", "en")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// command runs a program of PostgreSQL as the account that owns the data.
func (s *postgresServer) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.programs, program), args...)
	cmd.Dir = s.folder
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+s.library, "LC_ALL=C", "TZ=UTC")
	if s.owner != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner}
	}
	return cmd
}

func (s *postgresServer) data() string { return filepath.Join(s.folder, "data") }

func (s *postgresServer) url(database string) string {
	return (&url.URL{
		Scheme: "postgres", User: url.UserPassword(postgresUser, s.password),
		Host: "127.0.0.1:" + strconv.Itoa(s.port), Path: "/" + database, RawQuery: "sslmode=disable",
	}).String()
}

func (s *postgresServer) exec(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, statement)
	return err
}

func (s *postgresServer) mustExec(t testing.TB, statement string) {
	t.Helper()
	if err := s.exec(statement); err != nil {
		s.process.showLog(t)
		t.Fatalf("%s: %v", statement, err)
	}
}
