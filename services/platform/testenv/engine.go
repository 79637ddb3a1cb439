package testenv

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/config"
	"github.com/tollway/tollway/services/platform/embedded"
)

// shared is the engine of this test binary, started by the first test that
// asks for one.
var shared struct {
	mu      sync.Mutex
	engine  *embedded.Engine
	err     error
	dir     string
	started bool
	isMain  bool
}

// Main is the whole body of a TestMain. It lets the test binary be the
// engine's process, runs the tests, and stops what they have started.
func Main(m *testing.M) {
	embedded.EngineMain(os.Args)
	shared.isMain = true
	code := m.Run()
	if shared.engine != nil {
		_ = shared.engine.Close() // stopping a test's engine cannot fail the test
	}
	if shared.dir != "" {
		os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// Engine returns the engine that the tests of this binary share. Do not stop
// or kill it; NewEngine gives one for that.
func Engine(t testing.TB) *embedded.Engine {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if !shared.started {
		shared.started = true
		if shared.dir, shared.err = os.MkdirTemp("", "tollway-test-"); shared.err == nil {
			shared.engine, shared.err = start(shared.dir)
		}
	}
	if shared.err != nil {
		t.Fatalf("start the shared engine: %v", shared.err)
	}
	return shared.engine
}

// EngineConfig is what tests start an engine with.
func EngineConfig(dir string) embedded.EngineConfig {
	cfg := embedded.DefaultEngineConfig()
	cfg.DataDir = dir
	cfg.ReadableDatabases = []string{"tollway", "test_*"}
	cfg.MemoryLimitBytes = 2 << 30
	return cfg
}

func start(dir string) (*embedded.Engine, error) {
	if !shared.isMain {
		return nil, fmt.Errorf("the package has no TestMain that calls testenv.Main")
	}
	return embedded.StartEngine(context.Background(), EngineConfig(dir))
}

// NewEngine starts an engine for this test alone, which may kill it.
func NewEngine(t testing.TB) *embedded.Engine {
	t.Helper()
	engine, err := start(t.TempDir())
	if err != nil {
		t.Fatalf("start an engine: %v", err)
	}
	t.Cleanup(func() { _ = engine.Close() })
	return engine
}

// ClickHouse returns a connection to a database of this test's own, on the
// shared engine, as the account with all rights.
func ClickHouse(t testing.TB) *clickhouse.DB {
	t.Helper()
	return Open(t, ClickHouseConfig(t))
}

// ClickHouseConfig makes a database of this test's own on the shared engine
// and returns the configuration to reach it with all rights. The database is
// dropped when the test ends.
func ClickHouseConfig(t testing.TB) clickhouse.Config {
	t.Helper()
	cfg := ConfigFor(Engine(t))
	CreateDatabase(t, cfg)
	t.Cleanup(func() {
		err := asDefault(cfg, func(ctx context.Context, db *clickhouse.DB) error {
			return db.Exec(ctx, "DROP DATABASE IF EXISTS "+clickhouse.Identifier(cfg.Database)+" SYNC", nil)
		})
		if err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	return cfg
}

// ConfigFor is the configuration to reach an engine with all rights, with the
// name of a database that does not exist yet.
func ConfigFor(engine *embedded.Engine) clickhouse.Config {
	cfg := clickhouse.Default()
	cfg.Addresses = []string{engine.NativeAddr()}
	cfg.HTTPAddresses = []string{engine.HTTPAddr()}
	cfg.Username = embedded.TollwayUser
	cfg.Password = config.Secret(engine.Passwords().Tollway)
	cfg.Database = "test_" + randomName()
	return cfg
}

// AsReader is the same database as the account that may only select.
func AsReader(cfg clickhouse.Config, engine *embedded.Engine) clickhouse.Config {
	cfg.Username = embedded.ReaderUser
	cfg.Password = config.Secret(engine.Passwords().Reader)
	return cfg
}

// CreateDatabase makes the database that a configuration names.
func CreateDatabase(t testing.TB, cfg clickhouse.Config) {
	t.Helper()
	err := asDefault(cfg, func(ctx context.Context, db *clickhouse.DB) error {
		return db.Exec(ctx, "CREATE DATABASE IF NOT EXISTS "+clickhouse.Identifier(cfg.Database), nil)
	})
	if err != nil {
		t.Fatalf("create the test's database: %v", err)
	}
}

// Open connects and closes the connection when the test ends.
func Open(t testing.TB, cfg clickhouse.Config) *clickhouse.DB {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	db, err := clickhouse.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// asDefault connects to the database that always exists.
func asDefault(cfg clickhouse.Config, do func(context.Context, *clickhouse.DB) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cfg.Database = "default"
	db, err := clickhouse.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer db.Close()
	return do(ctx, db)
}

func randomName() string {
	raw := make([]byte, 6)
	rand.Read(raw) // crypto/rand.Read ends the process rather than fail
	return hex.EncodeToString(raw)
}
