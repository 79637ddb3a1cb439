SELECT count(*), COALESCE(min(time), 0) FROM outbox WHERE published_at IS NULL
