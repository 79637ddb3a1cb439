-- Which of some calls are stored, and from where in the log.
SELECT id, epoch, partition, offset, row
FROM calls
WHERE id IN (SELECT toFixedString(unhex(arrayJoin({ids:Array(String)})), 16))
    AND time >= fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND time <= fromUnixTimestamp64Micro({to:Int64}, 'UTC')
    AND has({hours:Array(DateTime('UTC'))}, toDateTime(toStartOfHour(time), 'UTC'))
