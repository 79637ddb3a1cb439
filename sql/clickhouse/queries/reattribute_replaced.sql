-- How many calls of a range stand there under more than one attribution.
SELECT count()
FROM
(
    SELECT id FROM calls
    WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')}
    GROUP BY id
    HAVING min(catalog_version) < max(catalog_version)
)
