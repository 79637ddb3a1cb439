-- The same about one resource and all below it. 0 is the character after /.
SELECT id, time, actor, role, method, name, before, after FROM audit
WHERE id < $1 AND time >= $2 AND time < $3 AND ($4 = '' OR actor = $4)
  AND name >= $5 AND name < $5 || '0' AND (name = $5 OR name >= $5 || '/')
ORDER BY id DESC
LIMIT $6
