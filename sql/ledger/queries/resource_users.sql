-- Who keeps a resource from being deleted: what lies below it and what refers to
-- it, with how many there are.
SELECT name, count(*) OVER () FROM (
  SELECT name FROM resources WHERE parent_key = $1
  UNION
  SELECT name FROM resource_references WHERE target = $1
) AS users
ORDER BY name
LIMIT $2
