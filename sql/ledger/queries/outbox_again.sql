-- Have the newest version of every resource published again, and the deletions
-- that are remembered.
UPDATE outbox SET published_at = NULL
WHERE published_at IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM outbox n WHERE n.name = outbox.name AND n.revision > outbox.revision)
