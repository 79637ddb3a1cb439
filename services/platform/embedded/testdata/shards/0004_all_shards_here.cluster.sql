CREATE TABLE IF NOT EXISTS ${all_shards}.here AS ${database}.here ENGINE = Distributed('${cluster}', '${database}', 'here');
