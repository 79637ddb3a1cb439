-- Inserts calls of one partition once more, under another attribution: call
-- number i of ids gets number which[i] of the lists of values. ${columns} are
-- all columns of a call but when it was stored, and ${values} what they get.
-- Without FINAL, which would read everything first: copies that were not merged
-- yet are inserted as copies.
INSERT INTO calls (${columns})
SELECT ${values}
FROM
(
    SELECT * FROM calls
    WHERE partition = {partition:UInt16} AND time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')}
        AND catalog_version < {version:UInt64}
        AND id IN (SELECT toFixedString(unhex(arrayJoin({ids:Array(String)})), 16))
) AS c
INNER JOIN
(
    SELECT toFixedString(unhex(pair.1), 16) AS id, pair.2 AS which
    FROM (SELECT arrayJoin(arrayZip({ids:Array(String)}, {which:Array(UInt32)})) AS pair)
) AS n ON c.id = n.id
