DELETE FROM resource_references WHERE name = $1
