-- What usage_15m says of a range of whole hours, per hour, source and
-- partition, with the fingerprint of reconcile_raw.sql.
SELECT
    toDateTime(toStartOfHour(bucket), 'UTC') AS hour, source, partition,
    sum(r.calls) AS rolled_up,
    sum(usage * (toUInt64(r.calls) + 3 * toUInt64(r.request_bytes) + 5 * toUInt64(r.response_bytes))
        + arraySum((k, v) -> cityHash64(usage, k) * reinterpret(v, 'UInt64'), mapKeys(r.measures), mapValues(r.measures))) AS print
FROM
(
    SELECT
        *,
        cityHash64(intDiv(toUnixTimestamp(bucket), 900), account, app, subscription, product, plan, api, operation, toUInt16(status), denied, environment) AS usage
    FROM usage_15m
    WHERE bucket >= {from:DateTime('UTC')} AND bucket < {to:DateTime('UTC')}
) AS r
GROUP BY hour, source, partition
ORDER BY hour, source, partition
