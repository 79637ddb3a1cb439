-- What gateways said they served, minute by minute.
SELECT gateway, prefix, minute, served, dropped, ended, first, restarts
FROM served FINAL
WHERE minute >= {from:DateTime('UTC')} AND minute < {to:DateTime('UTC')}
ORDER BY gateway, prefix, minute
