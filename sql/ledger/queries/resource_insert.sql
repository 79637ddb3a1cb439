INSERT INTO resources (name, kind, parent, uid, revision, state, body, create_time, update_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
