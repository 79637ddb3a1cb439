-- When access tokens were last used. It stands beside the resources, because a
-- use is no new version of a token.
CREATE TABLE token_uses (
  name           ${text}  NOT NULL,
  last_used_time ${int64} NOT NULL,
  CONSTRAINT token_uses_pkey PRIMARY KEY (name),
  CONSTRAINT token_uses_name_fkey FOREIGN KEY (name) REFERENCES resources (name) ON DELETE CASCADE
) ${strict};
