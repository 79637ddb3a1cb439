// Package sql holds the text that databases execute: migrations and named
// queries, embedded so that a binary carries the schema it was written for.
//
// In: nothing. Out: file systems and query texts. It knows no database client
// and loses nothing when a process crashes.
package sql

import (
	"embed"
	"io/fs"
	"strconv"
)

//go:embed clickhouse/migrations/*.sql
var migrations embed.FS

// ClickHouseMigrations are forward-only migrations, one idempotent statement
// per file, applied in the order of their names on every node.
var ClickHouseMigrations = func() fs.FS {
	files, err := fs.Sub(migrations, "clickhouse/migrations")
	if err != nil {
		panic(err) // the path is a constant
	}
	return files
}()

//go:embed ledger/migrations/*.sql
var ledgerMigrations embed.FS

// LedgerMigrations are forward-only migrations of the ledger database. A file
// NNNN_name.sql is one step, run in a transaction; where SQLite and PostgreSQL
// must differ there are two, NNNN_name.sqlite.sql and NNNN_name.postgres.sql.
var LedgerMigrations = func() fs.FS {
	files, err := fs.Sub(ledgerMigrations, "ledger/migrations")
	if err != nil {
		panic(err) // the path is a constant
	}
	return files
}()

//go:embed clickhouse/queries/*.sql
var queries embed.FS

// ClickHouseQuery is the text of clickhouse/queries/<name>.sql. Parameters
// stand in it as {name:Type}. A name that does not exist is a mistake in the
// program and panics, at start, where texts are looked up.
func ClickHouseQuery(name string) string {
	text, err := queries.ReadFile("clickhouse/queries/" + name + ".sql")
	if err != nil {
		panic(err)
	}
	return string(text)
}

// ClickHouseVariables are the values that migrations stand in need of. Raw
// calls and minutes are kept for retentionDays, coarser rollups for
// rollupRetentionDays. With replicated tables the engine keeps the tokens of
// inserts in Keeper, otherwise beside the table, where that is off by default.
func ClickHouseVariables(replicated bool, retentionDays, rollupRetentionDays int) map[string]string {
	window := "non_replicated_deduplication_window = 10000"
	if replicated {
		window = "replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 86400"
	}
	return map[string]string{
		"deduplication_window":  window,
		"retention_days":        strconv.Itoa(retentionDays),
		"rollup_retention_days": strconv.Itoa(rollupRetentionDays),
	}
}
