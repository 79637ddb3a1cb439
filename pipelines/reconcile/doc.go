// Package reconcile proves that nothing was lost or counted twice on the way
// into the reports, and mends rollups that say something else than raw.
//
// In: the tables that the pipelines fill, the watermark up to which every
// partition is stored, and what gateways say they served (topic
// tollway.served.v1). Out: rows in reconciliation, one per sealed hour and
// source; rows in served; repairs of rollups. A crash loses nothing: whatever
// was not recorded is compared again, and every step may be done twice, or by
// two processes at once.
//
// Why a repair is safe beside running pipelines, for any hour, the present one
// included: a repair is one INSERT … SELECT of raw less rollup for one
// partition of the log. It runs under the query id that the partition's inserts
// also run under, and the server refuses a second statement with the id of one
// that still runs; whoever is refused waits and tries again. So a repair sees
// no half of an insert (raw without its rollups), no insert comes between its
// reading and its writing, and of two repairs the second finds nothing left to
// add. A repair that is cut off in the middle has added a part of the
// difference; the rest is the difference of the next comparison. Statements of
// one partition must go to one server: they do, as the first address that can
// be reached is used by all.
//
// A bucket of the minute feeds the hour and that the day, so a repair of the
// minute flows on; each coarser tier is therefore repaired after the finer one,
// and readers may see it too high or too low in between.
//
// Where ClickHouse has shards, each is held against itself: a shard's rollups are
// made of its own calls, on the same server. Only what is recorded is about all
// of them, and lies on the first.
//
// Buckets that begin before raw's retention are never compared: raw is being
// dropped there, and rollups are what is left of it.
package reconcile
