-- A page of the resources of one kind below one parent.
SELECT r.name, r.kind, r.parent, r.uid, r.revision, r.body, r.create_time, r.update_time, COALESCE(u.last_used_time, 0)
FROM resources r LEFT JOIN token_uses u ON u.name = r.name
WHERE r.kind = $1 AND r.parent = $2 AND r.name > $3
ORDER BY r.kind, r.parent, r.name
LIMIT $4
