-- When an hour was sealed last, in milliseconds; 0 when none was.
SELECT toUnixTimestamp64Milli(max(sealed_at)) FROM reconciliation
