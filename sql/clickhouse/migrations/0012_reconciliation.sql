-- One row per sealed hour and source: what came, what became of it, and
-- whether every rollup says the same as raw.
CREATE TABLE IF NOT EXISTS ${database}.reconciliation
(
    hour DateTime('UTC'),
    source LowCardinality(String),
    received UInt64,
    deduplicated UInt64,
    quarantined UInt64,
    stored UInt64,
    rolled_up UInt64,
    repaired Bool,
    sealed_at DateTime64(3, 'UTC'),
    version UInt64
)
ENGINE = ${engine:ReplacingMergeTree(version)}
PARTITION BY toYYYYMM(hour)
ORDER BY (hour, source)
TTL hour + INTERVAL ${rollup_retention_days} DAY
