INSERT INTO subscription_periods (name, subject, product, start_time, end_time)
VALUES ($1, $2, $3, $4, $5)
