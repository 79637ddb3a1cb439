SELECT name FROM subscription_periods
WHERE subject = $1 AND product = $2 AND start_time < $4 AND end_time > $3 AND name <> $5
ORDER BY start_time
LIMIT 1
