// Package envoy maps what an Envoy access log says about a call to the record
// of the call, the same way whatever the log came by.
//
// In: an Entry, filled by the gRPC access log decoder (services/collector/als),
// by the OpenTelemetry source (services/collector/otlp) or by name from a text
// log (Entry.Set). Out: a call.Call, or a Reject that names the field. The
// package is pure: no network, no store, the time is given by the caller. A
// crash loses nothing here, because nothing here is acknowledged.
//
// The pages of the mapping: latency.go (time points to durations), flags.go
// (response flags), fault.go (who is to blame), cluster.go (Istio's cluster
// names), identity.go (who called), mapper.go (everything else).
package envoy
