-- A page of the resources of one kind by update_time: those that come
-- after the time $2 and, at that time, the name $3.
SELECT r.name, r.kind, r.parent, r.uid, r.revision, r.body, r.create_time, r.update_time, COALESCE(u.last_used_time, 0)
FROM resources r LEFT JOIN token_uses u ON u.name = r.name
WHERE r.kind = $1 AND (r.update_time, r.name) > ($2, $3)
ORDER BY r.update_time, r.name
LIMIT $4
