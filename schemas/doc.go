// Package schemas is the root of the module that holds what two processes
// agree on: the gRPC and REST services (proto/), with the Go code and OpenAPI
// documents generated from them beside their sources.
//
// In: the .proto files. Out: generated code, remade by generate.sh; a check
// regenerates it and compares. Nothing runs here, so nothing is lost when a
// process crashes.
package schemas
