SELECT r.name, r.kind, r.parent, r.uid, r.revision, r.body, r.create_time, r.update_time, COALESCE(u.last_used_time, 0)
FROM resources r LEFT JOIN token_uses u ON u.name = r.name
WHERE r.name = $1
