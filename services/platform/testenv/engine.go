package testenv

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/config"
	"github.com/tollway/tollway/services/platform/embedded"
)

// shared is the engines of this test binary. The first is started by the first
// test that asks for one, the second by the first that asks for a cluster.
var shared struct {
	mu     sync.Mutex
	isMain bool
	first  once
	second once

	passwords embedded.Passwords
	shards    []embedded.Shard
	held      net.Listener // keeps the second's port for it
}

// once is an engine that is started once, or fails once and for all.
type once struct {
	engine *embedded.Engine
	err    error
	dir    string
}

func (o *once) start(prepare func(*embedded.EngineConfig) error) (*embedded.Engine, error) {
	if o.engine != nil || o.err != nil {
		return o.engine, o.err
	}
	if o.dir, o.err = os.MkdirTemp("", "tollway-test-"); o.err != nil {
		return nil, o.err
	}
	// A port that was chosen may be taken by the time the engine listens.
	for range 3 {
		cfg := EngineConfig(o.dir)
		if o.err = prepare(&cfg); o.err != nil {
			return nil, o.err
		}
		if o.engine, o.err = start(cfg); o.err == nil {
			return o.engine, nil
		}
	}
	return nil, o.err
}

func (o *once) stop() {
	if o.engine != nil {
		_ = o.engine.Close() // stopping a test's engine cannot fail the test
	}
	if o.dir != "" {
		os.RemoveAll(o.dir)
	}
}

// Main is the whole body of a TestMain. It lets the test binary be the
// engine's process, runs the tests, and stops what they have started.
func Main(m *testing.M) {
	embedded.EngineMain(os.Args)
	shared.isMain = true
	code := m.Run()
	if shared.held != nil {
		shared.held.Close()
	}
	shared.second.stop()
	shared.first.stop()
	stopPostgres()
	os.Exit(code)
}

// Engine returns the engine that the tests of this binary share. Do not stop
// or kill it; NewEngine gives one for that.
func Engine(t testing.TB) *embedded.Engine {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	engine, err := shared.first.start(firstShard)
	if err != nil {
		t.Fatalf("start the shared engine: %v", err)
	}
	return engine
}

// clusterName is what the shared engines call the cluster of both.
const clusterName = "shards"

// firstShard chooses the ports of both shards, since each has to know both when
// it is started, and the accounts that they have in common. They ask each other
// as the account that may only select.
func firstShard(cfg *embedded.EngineConfig) (err error) {
	shared.passwords = embedded.Passwords{Tollway: randomName(), Reader: randomName()}
	if cfg.NativePort, err = embedded.FreePort(); err != nil {
		return err
	}
	if shared.held != nil {
		shared.held.Close()
	}
	if shared.held, err = new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	shared.shards = nil
	for _, port := range []int{cfg.NativePort, shared.held.Addr().(*net.TCPAddr).Port} {
		node := embedded.Node{Host: "127.0.0.1", Port: port, Username: embedded.ReaderUser, Password: shared.passwords.Reader}
		shared.shards = append(shared.shards, embedded.Shard{node})
	}
	cfg.Passwords, cfg.Clusters = shared.passwords, map[string][]embedded.Shard{clusterName: shared.shards}
	return nil
}

func secondShard(cfg *embedded.EngineConfig) error {
	cfg.NativePort = shared.shards[1][0].Port
	cfg.Passwords, cfg.Clusters = shared.passwords, map[string][]embedded.Shard{clusterName: shared.shards}
	shared.held.Close()
	return nil
}

// Cluster returns two shared engines that are the two shards of a cluster. The
// first of them is that of Engine.
func Cluster(t testing.TB) (first, second *embedded.Engine) {
	t.Helper()
	first = Engine(t)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	second, err := shared.second.start(secondShard)
	if err != nil {
		t.Fatalf("start the second shared engine: %v", err)
	}
	return first, second
}

// EngineConfig is what tests start an engine with.
func EngineConfig(dir string) embedded.EngineConfig {
	cfg := embedded.DefaultEngineConfig()
	cfg.DataDir = dir
	cfg.ReadableDatabases = []string{"tollway", "test_*"}
	cfg.MemoryLimitBytes = 2 << 30
	return cfg
}

func start(cfg embedded.EngineConfig) (*embedded.Engine, error) {
	if !shared.isMain {
		return nil, fmt.Errorf("the package has no TestMain that calls testenv.Main")
	}
	return embedded.StartEngine(context.Background(), cfg)
}

// NewEngine starts an engine for this test alone, which may kill it.
func NewEngine(t testing.TB) *embedded.Engine {
	t.Helper()
	engine, err := start(EngineConfig(t.TempDir()))
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
	t.Cleanup(func() { dropDatabases(t, cfg, cfg.Database) })
	return cfg
}

// ClusterConfig does the same on a cluster of two shards, for migrations to
// make the databases of.
func ClusterConfig(t testing.TB) clickhouse.Config {
	t.Helper()
	first, second := Cluster(t)
	cfg := ConfigFor(first)
	cfg.Cluster = clusterName
	cfg.Addresses = append(cfg.Addresses, second.NativeAddr())
	cfg.HTTPAddresses = append(cfg.HTTPAddresses, second.HTTPAddr())
	t.Cleanup(func() {
		for _, engine := range []*embedded.Engine{first, second} {
			node := cfg
			node.Addresses, node.Cluster = []string{engine.NativeAddr()}, ""
			dropDatabases(t, node, cfg.AllShards().Database, cfg.Database)
		}
	})
	return cfg
}

// Layouts runs a test on one engine and on a cluster of two shards.
func Layouts(t *testing.T, test func(t *testing.T, cfg clickhouse.Config)) {
	t.Run("one engine", func(t *testing.T) { test(t, ClickHouseConfig(t)) })
	t.Run("two shards", func(t *testing.T) { test(t, ClusterConfig(t)) })
}

func dropDatabases(t testing.TB, cfg clickhouse.Config, names ...string) {
	err := asDefault(cfg, func(ctx context.Context, db *clickhouse.DB) error {
		for _, name := range names {
			if err := db.Exec(ctx, "DROP DATABASE IF EXISTS "+clickhouse.Identifier(name)+" SYNC", nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Errorf("drop the test's database: %v", err)
	}
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

// AsReader is the same database as the account that may only select. Shared
// engines have the same accounts.
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

// OpenShards connects to each shard, to the one that there is without a
// cluster, and closes the connections when the test ends.
func OpenShards(t testing.TB, cfg clickhouse.Config) []*clickhouse.DB {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	shards, err := clickhouse.OpenShards(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, db := range shards {
		t.Cleanup(func() { _ = db.Close() })
	}
	return shards
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
