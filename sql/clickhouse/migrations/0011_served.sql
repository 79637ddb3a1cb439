-- What each gateway says it served, per minute: cumulative counters of its
-- metrics, held against what arrived. How many calls ended since the record
-- before is kept too, because a counter that began again hides some.
CREATE TABLE IF NOT EXISTS ${database}.served
(
    minute DateTime('UTC'),
    gateway LowCardinality(String),
    prefix LowCardinality(String),
    served UInt64,
    dropped UInt64,
    ended Int64,
    first Bool,
    restarts UInt32,
    version UInt64
)
ENGINE = ${engine:ReplacingMergeTree(version)}
PARTITION BY toYYYYMM(minute)
ORDER BY (gateway, prefix, minute)
TTL minute + INTERVAL ${rollup_retention_days} DAY
