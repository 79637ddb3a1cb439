-- Usage per quarter of an hour, for billing, quota and consumers: every time
-- zone's offset is a multiple of 15 minutes.
CREATE TABLE IF NOT EXISTS ${database}.usage_15m
(
    bucket DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    account LowCardinality(String),
    app LowCardinality(String),
    subscription LowCardinality(String),
    product LowCardinality(String),
    plan LowCardinality(String),
    api LowCardinality(String),
    operation LowCardinality(String),
    status UInt16,
    denied LowCardinality(String),
    environment LowCardinality(String),
    source LowCardinality(String),
    partition UInt16,
    calls SimpleAggregateFunction(sum, Int64),
    request_bytes SimpleAggregateFunction(sum, Int64),
    response_bytes SimpleAggregateFunction(sum, Int64),
    measures SimpleAggregateFunction(sumMap, Map(String, Decimal(38, 9)))
)
ENGINE = ${engine:AggregatingMergeTree()}
PARTITION BY toYYYYMM(bucket)
ORDER BY (account, bucket, subscription, app, product, plan, api, operation, status, denied, environment, source, partition)
TTL bucket + INTERVAL ${rollup_retention_days} DAY
SETTINGS ttl_only_drop_parts = 1, ${deduplication_window}
