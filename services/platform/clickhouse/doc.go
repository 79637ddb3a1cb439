// Package clickhouse is a thin layer over the ClickHouse client and knows no
// business word.
//
// In come SQL texts with named server-side parameters, Arrow streams and
// migration files; out go rows, and errors that say whether trying again makes
// sense and whether the server may have done the work all the same. Queries
// use the native protocol; Arrow streams go over HTTP, the one protocol on
// which the server parses them itself.
//
// Nothing is kept here: a crash loses the calls that had not returned, and
// whether an unanswered insert is stored must be found out by asking.
package clickhouse
