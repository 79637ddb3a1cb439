-- The hours in which calls, or copies of calls, were recorded after a time,
-- found in the parts that can have them. Names of parts are not qualified: a
-- part of the other table with the same name costs a little time, nothing else.
SELECT hour, max(latest) AS latest
FROM
(
    SELECT toDateTime(toStartOfHour(time), 'UTC') AS hour, max(stored_at) AS latest
    FROM calls
    WHERE has({parts:Array(String)}, _part) AND stored_at > fromUnixTimestamp64Milli({since:Int64}, 'UTC')
    GROUP BY hour
    UNION ALL
    SELECT toDateTime(toStartOfHour(fate = 'quarantined' ? received_at : time), 'UTC') AS hour, max(stored_at) AS latest
    FROM discards
    WHERE has({parts:Array(String)}, _part) AND stored_at > fromUnixTimestamp64Milli({since:Int64}, 'UTC')
    GROUP BY hour
)
GROUP BY hour
ORDER BY hour
