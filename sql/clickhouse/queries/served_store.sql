-- Stores what gateways say they served. One row is kept per gateway, prefix and
-- minute, so storing a record again changes nothing.
INSERT INTO served (minute, gateway, prefix, served, dropped, ended, first, restarts, version)
SELECT toDateTime(row.1, 'UTC'), row.2, row.3, row.4, row.5, row.6, row.7, row.8, row.9
FROM
(
    SELECT arrayJoin(arrayZip(
        {minutes:Array(Int64)}, {gateways:Array(String)}, {prefixes:Array(String)}, {served:Array(UInt64)}, {dropped:Array(UInt64)},
        {ended:Array(Int64)}, {first:Array(Bool)}, {restarts:Array(UInt32)}, {versions:Array(UInt64)})) AS row
)
