-- Takes away calls that stand there once more, by a newer catalog. Only a row
-- whose successor was seen is taken: one that is inserted meanwhile stays.
DELETE FROM calls
WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')}
    AND (id, catalog_version) IN
    (
        SELECT id, arrayJoin(arrayFilter(v -> v < newest, versions))
        FROM
        (
            SELECT id, groupUniqArray(catalog_version) AS versions, max(catalog_version) AS newest
            FROM calls
            WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')}
            GROUP BY id
            HAVING length(versions) > 1
        )
    )
