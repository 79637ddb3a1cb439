CREATE TABLE IF NOT EXISTS ${all_shards}.calls AS ${database}.calls
ENGINE = Distributed('${cluster}', '${database}', 'calls')
