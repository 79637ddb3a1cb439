CREATE TABLE IF NOT EXISTS here (a UInt64, b String) ENGINE = ${engine:MergeTree} ORDER BY a;
