UPDATE resources SET revision = $2, state = $3, body = $4, update_time = $5
WHERE name = $1 AND revision = $2 - 1
