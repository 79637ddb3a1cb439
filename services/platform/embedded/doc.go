// Package embedded runs the two engines that let Tollway live on one machine:
// a ClickHouse engine as a child process and a Kafka-protocol log inside this
// process.
//
// In comes a data folder and a few limits; out come addresses on loopback that
// the ordinary ClickHouse and Kafka clients connect to, so nothing above this
// package knows that the engines are embedded.
//
// The engine is libchdb.so, loaded without cgo by a second copy of this
// executable (see EngineMain), which dies with its parent however the parent
// ends. When the child dies first it is started again on the same ports and
// data. A crash of either loses what ClickHouse itself would lose: inserts
// that were not yet answered. The log answers a produce request only after the
// records are on disk, so a crash loses no acknowledged record.
package embedded
