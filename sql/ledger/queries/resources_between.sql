-- A page of the resources of one kind whose parents' names lie in [$2, $3),
-- after the resource $5 below $4.
SELECT r.name, r.kind, r.parent, r.uid, r.revision, r.body, r.create_time, r.update_time, COALESCE(u.last_used_time, 0)
FROM resources r LEFT JOIN token_uses u ON u.name = r.name
WHERE r.kind = $1 AND r.parent >= $2 AND r.parent < $3 AND (r.parent, r.name) > ($4, $5)
ORDER BY r.kind, r.parent, r.name
LIMIT $6
