// Package ledger is the transactional database: SQLite in the embedded mode,
// PostgreSQL in production, one SQL dialect for both. It knows no business word.
//
// In come migration files and transactions as functions; out go rows, and
// errors that say what the database refused and by which constraint, the same
// on both. A transaction that loses against another one is run again. What Tx
// returned without an error is on disk and survives a crash; a transaction that
// had not returned is there as a whole or not at all.
//
// Statements are written once:
//   - placeholders are $1, $2, …; where PostgreSQL cannot tell a type by the
//     place, CAST($1 AS TEXT)
//   - integers are int64, text is UTF-8 without NUL and compares bytewise, LIKE
//     is case-sensitive, times are int64 microseconds since 1970 UTC
//   - generated numbers come back by RETURNING, upserts are ON CONFLICT
//   - no SELECT … FOR UPDATE: a write transaction is serializable as it is
package ledger
