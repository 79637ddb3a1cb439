DELETE FROM subscription_periods WHERE name = $1
