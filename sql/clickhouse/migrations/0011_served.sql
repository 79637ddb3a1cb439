-- What each gateway says it served, per minute: cumulative counters of its
-- metrics, held against what arrived.
CREATE TABLE IF NOT EXISTS ${database}.served
(
    minute DateTime('UTC'),
    gateway LowCardinality(String),
    prefix LowCardinality(String),
    served UInt64,
    dropped UInt64,
    version UInt64
)
ENGINE = ${engine:ReplacingMergeTree(version)}
PARTITION BY toYYYYMM(minute)
ORDER BY (gateway, prefix, minute)
TTL minute + INTERVAL ${rollup_retention_days} DAY
