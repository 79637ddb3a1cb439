INSERT INTO unique_keys (key, name) VALUES ($1, $2)
