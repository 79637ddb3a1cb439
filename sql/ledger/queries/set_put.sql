INSERT INTO applied_sets (name, set_name) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET set_name = excluded.set_name
