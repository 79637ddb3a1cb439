-- Audit is append-only; only who owns the table could switch that off.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME
    USING ERRCODE = 'object_not_in_prerequisite_state', TABLE = TG_TABLE_NAME, CONSTRAINT = TG_ARGV[0];
END $$;

CREATE TRIGGER audit_append_only_row BEFORE UPDATE OR DELETE ON audit
  FOR EACH ROW EXECUTE FUNCTION refuse_change('audit_append_only');
CREATE TRIGGER audit_append_only_table BEFORE TRUNCATE ON audit
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('audit_append_only');

-- The foreign keys refuse to delete what is in use; these say by what.
CREATE FUNCTION refuse_delete_in_use() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  users text;
BEGIN
  SELECT string_agg(name, ', ') INTO users
  FROM (SELECT name FROM resources WHERE parent_key = OLD.name ORDER BY name LIMIT 10) AS children;
  IF users IS NOT NULL THEN
    RAISE EXCEPTION 'resource is in use' USING ERRCODE = 'foreign_key_violation', TABLE = 'resources',
      CONSTRAINT = 'resources_parent_key_fkey', DETAIL = 'in use: ' || OLD.name || ': ' || users;
  END IF;
  SELECT string_agg(name, ', ') INTO users
  FROM (SELECT DISTINCT name FROM resource_references WHERE target = OLD.name ORDER BY name LIMIT 10) AS referring;
  IF users IS NOT NULL THEN
    RAISE EXCEPTION 'resource is in use' USING ERRCODE = 'foreign_key_violation', TABLE = 'resource_references',
      CONSTRAINT = 'resource_references_target_fkey', DETAIL = 'in use: ' || OLD.name || ': ' || users;
  END IF;
  RETURN OLD;
END $$;

CREATE TRIGGER resources_in_use BEFORE DELETE ON resources
  FOR EACH ROW EXECUTE FUNCTION refuse_delete_in_use();
