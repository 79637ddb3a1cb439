-- What belongs to the database as a whole, such as the value by which a wrong
-- key for hashes is noticed.
CREATE TABLE settings (
  key   ${text} NOT NULL,
  value ${text} NOT NULL,
  CONSTRAINT settings_pkey PRIMARY KEY (key)
) ${strict};
