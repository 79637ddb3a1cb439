-- When a subscription gives its subject (an account or an app) a product.
CREATE TABLE subscription_periods (
  name       ${text}  NOT NULL,
  subject    ${text}  NOT NULL,
  product    ${text}  NOT NULL,
  start_time ${int64} NOT NULL,
  end_time   ${int64} NOT NULL, -- exclusive; 9223372036854775807 is open
  CONSTRAINT subscription_periods_pkey PRIMARY KEY (name, start_time),
  CONSTRAINT subscription_periods_name_fkey FOREIGN KEY (name) REFERENCES resources (name) ON DELETE CASCADE,
  CONSTRAINT subscription_periods_order_check CHECK (start_time < end_time)
) ${strict};

CREATE INDEX subscription_periods_subject ON subscription_periods (subject, product, start_time);

CREATE TRIGGER subscription_periods_overlap_insert AFTER INSERT ON subscription_periods
BEGIN
  SELECT RAISE(ABORT, 'overlap: subscription_periods_overlap')
  FROM subscription_periods
  WHERE subject = NEW.subject AND product = NEW.product
    AND start_time < NEW.end_time AND end_time > NEW.start_time AND rowid <> NEW.rowid;
END;

CREATE TRIGGER subscription_periods_overlap_update AFTER UPDATE ON subscription_periods
BEGIN
  SELECT RAISE(ABORT, 'overlap: subscription_periods_overlap')
  FROM subscription_periods
  WHERE subject = NEW.subject AND product = NEW.product
    AND start_time < NEW.end_time AND end_time > NEW.start_time AND rowid <> NEW.rowid;
END;
