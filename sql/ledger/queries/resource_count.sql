SELECT count(*) FROM resources WHERE kind = $1 AND parent = $2
