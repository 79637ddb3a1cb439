-- Calls that arrived from some gateways, by the stretch of time in which they
-- ended, as gateways count them when they end. Calls that last longer than six
-- hours are not found.
WITH time + toIntervalMicrosecond(greatest(total_us, 0)) AS ended
SELECT gateway, toDateTime(intDiv(toUnixTimestamp(ended), {seconds:UInt32}) * {seconds:UInt32}, 'UTC') AS stretch, count() AS calls
FROM calls FINAL
WHERE time >= {from:DateTime('UTC')} - INTERVAL 6 HOUR AND time < {to:DateTime('UTC')}
    AND has({gateways:Array(String)}, gateway)
    AND ended >= {from:DateTime('UTC')} AND ended < {to:DateTime('UTC')}
GROUP BY gateway, stretch
ORDER BY gateway, stretch
