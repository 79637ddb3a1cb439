-- Records an hour, one row per source.
INSERT INTO reconciliation (hour, source, received, deduplicated, quarantined, stored, rolled_up, repaired, sealed_at, version)
SELECT
    {hour:DateTime('UTC')}, row.1, row.2, row.3, row.4, row.5, row.6, {repaired:Bool},
    fromUnixTimestamp64Milli({sealed_at:Int64}, 'UTC'), {version:UInt64}
FROM
(
    SELECT arrayJoin(arrayZip(
        {sources:Array(String)}, {received:Array(UInt64)}, {deduplicated:Array(UInt64)},
        {quarantined:Array(UInt64)}, {stored:Array(UInt64)}, {rolled_up:Array(UInt64)})) AS row
)
