package embedded_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/embedded"
	"github.com/tollway/tollway/services/platform/testenv"
)

// parentVariable makes this test binary a process that starts an engine or a
// log, says where it is, and waits to be killed.
const parentVariable = "TOLLWAY_TEST_PARENT"

func TestMain(m *testing.M) {
	embedded.EngineMain(os.Args)
	switch kind, dir, _ := strings.Cut(os.Getenv(parentVariable), ":"); kind {
	case "engine":
		parentOfEngine(dir)
	case "log":
		parentOfLog(dir)
	}
	testenv.Main(m)
}

type announcement struct {
	Pid  int
	Addr string
	Err  string
}

func announce(a announcement) {
	_ = json.NewEncoder(os.Stdout).Encode(a) // the reader notices when it is missing
	select {}
}

func parentOfEngine(dir string) {
	engine, err := embedded.StartEngine(context.Background(), testenv.EngineConfig(dir))
	if err != nil {
		announce(announcement{Err: err.Error()})
	}
	announce(announcement{Pid: engine.Pid(), Addr: engine.NativeAddr()})
}

// startParent runs this binary as such a process.
func startParent(t *testing.T, kind, dir string) (*exec.Cmd, announcement) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), parentVariable+"="+kind+":"+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var a announcement
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if err != nil || a.Err != "" {
		t.Fatalf("the process did not come up: %v %s", err, a.Err)
	}
	return cmd, a
}

// eventually polls until check is true.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !check() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30s: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func gone(pid int) bool {
	state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(state), ") Z ")
}

