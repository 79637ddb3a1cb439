DELETE FROM resources WHERE name = $1
