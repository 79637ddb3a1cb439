package testenv_test

import (
	"net"
	"testing"

	"github.com/tollway/tollway/services/platform/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestEachTestHasItsOwnDatabase(t *testing.T) {
	first, second := testenv.ClickHouse(t), testenv.ClickHouse(t)
	if first.Database() == second.Database() {
		t.Fatalf("two databases of the same name %s", first.Database())
	}
	if err := first.Exec(t.Context(), "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a", nil); err != nil {
		t.Fatal(err)
	}
	var tables uint64
	if err := second.QueryRow(t.Context(), "SELECT count() FROM system.tables WHERE database = {d:String}",
		map[string]any{"d": second.Database()}).Scan(&tables); err != nil {
		t.Fatal(err)
	}
	if tables != 0 {
		t.Fatalf("the second database has %d tables, want 0", tables)
	}
}

func TestReaderReadsTestDatabases(t *testing.T) {
	cfg := testenv.ClickHouseConfig(t)
	owner := testenv.Open(t, cfg)
	if err := owner.Exec(t.Context(), "CREATE TABLE t ENGINE = MergeTree ORDER BY a AS SELECT number AS a FROM numbers(3)", nil); err != nil {
		t.Fatal(err)
	}
	reader := testenv.Open(t, testenv.AsReader(cfg, testenv.Engine(t)))
	var rows uint64
	if err := reader.QueryRow(t.Context(), "SELECT count() FROM t", nil).Scan(&rows); err != nil || rows != 3 {
		t.Fatalf("reader sees %d rows, error %v; want 3", rows, err)
	}
	if err := reader.Exec(t.Context(), "DROP TABLE t", nil); err == nil {
		t.Fatal("the reader may drop a table")
	}
}

func TestLogListens(t *testing.T) {
	conn, err := net.Dial("tcp", testenv.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
