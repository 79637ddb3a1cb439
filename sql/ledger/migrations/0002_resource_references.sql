-- Which field of which resource points at which other resource. What is pointed
-- at cannot be deleted, and nothing can point at what is not there.
CREATE TABLE resource_references (
  name   ${text} NOT NULL,
  field  ${text} NOT NULL,
  target ${text} NOT NULL,
  CONSTRAINT resource_references_pkey PRIMARY KEY (name, field, target),
  CONSTRAINT resource_references_name_fkey FOREIGN KEY (name) REFERENCES resources (name) ON DELETE CASCADE,
  CONSTRAINT resource_references_target_fkey FOREIGN KEY (target) REFERENCES resources (name) ON DELETE RESTRICT,
  CONSTRAINT resource_references_self_check CHECK (name <> target)
) ${strict};

CREATE INDEX resource_references_target ON resource_references (target);
