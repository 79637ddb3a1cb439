INSERT INTO outbox (name, kind, revision, body, time) VALUES ($1, $2, $3, $4, $5)
