-- A range of one name is equal to another if they overlap. Ranges are indexed
-- by GiST as they are; for plain text an extension would have to be installed.
CREATE TYPE text_range AS RANGE (subtype = text, collation = "C");

-- When a subscription gives its subject (an account or an app) a product.
CREATE TABLE subscription_periods (
  name       ${text}  NOT NULL,
  subject    ${text}  NOT NULL,
  product    ${text}  NOT NULL,
  start_time ${int64} NOT NULL,
  end_time   ${int64} NOT NULL, -- exclusive; 9223372036854775807 is open
  CONSTRAINT subscription_periods_pkey PRIMARY KEY (name, start_time),
  CONSTRAINT subscription_periods_name_fkey FOREIGN KEY (name) REFERENCES resources (name) ON DELETE CASCADE,
  CONSTRAINT subscription_periods_order_check CHECK (start_time < end_time),
  CONSTRAINT subscription_periods_overlap EXCLUDE USING gist (
    text_range(subject, subject, '[]') WITH &&,
    text_range(product, product, '[]') WITH &&,
    int8range(start_time, end_time) WITH &&
  )
) ${strict};

CREATE INDEX subscription_periods_subject ON subscription_periods (subject, product, start_time);
