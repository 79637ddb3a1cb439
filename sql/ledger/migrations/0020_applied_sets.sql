-- Which set of declared resources a resource was last applied with, so that what
-- has left the set can be found and deleted.
CREATE TABLE applied_sets (
  name     ${text} NOT NULL,
  set_name ${text} NOT NULL,
  CONSTRAINT applied_sets_pkey PRIMARY KEY (name),
  CONSTRAINT applied_sets_name_fkey FOREIGN KEY (name) REFERENCES resources (name) ON DELETE CASCADE
) ${strict};

CREATE INDEX applied_sets_set_name ON applied_sets (set_name, name);
