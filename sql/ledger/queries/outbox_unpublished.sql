SELECT sequence, name, revision, body, time FROM outbox
WHERE published_at IS NULL
ORDER BY sequence
LIMIT $1
