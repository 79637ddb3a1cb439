package ledger_test

import (
	"database/sql"
	"errors"
	"slices"
	"testing"

	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
	tollwaysql "github.com/tollway/tollway/sql"
)

// company is what the refusals are tried on.
func company(t *testing.T, db *ledger.DB) {
	t.Helper()
	for _, name := range []string{
		"accounts/acme", "accounts/acme/apps/mobile", "accounts/acme/apps/web", "products/maps", "plans/free",
		"subscriptions/one", "subscriptions/two", "lonely/one",
	} {
		if parent := parentOf(name); parent != "" {
			must(t, db, insertResource, name, parent, "uid of "+name)
			continue
		}
		resource(t, db, name)
	}
	must(t, db, `INSERT INTO resource_references (name, field, target) VALUES ('subscriptions/one', 'product', 'products/maps')`)
	must(t, db, `INSERT INTO resource_references (name, field, target) VALUES ('subscriptions/one', 'plan', 'plans/free')`)
	must(t, db, `INSERT INTO resource_references (name, field, target) VALUES ('subscriptions/two', 'product', 'products/maps')`)
	must(t, db, `INSERT INTO unique_keys (key, name) VALUES ('client_id:42', 'accounts/acme/apps/mobile')`)
	must(t, db, insertPeriod, "subscriptions/one", "accounts/acme", "products/maps", 10, 20)
	must(t, db, `INSERT INTO audit (time, actor, role, method, name, revision, after, request_id)
		VALUES (1, 'ann', 'admin', 'Create', 'accounts/acme', 1, '{}', 'r1')`)
	must(t, db, insertOutbox, "accounts/acme", 1)
	must(t, db, `INSERT INTO settings (key, value) VALUES ('salt', 'x')`)
}

const (
	insertPeriod = `INSERT INTO subscription_periods (name, subject, product, start_time, end_time) VALUES ($1, $2, $3, $4, $5)`
	insertOutbox = `INSERT INTO outbox (name, kind, revision, body, time) VALUES ($1, 'account', $2, '{}', 0)`
)

