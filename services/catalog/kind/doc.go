// Package kind says what the resources of the catalog are: how each kind is
// named and what it belongs to, what its fields may hold, which of them refer to
// other resources, which never change and which only the server sets.
//
// In come messages of the API; out go violations, each naming a field, and what
// the store must keep beside the message. It only computes: no clock, no
// database, and nothing to lose in a crash.
package kind
