INSERT INTO audit (time, actor, role, method, name, revision, before, after, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
