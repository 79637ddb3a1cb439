INSERT INTO token_uses (name, last_used_time)
SELECT name, CAST($2 AS BIGINT) FROM resources WHERE name = $1 AND kind = 'token'
ON CONFLICT (name) DO UPDATE SET last_used_time = excluded.last_used_time
WHERE excluded.last_used_time > token_uses.last_used_time
