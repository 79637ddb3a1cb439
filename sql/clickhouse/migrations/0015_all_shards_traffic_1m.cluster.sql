CREATE TABLE IF NOT EXISTS ${all_shards}.traffic_1m AS ${database}.traffic_1m
ENGINE = Distributed('${cluster}', '${database}', 'traffic_1m')
