DELETE FROM unique_keys WHERE key = $1 AND name = $2
