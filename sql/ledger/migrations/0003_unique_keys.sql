-- What only one resource may have: 'api_key:<keyed hash>', 'client_id:…',
-- 'jwt:<issuer> <subject>', 'san:…'.
CREATE TABLE unique_keys (
  key  ${text} NOT NULL,
  name ${text} NOT NULL,
  CONSTRAINT unique_keys_pkey PRIMARY KEY (key),
  CONSTRAINT unique_keys_name_fkey FOREIGN KEY (name) REFERENCES resources (name) ON DELETE CASCADE
) ${strict};

CREATE INDEX unique_keys_name ON unique_keys (name);
