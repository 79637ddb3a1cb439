-- The minute is rolled up from raw; the hour from the minute, the day from the
-- hour, so that each coarser tier costs next to nothing per call.
CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.traffic_1m_mv TO ${database}.traffic_1m AS
SELECT
    toStartOfMinute(time) AS bucket,
    source, product, api, operation, method, status, fault, upstream, version, region, environment, gateway, partition,
    toInt64(count()) AS calls,
    sum(c.request_bytes) AS request_bytes,
    sum(c.response_bytes) AS response_bytes,
    sumIf(c.total_us, c.total_us > 0) AS total_us,
    sumIf(c.upstream_us, c.upstream_us > 0) AS upstream_us,
    max(c.total_us) AS total_max_us,
    sumMapIf(map(total_bucket, toInt64(1)), total_bucket != 65535) AS total_histogram,
    sumMapIf(map(upstream_bucket, toInt64(1)), upstream_bucket != 65535) AS upstream_histogram
FROM ${database}.calls AS c
GROUP BY bucket, source, product, api, operation, method, status, fault, upstream, version, region, environment, gateway, partition
