CREATE TABLE IF NOT EXISTS ${all_shards}.traffic_1h AS ${database}.traffic_1h
ENGINE = Distributed('${cluster}', '${database}', 'traffic_1h')
