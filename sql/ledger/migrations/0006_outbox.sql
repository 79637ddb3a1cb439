-- Every version of every resource, to be published. A publisher takes the rows
-- without published_at in the order of sequence, never those after the last
-- sequence it saw: of two transactions the one with the greater number may be
-- the first to commit. Versions of one name stand in order, because a revision
-- is made from the committed one before it.
CREATE TABLE outbox (
  sequence     ${identity},
  name         ${text}  NOT NULL,
  kind         ${text}  NOT NULL,
  revision     ${int64} NOT NULL,
  body         ${text}, -- NULL when the resource was deleted
  time         ${int64} NOT NULL,
  published_at ${int64},
  CONSTRAINT outbox_name_revision_key UNIQUE (name, revision)
) ${strict};

CREATE INDEX outbox_unpublished ON outbox (sequence) WHERE published_at IS NULL;
