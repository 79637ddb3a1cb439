package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// What the server itself says when a trigger has not seen it first, in any
// language and from the versions that call it differently.
func TestPostgresForeignKeys(t *testing.T) {
	cases := []struct {
		name    string
		failure pgconn.PgError
		want    ConstraintError
	}{
		{"missing target", pgconn.PgError{
			Code: "23503", TableName: "resource_references", ConstraintName: "resource_references_target_fkey",
			Detail: `Key (target)=(plans/gold) is not present in table "resources".`,
		}, ConstraintError{Kind: ErrReference, Name: "plans/gold"}},
		{"missing parent in German", pgconn.PgError{
			Code: "23503", TableName: "resources", ConstraintName: "resources_parent_key_fkey",
			Detail: `Schlüssel (parent_key)=(accounts/x) ist nicht in Tabelle »resources« vorhanden.`,
		}, ConstraintError{Kind: ErrReference, Name: "accounts/x"}},
		{"in use", pgconn.PgError{
			Code: "23503", TableName: "resource_references", ConstraintName: "resource_references_target_fkey",
			Detail: `Key (name)=(plans/gold) is still referenced from table "resource_references".`,
		}, ConstraintError{Kind: ErrInUse, Name: "plans/gold"}},
		{"in use, newer server", pgconn.PgError{
			Code: "23001", TableName: "resources", ConstraintName: "resources_parent_key_fkey",
			Detail: `Key (name)=(accounts/(x)) is referenced from table "resources".`,
		}, ConstraintError{Kind: ErrInUse, Name: "accounts/(x)"}},
		{"in use, by the trigger", pgconn.PgError{
			Code: "23503", TableName: "resources", ConstraintName: "resources_parent_key_fkey",
			Detail: `in use: accounts/x: accounts/x/apps/1, accounts/x/apps/2`,
		}, ConstraintError{Kind: ErrInUse, Name: "accounts/x", By: []string{"accounts/x/apps/1", "accounts/x/apps/2"}}},
		{"no detail", pgconn.PgError{Code: "23503", TableName: "a", ConstraintName: "a_b_fkey"}, ConstraintError{Kind: ErrReference}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var got *ConstraintError
			if err := (postgres{}).classify(fmt.Errorf("insert: %w", &c.failure)); !errors.As(err, &got) {
				t.Fatalf("classified as %v", err)
			}
			if !errors.Is(got.Kind, c.want.Kind) || got.Name != c.want.Name || !slices.Equal(got.By, c.want.By) || got.Constraint != c.failure.ConstraintName {
				t.Errorf("classified as %+v, want %+v", got, c.want)
			}
		})
	}
}

// A commit whose answer is not that of the database may have been done.
func TestAnswered(t *testing.T) {
	server := func(code string) error { return fmt.Errorf("commit: %w", &pgconn.PgError{Code: code}) }
	cases := []struct {
		err  error
		want bool
	}{
		{server("40001"), true},
		{server("23503"), true},
		{server("40003"), false},
		{server("57P01"), false},
		{server("08006"), false},
		{pgx.ErrTxCommitRollback, true},
		{sql.ErrTxDone, true},
		{io.ErrUnexpectedEOF, false},
		{context.DeadlineExceeded, false},
	}
	for _, c := range cases {
		if got := (postgres{}).answered(c.err); got != c.want {
			t.Errorf("%v: answered is %v, want %v", c.err, got, c.want)
		}
	}
}

func TestPostgresAway(t *testing.T) {
	server := func(code string) error { return &pgconn.PgError{Code: code} }
	cases := []struct {
		err  error
		want bool
	}{
		{io.ErrUnexpectedEOF, true},
		{server("57P03"), true},  // starting up
		{server("53300"), true},  // too many connections
		{server("28P01"), false}, // wrong password
		{server("3D000"), false}, // no such database
		{context.Canceled, false},
	}
	for _, c := range cases {
		if got := (postgres{}).away(c.err); got != c.want {
			t.Errorf("%v: away is %v, want %v", c.err, got, c.want)
		}
	}
}

func TestColumnsName(t *testing.T) {
	for columns, want := range map[string]string{
		"outbox.name, outbox.revision": "outbox_name_revision_key",
		"resources.uid":                "resources_uid_key",
	} {
		if got := columnsName(columns, "key"); got != want {
			t.Errorf("%s: %s, want %s", columns, got, want)
		}
	}
}
