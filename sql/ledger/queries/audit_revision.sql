SELECT revision FROM audit WHERE name = $1 ORDER BY id DESC LIMIT 1
