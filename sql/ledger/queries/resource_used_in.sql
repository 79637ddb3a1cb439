-- Something below $2 that refers to the resource $1 or to what is below it. A
-- slash is followed by 0 in the order of bytes.
SELECT name FROM resource_references
WHERE (target = $1 OR target >= CAST($1 AS TEXT) || '/' AND target < CAST($1 AS TEXT) || '0')
  AND name >= CAST($2 AS TEXT) || '/' AND name < CAST($2 AS TEXT) || '0'
LIMIT 1
