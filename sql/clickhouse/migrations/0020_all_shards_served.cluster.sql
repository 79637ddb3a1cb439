CREATE TABLE IF NOT EXISTS ${all_shards}.served AS ${database}.served
ENGINE = Distributed('${cluster}', '${database}', 'served')
