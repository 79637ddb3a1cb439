// Package kafkaio is the only place that speaks to Kafka. In come topics to
// ensure, messages to produce, partitions to fetch and groups to join; out come
// acknowledgements, fetched messages and group generations. It knows no business
// word, and no type of the Kafka library leaves it.
//
// What is lost when it crashes: nothing that was acknowledged. Produce answers
// nil only after every in-sync replica has the messages. A call that ended
// otherwise, or never ended, leaves its messages in the log zero, one or several
// times, so whoever reads the log removes duplicates. Offsets move only through
// CommitOffset, which the group coordinator refuses from a member of an older
// generation.
//
// Non-obvious:
//   - There is no background prefetch: a Fetcher never holds messages of a
//     partition that this member has lost.
//   - A Fetcher never jumps. An offset that the broker no longer has is
//     ErrOffsetOutOfRange, and somebody has to decide.
//   - Routing follows cached cluster metadata. Any error that could come from
//     stale metadata drops the cache (at most a few times a second), so the pause
//     after a lost broker is the broker's own election time plus a fraction of a
//     second.
package kafkaio
