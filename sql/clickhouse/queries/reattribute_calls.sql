-- What attribution looks at and sets, of the calls of a range that an older
-- catalog was used for.
SELECT
    lower(hex(id)), partition, toUnixTimestamp64Micro(time),
    credential, app, account, product, plan, subscription, api, operation, environment, method, host, path
FROM calls FINAL
WHERE time >= {from:DateTime('UTC')} AND time < {to:DateTime('UTC')} AND catalog_version < {version:UInt64}
