SELECT kind FROM resources WHERE name = $1
