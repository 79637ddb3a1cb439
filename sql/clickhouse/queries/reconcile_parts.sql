-- The parts of raw and of discards that were written, or merged, since a time.
SELECT name
FROM system.parts
WHERE database = currentDatabase() AND table IN ('calls', 'discards') AND active
    AND modification_time >= toDateTime({since:Int64}, 'UTC')
ORDER BY name
