-- What raw says of a range of whole hours, per hour, source and partition: how
-- many calls, and a fingerprint of what each rollup should say. Fingerprints
-- are sums modulo 2^64 in which every key and value has its own weight, so they
-- can be computed from single calls and from buckets alike, and are equal when
-- every bucket is.
SELECT
    toDateTime(toStartOfHour(time), 'UTC') AS hour, source, partition,
    count() AS stored,
    sum(traffic * (1 + 3 * toUInt64(c.request_bytes) + 5 * toUInt64(c.response_bytes)
            + 7 * toUInt64(greatest(c.total_us, 0)) + 11 * toUInt64(greatest(c.upstream_us, 0)))
        + if(total_bucket = 65535, 0, cityHash64(traffic, 1, total_bucket))
        + if(upstream_bucket = 65535, 0, cityHash64(traffic, 2, upstream_bucket))) AS traffic_print,
    sum(usage * (1 + 3 * toUInt64(c.request_bytes) + 5 * toUInt64(c.response_bytes))
        + arraySum((k, v) -> cityHash64(usage, k) * reinterpret(v, 'UInt64'), mapKeys(c.measures), mapValues(c.measures))) AS usage_print
FROM
(
    SELECT
        *,
        cityHash64(intDiv(toUnixTimestamp(time), 60), product, api, operation, method, toUInt16(status), fault, upstream, version, region, environment, gateway) AS traffic,
        cityHash64(intDiv(toUnixTimestamp(time), 900), account, app, subscription, product, plan, api, operation, toUInt16(status), denied, environment) AS usage
    FROM calls FINAL
    WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')}
) AS c
GROUP BY hour, source, partition
ORDER BY hour, source, partition
