CREATE TABLE IF NOT EXISTS everywhere AS here ENGINE = Distributed('${cluster}', '${database}', 'here', a);
