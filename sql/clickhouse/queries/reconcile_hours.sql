-- The sealed hours of a range, as they were recorded last.
SELECT hour, source, received, deduplicated, quarantined, stored, rolled_up, repaired, sealed_at
FROM reconciliation FINAL
WHERE hour >= {from:DateTime('UTC')} AND hour < {to:DateTime('UTC')}
ORDER BY hour, source
