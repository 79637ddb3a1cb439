-- The rows of a range of the log that are stored already.
SELECT offset, row
FROM calls
WHERE epoch = {epoch:UInt32} AND partition = {partition:UInt16}
    AND offset >= {from_offset:Int64} AND offset < {to_offset:Int64}
    AND time >= fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND time <= fromUnixTimestamp64Micro({to:Int64}, 'UTC')
