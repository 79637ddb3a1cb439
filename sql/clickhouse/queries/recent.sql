-- The calls of one partition that start at or after a time, oldest first. The
-- partition is computed as the collector does, so that calls stored before the
-- number of partitions changed are found too.
SELECT id, toUnixTimestamp64Micro(time)
FROM calls
WHERE time >= fromUnixTimestamp64Micro({from:Int64}, 'UTC')
    AND reinterpretAsUInt64(substring(id, 1, 8)) % {partitions:UInt64} = {partition:UInt64}
ORDER BY time
