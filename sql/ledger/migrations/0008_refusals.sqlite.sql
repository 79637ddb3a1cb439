-- Audit is append-only.
CREATE TRIGGER audit_append_only_update BEFORE UPDATE ON audit
BEGIN
  SELECT RAISE(ABORT, 'append-only: audit_append_only');
END;

CREATE TRIGGER audit_append_only_delete BEFORE DELETE ON audit
BEGIN
  SELECT RAISE(ABORT, 'append-only: audit_append_only');
END;

-- INSERT OR REPLACE deletes without the trigger above.
CREATE TRIGGER audit_append_only_replace BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
BEGIN
  SELECT RAISE(ABORT, 'append-only: audit_append_only');
END;

-- The foreign keys of SQLite do not say which of them was broken, and by what.
CREATE TRIGGER resources_in_use BEFORE DELETE ON resources
BEGIN
  SELECT RAISE(ABORT, 'in use: resources_parent_key_fkey: ' || OLD.name || ': ' || group_concat(name, ', '))
  FROM (SELECT name FROM resources WHERE parent_key = OLD.name ORDER BY name LIMIT 10)
  HAVING count(*) > 0;
  SELECT RAISE(ABORT, 'in use: resource_references_target_fkey: ' || OLD.name || ': ' || group_concat(name, ', '))
  FROM (SELECT DISTINCT name FROM resource_references WHERE target = OLD.name ORDER BY name LIMIT 10)
  HAVING count(*) > 0;
END;

CREATE TRIGGER resources_parent_missing_insert BEFORE INSERT ON resources
WHEN NEW.parent <> '' AND NEW.parent <> NEW.name AND NOT EXISTS (SELECT 1 FROM resources WHERE name = NEW.parent)
BEGIN
  SELECT RAISE(ABORT, 'missing: resources_parent_key_fkey: ' || NEW.parent);
END;

CREATE TRIGGER resources_parent_missing_update BEFORE UPDATE OF parent ON resources
WHEN NEW.parent <> '' AND NOT EXISTS (SELECT 1 FROM resources WHERE name = NEW.parent)
BEGIN
  SELECT RAISE(ABORT, 'missing: resources_parent_key_fkey: ' || NEW.parent);
END;

CREATE TRIGGER resource_references_missing_insert BEFORE INSERT ON resource_references
BEGIN
  SELECT RAISE(ABORT, 'missing: resource_references_name_fkey: ' || NEW.name)
  WHERE NOT EXISTS (SELECT 1 FROM resources WHERE name = NEW.name);
  SELECT RAISE(ABORT, 'missing: resource_references_target_fkey: ' || NEW.target)
  WHERE NOT EXISTS (SELECT 1 FROM resources WHERE name = NEW.target);
END;

CREATE TRIGGER resource_references_missing_update BEFORE UPDATE OF name, target ON resource_references
BEGIN
  SELECT RAISE(ABORT, 'missing: resource_references_name_fkey: ' || NEW.name)
  WHERE NOT EXISTS (SELECT 1 FROM resources WHERE name = NEW.name);
  SELECT RAISE(ABORT, 'missing: resource_references_target_fkey: ' || NEW.target)
  WHERE NOT EXISTS (SELECT 1 FROM resources WHERE name = NEW.target);
END;

CREATE TRIGGER unique_keys_missing_insert BEFORE INSERT ON unique_keys
WHEN NOT EXISTS (SELECT 1 FROM resources WHERE name = NEW.name)
BEGIN
  SELECT RAISE(ABORT, 'missing: unique_keys_name_fkey: ' || NEW.name);
END;

CREATE TRIGGER subscription_periods_missing_insert BEFORE INSERT ON subscription_periods
WHEN NOT EXISTS (SELECT 1 FROM resources WHERE name = NEW.name)
BEGIN
  SELECT RAISE(ABORT, 'missing: subscription_periods_name_fkey: ' || NEW.name);
END;
