CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.usage_15m_mv TO ${database}.usage_15m AS
SELECT
    toStartOfFifteenMinutes(time) AS bucket,
    account, app, subscription, product, plan, api, operation, status, denied, environment, source, partition,
    toInt64(count()) AS calls,
    sum(c.request_bytes) AS request_bytes,
    sum(c.response_bytes) AS response_bytes,
    sumMap(c.measures) AS measures
FROM ${database}.calls AS c
GROUP BY bucket, account, app, subscription, product, plan, api, operation, status, denied, environment, source, partition
