-- The record of every resource: its current version, without secrets.
CREATE TABLE resources (
  name        ${text}  NOT NULL,            -- accounts/acme/apps/mobile
  kind        ${text}  NOT NULL,
  parent      ${text}  NOT NULL DEFAULT '', -- name of the parent, '' at the top
  -- A foreign key takes only NULL for "none".
  parent_key  ${text}  GENERATED ALWAYS AS (NULLIF(parent, '')) STORED,
  uid         ${text}  NOT NULL,
  -- 1 more with every write. A name that was used before goes on counting
  -- after its last row in outbox, so that a version has one number for ever.
  revision    ${int64} NOT NULL,
  state       ${text}  NOT NULL,
  body        ${text}  NOT NULL,            -- protobuf as JSON
  create_time ${int64} NOT NULL,            -- times are microseconds since 1970, UTC
  update_time ${int64} NOT NULL,
  CONSTRAINT resources_pkey PRIMARY KEY (name),
  CONSTRAINT resources_uid_key UNIQUE (uid),
  CONSTRAINT resources_parent_key_fkey FOREIGN KEY (parent_key) REFERENCES resources (name) ON DELETE RESTRICT,
  CONSTRAINT resources_name_check CHECK (name <> ''),
  CONSTRAINT resources_parent_check CHECK (parent <> name),
  CONSTRAINT resources_revision_check CHECK (revision >= 1)
) ${strict};

-- Pages of one kind below one parent, in the order of names.
CREATE INDEX resources_kind_parent_name ON resources (kind, parent, name);
-- Who is below this one, whatever its kind.
CREATE INDEX resources_parent_key ON resources (parent_key);
