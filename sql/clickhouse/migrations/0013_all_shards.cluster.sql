-- Where shards make a cluster, each node also has a database with a table for
-- each table, by the same name, that reads it on all shards. Nothing is written
-- through these: they have no sharding key, so that it is refused.
CREATE DATABASE IF NOT EXISTS ${all_shards}