// Whatever the database refuses, it refuses by the same constraint on both.
func TestRealConstraints(t *testing.T) {
	cases := []struct {
		name       string
		statement  string
		kind       error
		constraint string
		of         string
		by         []string
	}{
		{name: "same name", statement: `INSERT INTO resources (name, kind, uid, revision, state, body, create_time, update_time)
			VALUES ('accounts/acme', 'account', 'u', 1, '', '{}', 0, 0)`, kind: ledger.ErrConflict, constraint: "resources_pkey"},
		{name: "same uid", statement: `UPDATE resources SET uid = 'uid of plans/free' WHERE name = 'lonely/one'`,
			kind: ledger.ErrConflict, constraint: "resources_uid_key"},
		{name: "same key", statement: `INSERT INTO unique_keys (key, name) VALUES ('client_id:42', 'accounts/acme/apps/web')`,
			kind: ledger.ErrConflict, constraint: "unique_keys_pkey"},
		{name: "same reference", statement: `INSERT INTO resource_references (name, field, target) VALUES ('subscriptions/one', 'plan', 'plans/free')`,
			kind: ledger.ErrConflict, constraint: "resource_references_pkey"},
		{name: "same version", statement: `INSERT INTO outbox (name, kind, revision, time) VALUES ('accounts/acme', 'account', 1, 5)`,
			kind: ledger.ErrConflict, constraint: "outbox_name_revision_key"},
		{name: "same setting", statement: `INSERT INTO settings (key, value) VALUES ('salt', 'y')`,
			kind: ledger.ErrConflict, constraint: "settings_pkey"},
		{name: "same period", statement: `INSERT INTO subscription_periods (name, subject, product, start_time, end_time)
			VALUES ('subscriptions/one', 'accounts/acme', 'products/maps', 10, 30)`,
			kind: ledger.ErrConflict, constraint: "subscription_periods_pkey"},

		{name: "no parent", statement: `INSERT INTO resources (name, kind, parent, uid, revision, state, body, create_time, update_time)
			VALUES ('accounts/none/apps/x', 'app', 'accounts/none', 'u', 1, '', '{}', 0, 0)`,
			kind: ledger.ErrReference, constraint: "resources_parent_key_fkey", of: "accounts/none"},
		{name: "parent changed to none", statement: `UPDATE resources SET parent = 'accounts/none' WHERE name = 'accounts/acme/apps/web'`,
			kind: ledger.ErrReference, constraint: "resources_parent_key_fkey", of: "accounts/none"},
		{name: "no target", statement: `INSERT INTO resource_references (name, field, target) VALUES ('subscriptions/one', 'x', 'plans/gold')`,
			kind: ledger.ErrReference, constraint: "resource_references_target_fkey", of: "plans/gold"},
		{name: "target changed to none", statement: `UPDATE resource_references SET target = 'plans/gold' WHERE field = 'plan'`,
			kind: ledger.ErrReference, constraint: "resource_references_target_fkey", of: "plans/gold"},
		{name: "reference of nobody", statement: `INSERT INTO resource_references (name, field, target) VALUES ('nobody', 'x', 'plans/free')`,
			kind: ledger.ErrReference, constraint: "resource_references_name_fkey", of: "nobody"},
		{name: "key of nobody", statement: `INSERT INTO unique_keys (key, name) VALUES ('san:x', 'nobody')`,
			kind: ledger.ErrReference, constraint: "unique_keys_name_fkey", of: "nobody"},
		{name: "period of nobody", statement: `INSERT INTO subscription_periods (name, subject, product, start_time, end_time)
			VALUES ('nobody', 's', 'p', 1, 2)`, kind: ledger.ErrReference, constraint: "subscription_periods_name_fkey", of: "nobody"},

		{name: "delete a parent", statement: `DELETE FROM resources WHERE name = 'accounts/acme'`, kind: ledger.ErrInUse,
			constraint: "resources_parent_key_fkey", of: "accounts/acme", by: []string{"accounts/acme/apps/mobile", "accounts/acme/apps/web"}},
		{name: "delete a target", statement: `DELETE FROM resources WHERE name = 'products/maps'`, kind: ledger.ErrInUse,
			constraint: "resource_references_target_fkey", of: "products/maps", by: []string{"subscriptions/one", "subscriptions/two"}},

		{name: "overlap", statement: `INSERT INTO subscription_periods (name, subject, product, start_time, end_time)
			VALUES ('subscriptions/two', 'accounts/acme', 'products/maps', 19, 9223372036854775807)`,
			kind: ledger.ErrOverlap, constraint: "subscription_periods_overlap"},

		{name: "audit changed", statement: `UPDATE audit SET actor = 'bob'`, kind: ledger.ErrAppendOnly, constraint: "audit_append_only"},
		{name: "audit deleted", statement: `DELETE FROM audit WHERE id = 1`, kind: ledger.ErrAppendOnly, constraint: "audit_append_only"},

		{name: "no name", statement: `INSERT INTO resources (name, kind, uid, revision, state, body, create_time, update_time)
			VALUES ('', 'account', 'u', 1, '', '{}', 0, 0)`, kind: ledger.ErrInvalid, constraint: "resources_name_check"},
		{name: "parent of itself", statement: `INSERT INTO resources (name, kind, parent, uid, revision, state, body, create_time, update_time)
			VALUES ('x', 'account', 'x', 'u', 1, '', '{}', 0, 0)`, kind: ledger.ErrInvalid, constraint: "resources_parent_check"},
		{name: "revision 0", statement: `UPDATE resources SET revision = 0 WHERE name = 'lonely/one'`,
			kind: ledger.ErrInvalid, constraint: "resources_revision_check"},
		{name: "reference to itself", statement: `INSERT INTO resource_references (name, field, target) VALUES ('plans/free', 'x', 'plans/free')`,
			kind: ledger.ErrInvalid, constraint: "resource_references_self_check"},
		{name: "empty period", statement: `INSERT INTO subscription_periods (name, subject, product, start_time, end_time)
			VALUES ('subscriptions/two', 's', 'p', 7, 7)`, kind: ledger.ErrInvalid, constraint: "subscription_periods_order_check"},
		{name: "no state", statement: `UPDATE resources SET state = NULL WHERE name = 'lonely/one'`,
			kind: ledger.ErrInvalid, constraint: "resources_state_not_null"},
	}
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		company(t, db)
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				err := execute(t.Context(), db, c.statement)
				var refused *ledger.ConstraintError
				if !errors.As(err, &refused) {
					t.Fatalf("error is %v, want a refusal by %s", err, c.constraint)
				}
				if !errors.Is(err, c.kind) || refused.Constraint != c.constraint || refused.Name != c.of || !slices.Equal(refused.By, c.by) {
					t.Errorf("refused with %+v, want %v by %s of %q by %q", refused, c.kind, c.constraint, c.of, c.by)
				}
				if ledger.Constraint(err) != c.constraint {
					t.Errorf("Constraint is %q", ledger.Constraint(err))
				}
			})
		}
		if n := number(t, db, `SELECT count(*) FROM audit WHERE actor = 'ann'`); n != 1 {
			t.Errorf("audit has %d rows of ann, want the one", n)
		}
	})
}

