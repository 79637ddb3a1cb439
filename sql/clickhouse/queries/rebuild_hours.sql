-- The hours of a range in which raw or a rollup has anything. A day that only
-- the rollup by day knows stands there with its first hour of the range.
SELECT DISTINCT hour
FROM
(
    SELECT DISTINCT toDateTime(toStartOfHour(time), 'UTC') AS hour FROM calls
    WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')}
    UNION ALL
    SELECT DISTINCT toDateTime(toStartOfHour(bucket), 'UTC') AS hour FROM traffic_1m
    WHERE bucket >= {from:DateTime('UTC')} AND bucket < {to:DateTime('UTC')}
    UNION ALL
    SELECT DISTINCT bucket AS hour FROM traffic_1h
    WHERE bucket >= {from:DateTime('UTC')} AND bucket < {to:DateTime('UTC')}
    UNION ALL
    SELECT DISTINCT toDateTime(toStartOfHour(bucket), 'UTC') AS hour FROM usage_15m
    WHERE bucket >= {from:DateTime('UTC')} AND bucket < {to:DateTime('UTC')}
    UNION ALL
    SELECT DISTINCT greatest(bucket, {from:DateTime('UTC')}) AS hour FROM traffic_1d
    WHERE bucket >= toStartOfDay({from:DateTime('UTC')}) AND bucket < {to:DateTime('UTC')}
)
ORDER BY hour
