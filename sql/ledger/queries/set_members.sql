SELECT name FROM applied_sets WHERE set_name = $1 ORDER BY name
