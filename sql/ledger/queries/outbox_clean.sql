-- Versions that a later one has replaced, and deletions, once they have been
-- published for long enough.
DELETE FROM outbox WHERE sequence IN (
  SELECT o.sequence FROM outbox o
  WHERE o.published_at < $1
    AND (o.body IS NULL OR EXISTS (SELECT 1 FROM outbox n WHERE n.name = o.name AND n.revision > o.revision))
  ORDER BY o.sequence
  LIMIT $2
)