// The error of a refused delete is of both kinds.
func TestInUseIsReference(t *testing.T) {
	err := &ledger.ConstraintError{Kind: ledger.ErrInUse, Constraint: "a_b_fkey", Name: "x", By: []string{"y", "z"}}
	if !errors.Is(err, ledger.ErrInUse) || !errors.Is(err, ledger.ErrReference) || errors.Is(err, ledger.ErrConflict) {
		t.Errorf("wrong kinds: %v", err)
	}
	if want := "x: in use by y, z (a_b_fkey)"; err.Error() != want {
		t.Errorf("text is %q, want %q", err, want)
	}
}

// Audit can be emptied in no way that the dialect has.
func TestRealAuditHasNoWayAround(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		company(t, db)
		for _, statement := range []string{
			`INSERT OR REPLACE INTO audit (id, time, actor, role, method, name, revision, request_id) VALUES (1, 1, 'eve', '', '', '', 1, '')`,
			`INSERT INTO audit (id, time, actor, role, method, name, revision, request_id) VALUES (1, 1, 'eve', '', '', '', 1, '')
				ON CONFLICT (id) DO UPDATE SET actor = 'eve'`,
			`TRUNCATE audit`,
		} {
			if err := execute(t.Context(), db, statement); err == nil {
				t.Errorf("%s was done", statement)
			}
		}
		if n := number(t, db, `SELECT count(*) FROM audit WHERE actor = 'ann'`); n != 1 {
			t.Errorf("audit has %d rows of ann, want the one", n)
		}
	})
}

// The file protects itself, also against programs that do not know the settings
// of this package.
func TestSQLiteAuditFromOutside(t *testing.T) {
	cfg := testenv.LedgerConfig(t)
	db := testenv.OpenLedger(t, cfg)
	if _, err := db.Migrate(t.Context(), tollwaysql.LedgerMigrations); err != nil {
		t.Fatal(err)
	}
	company(t, db)
	outside, err := sql.Open("sqlite", cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	for _, statement := range []string{
		`UPDATE audit SET actor = 'eve'`,
		`DELETE FROM audit`,
		`INSERT OR REPLACE INTO audit (id, time, actor, role, method, name, revision, request_id) VALUES (1, 1, 'eve', '', '', '', 1, '')`,
		`UPDATE OR REPLACE audit SET id = 2`,
		insertedPeriod,
	} {
		if _, err := outside.ExecContext(t.Context(), statement); err == nil {
			t.Errorf("%s was done", statement)
		}
	}
}

const insertedPeriod = `INSERT OR REPLACE INTO subscription_periods (name, subject, product, start_time, end_time)
	VALUES ('subscriptions/two', 'accounts/acme', 'products/maps', 19, 21)`

// With a resource goes what belongs to it, and nothing else.
func TestRealDeleteCascades(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		company(t, db)
		must(t, db, `DELETE FROM resources WHERE name = 'subscriptions/one'`)
		must(t, db, `DELETE FROM resources WHERE name = 'accounts/acme/apps/mobile'`)
		must(t, db, `DELETE FROM resources WHERE name = 'plans/free'`) // no longer referred to
		for query, want := range map[string]int64{
			`SELECT count(*) FROM resource_references`:  1,
			`SELECT count(*) FROM subscription_periods`: 0,
			`SELECT count(*) FROM unique_keys`:          0,
			`SELECT count(*) FROM resources`:            5,
			`SELECT count(*) FROM audit`:                1,
			`SELECT count(*) FROM outbox`:               1,
		} {
			if n := number(t, db, query); n != want {
				t.Errorf("%s is %d, want %d", query, n, want)
			}
		}
	})
}

// Names are compared bytewise, whatever the locale of the server.
func TestRealPagesAreBytewise(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		names := []string{"p/Z", "p/a", "p/a-b", "p/a.b", "p/a_b", "p/ab", "p/é", "p/中"}
		for _, i := range []int{3, 6, 0, 7, 4, 1, 5, 2} {
			resource(t, db, names[i])
		}
		var got []string
		for after := ""; ; after = got[len(got)-1] {
			var page []string
			err := db.Read(t.Context(), func(tx *ledger.Tx) (err error) {
				page, err = ledger.Select(t.Context(), tx, scanText,
					`SELECT name FROM resources WHERE kind = $1 AND parent = $2 AND name > $3 ORDER BY name LIMIT 3`, "thing", "", after)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
		}
		if !slices.Equal(got, names) {
			t.Errorf("pages are %q, want %q", got, names)
		}
		if n := number(t, db, `SELECT count(*) FROM resources WHERE name LIKE 'p/A%'`); n != 0 {
			t.Errorf("LIKE found %d names of another case", n)
		}
	})
}

func scanText(row ledger.Row) (text string, err error) {
	err = row.Scan(&text)
	return text, err
}
