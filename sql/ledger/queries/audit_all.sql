-- A page of the log, newest first; an empty actor is any.
SELECT id, time, actor, role, method, name, before, after FROM audit
WHERE id < $1 AND time >= $2 AND time < $3 AND ($4 = '' OR actor = $4)
ORDER BY id DESC
LIMIT $5
