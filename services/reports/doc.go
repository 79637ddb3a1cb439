// Package reports answers questions about metered calls: metrics by dimension
// over a range of time.
//
// In: queries (gRPC, and REST through the gateway). Out: rows, the names of
// the tables that were read, and the moment up to which the answer is
// complete. One registry (registry.go) drives validation, SQL, documentation
// and the help of the command line. The planner (plan.go) reads the coarsest
// table that can answer, and the finer ones for the edges of the range that lie
// inside a bucket, so that an answer is exact whatever the range. The service
// only reads, under limits, with the caller's account as part of every query
// where the caller is tied to one. It holds no state: a crash loses the queries
// under way and nothing else.
package reports
