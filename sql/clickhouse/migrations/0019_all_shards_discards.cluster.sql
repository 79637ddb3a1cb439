CREATE TABLE IF NOT EXISTS ${all_shards}.discards AS ${database}.discards
ENGINE = Distributed('${cluster}', '${database}', 'discards')
