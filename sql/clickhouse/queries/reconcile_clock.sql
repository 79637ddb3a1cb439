-- The server's time, in milliseconds, less how long the oldest insert that runs
-- has been at it: what is not stored yet will have a later stored_at.
SELECT toUnixTimestamp64Milli(now64(3)) - 1000 - toInt64((
    SELECT max(elapsed) FROM system.processes WHERE startsWith(query_id, {writers:String})) * 1000)
