-- The fate of every call that was accepted and is not in calls: a duplicate of
-- one that is, or quarantined with the reason. (Messages that cannot be
-- decoded are in the dead-letter topic.)
CREATE TABLE IF NOT EXISTS ${database}.discards
(
    id FixedString(16),
    source LowCardinality(String),
    time DateTime64(6, 'UTC'),
    received_at DateTime64(6, 'UTC'),
    fate LowCardinality(String),
    reason LowCardinality(String),
    epoch UInt32,
    partition UInt16,
    offset Int64,
    row UInt32,
    stored_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ${engine:ReplacingMergeTree()}
PARTITION BY toYYYYMMDD(received_at)
ORDER BY (id, epoch, partition, offset, row)
TTL toDateTime(received_at) + INTERVAL ${retention_days} DAY
SETTINGS ttl_only_drop_parts = 1, ${deduplication_window}
