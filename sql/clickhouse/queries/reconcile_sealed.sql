-- When hours of a range were sealed last, and how often.
SELECT hour, max(sealed_at) AS sealed_at
FROM reconciliation
WHERE hour >= toDateTime({from:Int64}, 'UTC') AND hour < toDateTime({to:Int64}, 'UTC')
GROUP BY hour
ORDER BY hour
