-- What usage_15m lacks, or has too much of, in one partition's share of the
-- buckets: raw less rollup.
SELECT
    bucket, account, app, subscription, product, plan, api, operation, status, denied, environment, source, toUInt16({partition:UInt16}) AS partition,
    sum(d_calls) AS calls,
    sum(d_request_bytes) AS request_bytes,
    sum(d_response_bytes) AS response_bytes,
    mapFilter((k, v) -> v != 0, sumMap(d_measures)) AS measures
FROM
(
    SELECT
        toDateTime(toStartOfFifteenMinutes(time), 'UTC') AS bucket, account, app, subscription, product, plan, api, operation, status, denied, environment, source,
        toInt64(count()) AS d_calls,
        sum(c.request_bytes) AS d_request_bytes,
        sum(c.response_bytes) AS d_response_bytes,
        sumMap(c.measures) AS d_measures
    FROM calls AS c FINAL
    WHERE partition = {partition:UInt16} AND time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')}
        AND has({buckets:Array(DateTime('UTC'))}, toDateTime(toStartOfFifteenMinutes(time), 'UTC'))
    GROUP BY bucket, account, app, subscription, product, plan, api, operation, status, denied, environment, source
    UNION ALL
    SELECT
        bucket, account, app, subscription, product, plan, api, operation, status, denied, environment, source,
        -sum(r.calls), -sum(r.request_bytes), -sum(r.response_bytes),
        mapApply((k, v) -> (k, -v), sumMap(r.measures))
    FROM usage_15m AS r
    WHERE partition = {partition:UInt16} AND has({buckets:Array(DateTime('UTC'))}, bucket)
    GROUP BY bucket, account, app, subscription, product, plan, api, operation, status, denied, environment, source
)
GROUP BY bucket, account, app, subscription, product, plan, api, operation, status, denied, environment, source
HAVING calls != 0 OR request_bytes != 0 OR response_bytes != 0 OR length(mapKeys(measures)) != 0
