CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.traffic_1h_mv TO ${database}.traffic_1h AS
SELECT
    toStartOfHour(t.bucket) AS bucket,
    source, product, api, operation, method, status, fault, upstream, version, region, environment, gateway, partition,
    sum(t.calls) AS calls,
    sum(t.request_bytes) AS request_bytes,
    sum(t.response_bytes) AS response_bytes,
    sum(t.total_us) AS total_us,
    sum(t.upstream_us) AS upstream_us,
    max(t.total_max_us) AS total_max_us,
    sumMap(t.total_histogram) AS total_histogram,
    sumMap(t.upstream_histogram) AS upstream_histogram
FROM ${database}.traffic_1m AS t
GROUP BY bucket, source, product, api, operation, method, status, fault, upstream, version, region, environment, gateway, partition
