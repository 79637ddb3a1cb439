// Package testenv gives tests the real parts: a ClickHouse engine, a
// Kafka-protocol log and a ledger database, started by the test itself.
//
// In comes a test; out come addresses and connections that are gone when the
// test ends. The engine, and PostgreSQL where a test asks for it, are shared by
// all tests of one test binary, each of which gets a database of its own. Nothing outlives the test binary, and its
// data is lost on purpose.
//
// A package that uses it has
//
//	func TestMain(m *testing.M) { testenv.Main(m) }
package testenv
