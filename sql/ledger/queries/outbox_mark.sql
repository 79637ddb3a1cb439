UPDATE outbox SET published_at = $2 WHERE sequence = $1 AND published_at IS NULL
