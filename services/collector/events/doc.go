// Package events takes calls over HTTP: POST /v1/events.
//
// In: CloudEvents 1.0 in structured, batch and binary mode, or NDJSON with one
// CloudEvent or one flat call per line; plain, gzip or zstd. Out: calls, given to
// the publisher; and an answer that says of every item what became of it. The
// answer is 2xx only after the log has acknowledged everything accepted.
//
// The identity of a call is its source and id, so that sending again is safe: a
// copy in the same body is reported as a duplicate, a copy in a later request is
// dropped by the pipelines. A retry should repeat the event's time: an event
// without one is given the time of its arrival.
//
//	202  at least one item is accepted; the others are listed with the reason
//	400  no item is acceptable, or the body stops being JSON somewhere: what
//	     came before that place is accepted and counted in the answer
//	413  the body, or its number of items, is over the limit
//	415  the content type or encoding is not one of those above
//	429  too much is waiting for the log; send the same again later
//	503  the log did not acknowledge in time; send the same again later
//
// A crash loses requests that were not answered; their senders try again.
package events
