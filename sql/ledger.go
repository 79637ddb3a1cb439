package sql

import "embed"

//go:embed ledger/queries/*.sql
var ledgerQueries embed.FS

// LedgerQuery is the text of ledger/queries/<name>.sql. Parameters stand in it as
// $1, $2, …. A name that does not exist is a mistake in the program and panics,
// at start, where texts are looked up.
func LedgerQuery(name string) string {
	text, err := ledgerQueries.ReadFile("ledger/queries/" + name + ".sql")
	if err != nil {
		panic(err)
	}
	return string(text)
}
