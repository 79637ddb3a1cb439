CREATE TABLE IF NOT EXISTS ${all_shards}.reconciliation AS ${database}.reconciliation
ENGINE = Distributed('${cluster}', '${database}', 'reconciliation')
