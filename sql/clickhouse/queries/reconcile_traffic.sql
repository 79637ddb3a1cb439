-- What a rollup of traffic says of a range, per hour (or day, for wider
-- buckets), source and partition, with the fingerprint of reconcile_raw.sql for
-- buckets of the given width.
SELECT
    toDateTime(intDiv(toUnixTimestamp(bucket), {group_seconds:UInt32}) * {group_seconds:UInt32}, 'UTC') AS hour, source, partition,
    sum(r.calls) AS rolled_up,
    sum(traffic * (toUInt64(r.calls) + 3 * toUInt64(r.request_bytes) + 5 * toUInt64(r.response_bytes)
            + 7 * toUInt64(r.total_us) + 11 * toUInt64(r.upstream_us))
        + arraySum((k, v) -> cityHash64(traffic, 1, k) * toUInt64(v), mapKeys(r.total_histogram), mapValues(r.total_histogram))
        + arraySum((k, v) -> cityHash64(traffic, 2, k) * toUInt64(v), mapKeys(r.upstream_histogram), mapValues(r.upstream_histogram))) AS print
FROM
(
    SELECT
        *,
        cityHash64(intDiv(toUnixTimestamp(bucket), {bucket_seconds:UInt32}), product, api, operation, method, toUInt16(status), fault, upstream, version, region, environment, gateway) AS traffic
    FROM {table:Identifier}
    WHERE bucket >= {from:DateTime('UTC')} AND bucket < {to:DateTime('UTC')}
) AS r
GROUP BY hour, source, partition
ORDER BY hour, source, partition
