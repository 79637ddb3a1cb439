// Package publish carries calls from the collector's sources to the log.
//
// In: calls, one at a time, from any number of sources at once (Append,
// AppendWait). Out: Arrow messages on one Kafka topic, every call on the
// partition its ID names, and word to the source (Delivery.Wait) once the log
// has acknowledged all that the source handed over.
//
// One batch per partition is open at any time. It is sent when it is full, when
// it is old enough, or soon after a source begins to wait for it; while a
// produce is under way the next batch keeps filling, so batches grow with the
// load by themselves. A batch that the log does not take is tried again until
// it does: the log's return loses nothing that is held here. Memory is bounded;
// past the bound Append says ErrBusy and AppendWait blocks.
//
// A crash loses the open batches and those in flight. None of their calls had
// been acknowledged to its source, so the source sends them again.
package publish
