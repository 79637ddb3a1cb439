package clickhouse_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/tollway/tollway/services/platform/clickhouse"
	"github.com/tollway/tollway/services/platform/testenv"
)

func files(pairs ...string) fstest.MapFS {
	out := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return out
}

const createA = "-- a comment; with a semicolon\nCREATE TABLE IF NOT EXISTS ${database}.a (x UInt64, y String DEFAULT ';') ENGINE = ${engine:ReplacingMergeTree(x)} ORDER BY x TTL toDateTime(x) + INTERVAL ${days} DAY;\n-- the end\n"

func TestMigrateGoesForwardOnly(t *testing.T) {
	cfg := testenv.ClickHouseConfig(t)
	vars := map[string]string{"days": "35"}
	migrate := func(f fstest.MapFS) (int, error) { return clickhouse.Migrate(t.Context(), cfg, f, vars) }

	set := files("0001_a.sql", createA)
	steps := func(want int) {
		t.Helper()
		if got, err := migrate(set); err != nil || got != want {
			t.Fatalf("%d steps, error %v; want %d", got, err, want)
		}
	}
	steps(1)
	steps(0)
	set["0002_b.sql"] = files("b", "ALTER TABLE a ADD COLUMN IF NOT EXISTS z UInt8")["b"]
	set["0004_broken.sql"] = files("b", "CREATE TABLE nonsense")["b"]
	set["0003_c.sql"] = files("b", "CREATE TABLE IF NOT EXISTS c (x UInt8) ENGINE = ${engine:MergeTree} ORDER BY x")["b"]
	if got, err := migrate(set); got != 2 || err == nil || !strings.Contains(err.Error(), "0004_broken.sql") {
		t.Fatalf("%d steps, error %v; want 2 and the name of the broken file", got, err)
	}
	set["0004_broken.sql"] = files("b", "CREATE TABLE IF NOT EXISTS d (x UInt8) ENGINE = Memory")["b"]
	steps(1)
	steps(0)

	set["0001_a.sql"] = files("b", createA+" ")["b"]
	if got, err := migrate(set); got != 0 || err == nil || !strings.Contains(err.Error(), "0001_a.sql was changed") {
		t.Fatalf("a changed file: %d steps, error %v", got, err)
	}

	db := testenv.Open(t, cfg)
	var engine, ttl string
	if err := db.QueryRow(t.Context(), "SELECT engine, extract(create_table_query, 'toIntervalDay\\\\((\\\\d+)') FROM system.tables WHERE database = currentDatabase() AND name = 'a'", nil).Scan(&engine, &ttl); err != nil {
		t.Fatal(err)
	}
	if engine != "ReplacingMergeTree" || ttl != "35" {
		t.Errorf("table a has engine %s and TTL %s days", engine, ttl)
	}
	if rows := count(t, db, "schema_migrations"); rows != 4 {
		t.Errorf("%d migrations are recorded, want 4", rows)
	}
}

// A crash between a statement and its record repeats the statement.
func TestMigrateGoesOnAfterACrash(t *testing.T) {
	cfg := testenv.ClickHouseConfig(t)
	set := files("0001_a.sql", "CREATE TABLE IF NOT EXISTS a (x UInt8) ENGINE = Memory")
	db := testenv.Open(t, cfg)
	exec(t, db, "CREATE TABLE a (x UInt8) ENGINE = Memory")
	if got, err := clickhouse.Migrate(t.Context(), cfg, set, nil); got != 1 || err != nil {
		t.Fatalf("%d steps, error %v", got, err)
	}
}

func TestMigrateRefusesBadFilesBeforeItRunsAny(t *testing.T) {
	cfg := testenv.ClickHouseConfig(t)
	for want, set := range map[string]fstest.MapFS{
		"0001_a.txt.sql":             files("0001_a.txt.sql", "SELECT 1"),
		"1_a.sql":                    files("1_a.sql", "SELECT 1"),
		"same number":                files("0002_a.sql", "SELECT 1", "0002_b.sql", "SELECT 1"),
		"more than one":              files("0002_a.sql", "SELECT 1; SELECT 2"),
		"no statement":               files("0002_a.sql", "-- nothing\n;"),
		"placeholder ${secret}":      files("0002_a.sql", "SELECT ${secret}"),
		"want a MergeTree":           files("0002_a.sql", "CREATE TABLE x (a Int8) ENGINE = ${engine:Memory}"),
		"no cluster is configured":   files("0002_a.sql", "SELECT '${cluster}'"),
		"migration 0003_b.sql: more": files("0002_a.sql", "CREATE TABLE ran (a Int8) ENGINE = Memory", "0003_b.sql", "SELECT ';'; SELECT /* ; */ 2"),
	} {
		got, err := clickhouse.Migrate(t.Context(), cfg, set, nil)
		if got != 0 || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %d steps, error %v", want, got, err)
		}
	}
	var tables uint64
	db := testenv.Open(t, cfg)
	if err := db.QueryRow(t.Context(), "SELECT count() FROM system.tables WHERE database = currentDatabase()", nil).Scan(&tables); err != nil || tables != 0 {
		t.Errorf("%d tables, error %v; want none", tables, err)
	}
}

func TestUnknownCluster(t *testing.T) {
	cfg := testenv.ClickHouseConfig(t)
	cfg.Cluster = "nowhere"
	if _, err := clickhouse.Migrate(t.Context(), cfg, files(), nil); err == nil || !strings.Contains(err.Error(), "knows no cluster nowhere") {
		t.Errorf("migrate: %v", err)
	}
	if _, err := clickhouse.OpenShards(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "knows no cluster nowhere") {
		t.Errorf("open shards: %v", err)
	}
}
