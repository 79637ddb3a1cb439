-- The partitions that have calls in a range, or a share of a rollup's buckets.
SELECT DISTINCT partition
FROM
(
    SELECT DISTINCT partition FROM calls WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')}
    UNION ALL
    SELECT DISTINCT partition FROM {table:Identifier} WHERE bucket >= {from:DateTime('UTC')} AND bucket < {to:DateTime('UTC')}
)
ORDER BY partition
