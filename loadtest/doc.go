// Package loadtest judges a running Tollway from outside: it starts the real
// program, sends traffic, kills parts of it, and holds what is stored against
// what was sent.
//
// In: the repository, and Kafka and the engine in the cache folder. Out: test
// results (the tests are behind the build tag "faults") and, from cmd/bench,
// measurements. Nothing here is part of the product, and nothing outlives a
// run but the results folder.
package loadtest
