SELECT count(*) FROM outbox WHERE published_at IS NULL AND sequence >= $1 AND sequence <= $2
