// Package als is the gRPC access log service that Envoy and Istio stream their
// calls to: envoy.service.accesslog.v3.AccessLogService, version 3, HTTP and
// TCP entries.
//
// In: messages of a stream, as bytes; the first says which Envoy it is. Out:
// calls, handed to a Publisher one by one. The protocol has no answer, so a
// message that was in flight when the stream broke is lost, without a trace
// here or in Envoy's own counters (services/collector/served finds it). What
// was received is published even when the stream breaks meanwhile. A crash
// loses what the publisher had not yet got acknowledged, at most its queue and
// one message per stream.
//
// The messages are decoded by hand (wire.go, decoder.go), because decoding is
// most of what this service does and the general decoder allocates for every
// field. The rules are those of protocol buffers: the last value of a field
// wins, submessages merge, unknown fields are skipped. It differs in three
// places. Text that is not UTF-8 is taken; fields that no column needs are
// stepped over, so damage inside them goes unnoticed; and a message that holds
// both HTTP and TCP entries, which Envoy never sends, gives both.
package als
