-- Traffic per hour.
CREATE TABLE IF NOT EXISTS ${database}.traffic_1h
(
    bucket DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    source LowCardinality(String),
    product LowCardinality(String),
    api LowCardinality(String),
    operation LowCardinality(String),
    method LowCardinality(String),
    status UInt16,
    fault LowCardinality(String),
    upstream LowCardinality(String),
    version LowCardinality(String),
    region LowCardinality(String),
    environment LowCardinality(String),
    gateway LowCardinality(String),
    partition UInt16,
    calls SimpleAggregateFunction(sum, Int64),
    request_bytes SimpleAggregateFunction(sum, Int64),
    response_bytes SimpleAggregateFunction(sum, Int64),
    total_us SimpleAggregateFunction(sum, Int64),
    upstream_us SimpleAggregateFunction(sum, Int64),
    total_max_us SimpleAggregateFunction(max, Int64),
    total_histogram SimpleAggregateFunction(sumMap, Map(UInt16, Int64)),
    upstream_histogram SimpleAggregateFunction(sumMap, Map(UInt16, Int64))
)
ENGINE = ${engine:AggregatingMergeTree()}
PARTITION BY toYYYYMM(bucket)
ORDER BY (bucket, product, api, operation, method, status, fault, upstream, version, region, environment, gateway, source, partition)
TTL bucket + INTERVAL ${rollup_retention_days} DAY
SETTINGS ttl_only_drop_parts = 1, ${deduplication_window}
