CREATE TABLE IF NOT EXISTS ${all_shards}.traffic_1d AS ${database}.traffic_1d
ENGINE = Distributed('${cluster}', '${database}', 'traffic_1d')
