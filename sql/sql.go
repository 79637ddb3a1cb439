// Package sql holds the text that databases execute: migrations and named
// queries, embedded so that a binary carries the schema it was written for.
//
// In: nothing. Out: file systems and query texts. It knows no database client
// and loses nothing when a process crashes.
package sql

import "embed"

// ClickHouseMigrations are forward-only migrations, one idempotent statement
// per file, applied in the order of their names on every node.
//
//go:embed clickhouse/migrations/*.sql
var ClickHouseMigrations embed.FS

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
