package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"
)

// Tx is a transaction, for one goroutine, valid until the function it was given
// to returns.
type Tx struct {
	tx      *sql.Tx
	dialect dialect
	failed  error // of the first statement that failed
}

// Row is one row of a result.
type Row interface {
	// Scan copies the columns; a row that is not there is ErrNotFound.
	Scan(dest ...any) error
}

// Exec runs a statement and returns how many rows it changed.
func (tx *Tx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	if err := tx.ready(args); err != nil {
		return 0, err
	}
	result, err := tx.tx.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, tx.fail(err)
	}
	rows, err := result.RowsAffected()
	if err != nil {
		return 0, tx.fail(err)
	}
	return rows, nil
}

// QueryRow runs a query of which the first row is wanted. Its error comes from
// Scan.
func (tx *Tx) QueryRow(ctx context.Context, query string, args ...any) Row {
	if err := tx.ready(args); err != nil {
		return row{err: err}
	}
	return row{tx: tx, row: tx.tx.QueryRowContext(ctx, query, args...)}
}

type row struct {
	tx  *Tx
	row *sql.Row
	err error
}

func (r row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	err := r.row.Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return r.tx.fail(err)
}

// Select runs a query and returns what scan makes of each of its rows. All rows
// are read before it returns, so a query over a table that grows has a LIMIT.
// scan runs no statement: the connection is busy with the rows.
func Select[T any](ctx context.Context, tx *Tx, scan func(row Row) (T, error), query string, args ...any) ([]T, error) {
	if err := tx.ready(args); err != nil {
		return nil, err
	}
	rows, err := tx.tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, tx.fail(err)
	}
	defer func() { _ = rows.Close() }() // its error is that of rows.Err
	var out []T
	for rows.Next() {
		value, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("scan: %w", err)
		}
		out = append(out, value)
	}
	if err := rows.Err(); err != nil {
		return nil, tx.fail(err)
	}
	return out, nil
}

// ready refuses what must not reach the database. PostgreSQL ends a transaction
// at the first error and SQLite does not, so that is decided here; and SQLite
// takes any bytes as text.
func (tx *Tx) ready(args []any) error {
	if tx.failed != nil {
		return tx.failed
	}
	for i, arg := range args {
		if text, ok := textOf(arg); ok && (!utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0) {
			return tx.fail(fmt.Errorf("%w: $%d is not UTF-8 without NUL", ErrInvalid, i+1))
		}
	}
	return nil
}

func textOf(arg any) (string, bool) {
	value := reflect.ValueOf(arg)
	if value.Kind() == reflect.Pointer && !value.IsNil() {
		value = value.Elem()
	}
	if value.Kind() != reflect.String {
		return "", false
	}
	return value.String(), true
}

func (tx *Tx) fail(err error) error {
	if err == nil {
		return nil
	}
	tx.failed = tx.dialect.classify(err)
	return tx.failed
}
