CREATE TABLE IF NOT EXISTS ${all_shards}.usage_15m AS ${database}.usage_15m
ENGINE = Distributed('${cluster}', '${database}', 'usage_15m')
