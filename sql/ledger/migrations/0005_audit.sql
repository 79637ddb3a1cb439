-- Who did what to which resource. Rows are only ever added, see 0008.
CREATE TABLE audit (
  id         ${identity},
  time       ${int64} NOT NULL,
  actor      ${text}  NOT NULL,
  role       ${text}  NOT NULL,
  method     ${text}  NOT NULL,
  name       ${text}  NOT NULL,
  revision   ${int64} NOT NULL,
  before     ${text}, -- NULL when the resource was made
  after      ${text}, -- NULL when it was deleted
  request_id ${text}  NOT NULL
) ${strict};

CREATE INDEX audit_name ON audit (name, id);
CREATE INDEX audit_time ON audit (time, id);
CREATE INDEX audit_actor ON audit (actor, id);
