-- What traffic_1m lacks, or has too much of, in one partition's share of the
-- buckets: raw less rollup. Inserting it makes the two equal; when they are
-- equal there is nothing to insert.
SELECT
    bucket, source, product, api, operation, method, status, fault, upstream, version, region, environment, gateway, toUInt16({partition:UInt16}) AS partition,
    sum(d_calls) AS calls,
    sum(d_request_bytes) AS request_bytes,
    sum(d_response_bytes) AS response_bytes,
    sum(d_total_us) AS total_us,
    sum(d_upstream_us) AS upstream_us,
    max(d_total_max_us) AS total_max_us,
    mapFilter((k, v) -> v != 0, sumMap(d_total_histogram)) AS total_histogram,
    mapFilter((k, v) -> v != 0, sumMap(d_upstream_histogram)) AS upstream_histogram
FROM
(
    SELECT
        toDateTime(toStartOfMinute(time), 'UTC') AS bucket, source, product, api, operation, method, status, fault, upstream, version, region, environment, gateway,
        toInt64(count()) AS d_calls,
        sum(c.request_bytes) AS d_request_bytes,
        sum(c.response_bytes) AS d_response_bytes,
        sumIf(c.total_us, c.total_us > 0) AS d_total_us,
        sumIf(c.upstream_us, c.upstream_us > 0) AS d_upstream_us,
        max(c.total_us) AS d_total_max_us,
        sumMapIf(map(total_bucket, toInt64(1)), total_bucket != 65535) AS d_total_histogram,
        sumMapIf(map(upstream_bucket, toInt64(1)), upstream_bucket != 65535) AS d_upstream_histogram
    FROM calls AS c FINAL
    WHERE partition = {partition:UInt16} AND time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')}
        AND has({buckets:Array(DateTime('UTC'))}, toDateTime(toStartOfMinute(time), 'UTC'))
    GROUP BY bucket, source, product, api, operation, method, status, fault, upstream, version, region, environment, gateway
    UNION ALL
    SELECT
        bucket, source, product, api, operation, method, status, fault, upstream, version, region, environment, gateway,
        -sum(r.calls), -sum(r.request_bytes), -sum(r.response_bytes), -sum(r.total_us), -sum(r.upstream_us), max(r.total_max_us),
        mapApply((k, v) -> (k, -v), sumMap(r.total_histogram)),
        mapApply((k, v) -> (k, -v), sumMap(r.upstream_histogram))
    FROM traffic_1m AS r
    WHERE partition = {partition:UInt16} AND has({buckets:Array(DateTime('UTC'))}, bucket)
    GROUP BY bucket, source, product, api, operation, method, status, fault, upstream, version, region, environment, gateway
)
GROUP BY bucket, source, product, api, operation, method, status, fault, upstream, version, region, environment, gateway
HAVING calls != 0 OR request_bytes != 0 OR response_bytes != 0 OR total_us != 0 OR upstream_us != 0
    OR length(mapKeys(total_histogram)) != 0 OR length(mapKeys(upstream_histogram)) != 0