func TestEngineDiesWithAKilledParent(t *testing.T) {
	dir := t.TempDir()
	cmd, parent := startParent(t, "engine", dir)
	if gone(parent.Pid) {
		t.Fatal("the engine is not running")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	eventually(t, "the engine of a killed parent ends", func() bool { return gone(parent.Pid) })

	again, err := embedded.StartEngine(t.Context(), testenv.EngineConfig(dir))
	if err != nil {
		t.Fatalf("start on the folder of a killed parent: %v", err)
	}
	defer again.Close()
	if again.NativeAddr() != parent.Addr {
		t.Errorf("native address is %s, want that of the last run, %s", again.NativeAddr(), parent.Addr)
	}
}

func TestEngineIsRestartedOnTheSamePortsAndData(t *testing.T) {
	engine := testenv.NewEngine(t)
	cfg := testenv.ConfigFor(engine)
	testenv.CreateDatabase(t, cfg)
	db := testenv.Open(t, cfg)
	if err := db.Exec(t.Context(), "CREATE TABLE t ENGINE = MergeTree ORDER BY a AS SELECT number AS a FROM numbers(1000)", nil); err != nil {
		t.Fatal(err)
	}
	for round := 1; round <= 2; round++ {
		before := engine.Pid()
		if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the engine is started again", func() bool { return engine.Restarts() == round })
		if engine.Pid() == before || engine.Err() != nil {
			t.Fatalf("pid %d as before, error %v", engine.Pid(), engine.Err())
		}
		var rows uint64
		eventually(t, "the old connection pool answers", func() bool {
			return db.QueryRow(t.Context(), "SELECT count() FROM t", nil).Scan(&rows) == nil
		})
		if rows != 1000 {
			t.Fatalf("%d rows after the crash, want 1000", rows)
		}
	}
}

func TestEngineStopsCleanly(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	engine, err := embedded.StartEngine(ctx, testenv.EngineConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	pid := engine.Pid()
	cancel()
	select {
	case <-engine.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the engine does not stop with its context")
	}
	if !gone(pid) {
		t.Errorf("process %d is still there", pid)
	}
	// The engine removes this file when it stops by itself, not when killed.
	if _, err := os.Stat(filepath.Join(dir, "store", "status")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the engine did not end cleanly: %v", err)
	}
	if err := engine.Close(); err != nil {
		t.Error(err)
	}
}

func TestFrozenEngineIsKilledOnStop(t *testing.T) {
	cfg := testenv.EngineConfig(t.TempDir())
	cfg.StopTimeout = 500 * time.Millisecond
	engine, err := embedded.StartEngine(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	pid := engine.Pid()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := engine.Close(); err != nil {
		t.Fatal(err)
	}
	if !gone(pid) {
		t.Errorf("process %d is still there", pid)
	}
}

func TestSecondInstanceOnAFolder(t *testing.T) {
	cfg := testenv.EngineConfig(t.TempDir())
	engine, err := embedded.StartEngine(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	_, err = embedded.StartEngine(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "is in use by another Tollway") {
		t.Fatalf("second instance: error is %v", err)
	}
}

func TestStartErrorRepeatsWhatTheEngineSaid(t *testing.T) {
	cfg := testenv.EngineConfig(t.TempDir())
	// A port that is taken, and asked for by number, stays taken.
	port, err := embedded.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Addr: fmt.Sprintf("127.0.0.1:%d", port)}
	served := make(chan error, 1)
	go func() { served <- server.ListenAndServe() }()
	defer func() { server.Close(); <-served }()
	cfg.HTTPPort = port
	eventually(t, "the other server listens", func() bool {
		response, err := http.Get("http://" + server.Addr)
		if err == nil {
			response.Body.Close()
		}
		return err == nil
	})
	_, err = embedded.StartEngine(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "already in use") {
		t.Fatalf("error is %v, want the engine's own words", err)
	}
}

func TestStartWithoutTheLibrary(t *testing.T) {
	t.Setenv(embedded.EngineLibraryVariable, "")
	t.Setenv("TOLLWAY_CACHE", t.TempDir())
	_, err := embedded.StartEngine(t.Context(), testenv.EngineConfig(t.TempDir()))
	if !errors.Is(err, embedded.ErrNoEngine) || !strings.Contains(err.Error(), "make engine") {
		t.Fatalf("error is %v", err)
	}
}

func TestAccountsHaveTheLeastTheyNeed(t *testing.T) {
	engine := testenv.NewEngine(t)
	cfg := testenv.ConfigFor(engine)
	testenv.CreateDatabase(t, cfg)
	owner := testenv.Open(t, cfg)
	for _, statement := range []string{
		"CREATE TABLE t ENGINE = MergeTree ORDER BY a AS SELECT number AS a FROM numbers(3)",
		"CREATE DATABASE other", "CREATE TABLE other.t ENGINE = MergeTree ORDER BY a AS SELECT 1 AS a",
	} {
		if err := owner.Exec(t.Context(), statement, nil); err != nil {
			t.Fatal(err)
		}
	}
	reader := testenv.Open(t, testenv.AsReader(cfg, engine))
	if err := reader.Exec(t.Context(), "SELECT * FROM t", nil, clickhouse.WithLimits(clickhouse.Limits{ReadRows: 100})); err != nil {
		t.Errorf("the reader may not read its database under a limit: %v", err)
	}
	for _, statement := range []string{
		"SELECT * FROM other.t", "INSERT INTO t VALUES (1)", "DROP TABLE t", "CREATE TABLE u (a Int8) ENGINE = Memory",
		"SELECT * FROM file('" + cfg.Database + "', 'RawBLOB')", "SELECT * FROM url('http://" + engine.HTTPAddr() + "/', 'RawBLOB')",
	} {
		if err := reader.Exec(t.Context(), statement, nil); err == nil {
			t.Errorf("the reader may do: %s", statement)
		}
	}

	nobody := cfg
	nobody.Username, nobody.Password, nobody.Database = "default", "", "default"
	if db, err := clickhouse.Open(t.Context(), nobody); err == nil {
		defer db.Close()
		for _, statement := range []string{"SELECT 1", "SYSTEM STOP LISTEN HTTP"} {
			if err := db.Exec(t.Context(), statement, nil); err == nil {
				t.Errorf("without a password one may do: %s", statement)
			}
		}
	}
	if err := owner.Ping(t.Context()); err != nil {
		t.Errorf("the engine does not answer any more: %v", err)
	}
	wrong := cfg
	wrong.Password = "wrong"
	if db, err := clickhouse.Open(t.Context(), wrong); err == nil {
		db.Close()
		t.Error("a wrong password is accepted")
	}
}

func TestSecretFilesAreTheOwnersAlone(t *testing.T) {
	cfg := testenv.EngineConfig(t.TempDir())
	engine, err := embedded.StartEngine(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	password := engine.Passwords().Tollway
	for _, file := range []string{"users.xml", "config.xml", "engine.json"} {
		info, err := os.Stat(filepath.Join(cfg.DataDir, file))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, mode %v; want 0600", file, err, info.Mode().Perm())
		}
	}
	arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", engine.Pid()))
	if err != nil || strings.Contains(string(arguments), password) {
		t.Errorf("the password stands in the process list (%v)", err)
	}
	if printed := fmt.Sprintf("%v %+v %#v", engine.Passwords(), engine.Passwords(), engine.Passwords()); strings.Contains(printed, password) {
		t.Errorf("the password prints itself: %s", printed)
	}
	engine.Close()
	again, err := embedded.StartEngine(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Passwords() != engine.Passwords() {
		t.Error("the passwords of a data folder changed with a restart")
	}
}

func TestTwoEnginesAreTwoShards(t *testing.T) {
	cfg := testenv.ClusterConfig(t)
	migrations := os.DirFS("testdata/shards")
	for run, want := range []int{6, 0} {
		applied, err := clickhouse.Migrate(t.Context(), cfg, migrations, nil)
		if err != nil || applied != want {
			t.Fatalf("run %d applied %d steps, error %v; want %d", run+1, applied, err, want)
		}
	}
	shards := testenv.OpenShards(t, cfg)
	if len(shards) != 2 {
		t.Fatalf("%d shards", len(shards))
	}
	for i, shard := range shards {
		if err := shard.Exec(t.Context(), "INSERT INTO here SELECT number, 'x' FROM numbers({n:UInt64})", map[string]any{"n": 300 + 400*i}); err != nil {
			t.Fatal(err)
		}
	}
	all := cfg.AllShards()
	backwards := all
	backwards.Addresses = []string{all.Addresses[1], all.Addresses[0]}
	reader := testenv.Open(t, testenv.AsReader(backwards, testenv.Engine(t)))
	for name, check := range map[string]struct {
		db   *clickhouse.DB
		want uint64
	}{
		"first shard":               {shards[0], 300},
		"second shard":              {shards[1], 700},
		"all of it from the first":  {testenv.Open(t, all), 1000},
		"all of it from the second": {testenv.Open(t, backwards), 1000},
		"all of it as the reader":   {reader, 1000},
		"a shard as the reader":     {testenv.Open(t, testenv.AsReader(shards[1].Config(), testenv.Engine(t))), 700},
	} {
		var rows uint64
		if err := check.db.QueryRow(t.Context(), "SELECT count() FROM here", nil).Scan(&rows); err != nil || rows != check.want {
			t.Errorf("%s: %d rows, error %v; want %d", name, rows, err, check.want)
		}
	}
	// Shards ask each other as the reader, so nobody gets more through them.
	if err := shards[1].Exec(t.Context(), "CREATE DATABASE IF NOT EXISTS hidden", nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shards[1].Exec(context.WithoutCancel(t.Context()), "DROP DATABASE hidden SYNC", nil) })
	if err := shards[1].Exec(t.Context(), "CREATE TABLE hidden.t ENGINE = MergeTree ORDER BY a AS SELECT 1 AS a", nil); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		"INSERT INTO here VALUES (1, 'y')", "DROP TABLE here", "SELECT * FROM cluster('shards', 'hidden', 't')",
		"SELECT * FROM cluster('shards', 'system', 'users')",
	} {
		if err := reader.Exec(t.Context(), statement, nil); err == nil {
			t.Errorf("the reader may do: %s", statement)
		}
	}
	if err := testenv.Open(t, all).Exec(t.Context(), "INSERT INTO here VALUES (1, 'y')", nil); err == nil {
		t.Error("one may write to a Distributed table, past the choice of a shard")
	}
}

func TestEngineConfigNamesTheWrongField(t *testing.T) {
	for want, change := range map[string]func(*embedded.EngineConfig){
		"data_dir":           func(c *embedded.EngineConfig) { c.DataDir = "" },
		"native_port":        func(c *embedded.EngineConfig) { c.NativePort = -1 },
		"http_port":          func(c *embedded.EngineConfig) { c.HTTPPort = 70000 },
		"readable_databases": func(c *embedded.EngineConfig) { c.ReadableDatabases = []string{"a; DROP"} },
		"memory_limit_bytes": func(c *embedded.EngineConfig) { c.MemoryLimitBytes = 1 },
		"background_threads": func(c *embedded.EngineConfig) { c.BackgroundThreads = 0 },
		"start_timeout":      func(c *embedded.EngineConfig) { c.StartTimeout = 0 },
		"no shard":           func(c *embedded.EngineConfig) { c.Clusters = map[string][]embedded.Shard{"c": nil} },
		"no node":            func(c *embedded.EngineConfig) { c.Clusters = map[string][]embedded.Shard{"c": {{}}} },
		"no address":         func(c *embedded.EngineConfig) { c.Clusters = map[string][]embedded.Shard{"c": {{{Port: 1}}}} },
	} {
		cfg := embedded.DefaultEngineConfig()
		cfg.DataDir, cfg.Log = "somewhere", zerolog.Nop()
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v", want, err)
		}
	}
}

func TestEngineVersionIsTheFetchedOne(t *testing.T) {
	raw, err := os.ReadFile("../../../deploy/embedded/package.json")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), `"`+embedded.EngineVersion+`"`) {
		t.Errorf("deploy/embedded/package.json does not fetch %s", embedded.EngineVersion)
	}
}
