-- Places in the log whose call is not in raw, per source. Copies count in the
-- hour in which they start, what is quarantined in the hour in which it was
-- received, because it is its start time that is wrong. A place whose call is in
-- raw all the same is no discard: it was stored by a recovery, or an operator
-- had the log read again. What was read again is therefore told apart by the
-- call and its place, not by the epoch.
SELECT
    source,
    uniqExactIf(id, partition, offset, row, fate = 'duplicate') AS deduplicated,
    uniqExactIf(id, partition, offset, row, fate = 'quarantined') AS quarantined
FROM discards
WHERE received_at >= {from:DateTime('UTC')} - INTERVAL 1 HOUR
    AND (fate = 'quarantined' ? received_at : time) >= {from:DateTime('UTC')}
    AND (fate = 'quarantined' ? received_at : time) < {to:DateTime('UTC')}
    AND (id, partition, offset, row) NOT IN (
        SELECT id, partition, offset, row
        FROM calls
        WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')}
            AND id IN (
                SELECT id FROM discards
                WHERE received_at >= {from:DateTime('UTC')} - INTERVAL 1 HOUR AND fate = 'duplicate'
                    AND time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')}))
GROUP BY source
ORDER BY source
