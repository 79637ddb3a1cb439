-- The first midnight since which raw keeps every call: those that start before
-- it may have been dropped, part by part.
SELECT toDateTime(if(days = 0, toDateTime(0, 'UTC'), toStartOfDay(now('UTC')) - toIntervalDay(days) + toIntervalDay(1)), 'UTC')
FROM
(
    SELECT toUInt32OrZero(extract(engine_full, 'TTL toDateTime\\(time\\) \\+ toIntervalDay\\((\\d+)\\)')) AS days
    FROM system.tables
    WHERE database = currentDatabase() AND name = 'calls'
)
