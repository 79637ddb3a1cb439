UPDATE outbox SET published_at = $3 WHERE published_at IS NULL AND sequence >= $1 AND sequence <= $2
