SELECT set_name FROM applied_sets WHERE name = $1
