SELECT name FROM unique_keys WHERE key = $1
