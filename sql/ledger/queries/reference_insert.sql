INSERT INTO resource_references (name, field, target) VALUES ($1, $2, $3)
