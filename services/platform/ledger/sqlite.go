package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	driver "modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"
)

type sqlite struct{ cfg Config }

func (sqlite) variables() map[string]string {
	return map[string]string{
		"text":     "TEXT",
		"int64":    "INTEGER",
		"bytes":    "BLOB",
		"identity": "INTEGER PRIMARY KEY AUTOINCREMENT",
		"strict":   "STRICT",
	}
}

func (s sqlite) open(ctx context.Context) (writer, reader *sql.DB, err error) {
	if err := prepareFile(s.cfg.Path); err != nil {
		return nil, nil, err
	}
	// SQLite has one writer at a time. With one connection they queue up here, in
	// order, instead of polling for its lock.
	writer, err = s.pool(ctx, 1, "foreign_keys(1)")
	if err != nil {
		return nil, nil, err
	}
	reader, err = s.pool(ctx, s.cfg.MaxConnections, "query_only(1)")
	if err != nil {
		return nil, nil, errors.Join(err, writer.Close())
	}
	return writer, reader, nil
}

// prepareFile makes the file before SQLite does, so that nobody else may read it.
func prepareFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make the folder of ledger.path: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("make ledger.path: %w", err)
	}
	return file.Close()
}

func (s sqlite) pool(ctx context.Context, connections int, pragmas ...string) (*sql.DB, error) {
	address, err := s.address(s.cfg.Path, s.cfg.LockTimeout, "immediate", append(pragmas,
		"journal_mode(WAL)",
		// What was committed is on disk, also after a power failure.
		"synchronous(FULL)",
		// INSERT OR REPLACE must not pass by the triggers that refuse to delete.
		"recursive_triggers(1)",
		"case_sensitive_like(1)",
	)...)
	if err != nil {
		return nil, err
	}
	pool, err := sql.Open("sqlite", address)
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(connections)
	pool.SetMaxIdleConns(connections)
	if err := s.reach(ctx, pool); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", s.cfg.Path, err), pool.Close())
	}
	return pool, nil
}

// reach makes the first connection. Who turns a new file to WAL, or is the last
// to close one, has it for himself, and SQLite does not wait for that.
func (s sqlite) reach(ctx context.Context, pool *sql.DB) error {
	for attempt := 0; ; attempt++ {
		err := pool.PingContext(ctx)
		if err == nil || !s.lostRace(err) || !pause(ctx, attempt) {
			return err
		}
	}
}

// address is the URI of a file, so that any character may stand in its name.
func (sqlite) address(path string, busy time.Duration, begin string, pragmas ...string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	values := url.Values{"_txlock": {begin}, "_pragma": pragmas}
	values.Add("_pragma", fmt.Sprintf("busy_timeout(%d)", busy.Milliseconds()))
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // a drive letter
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: values.Encode()}).String(), nil
}

// The one writer is alone as soon as it begins, and a reader in WAL mode sees
// one state from its first query on.
func (sqlite) writeOptions() *sql.TxOptions { return &sql.TxOptions{} }
func (sqlite) readOptions() *sql.TxOptions  { return &sql.TxOptions{ReadOnly: true} }

func (sqlite) lostRace(err error) bool {
	code := primaryCode(err)
	return code == codes.SQLITE_BUSY || code == codes.SQLITE_LOCKED
}

// away: a file is there or it is not.
func (sqlite) away(error) bool { return false }

// answered: only when writing to the disk fails may the end of the transaction
// be on it all the same.
func (sqlite) answered(err error) bool { return primaryCode(err) != codes.SQLITE_IOERR }

func primaryCode(err error) int {
	var failure *driver.Error
	if errors.As(err, &failure) {
		return failure.Code() & 0xff
	}
	return 0
}

func (sqlite) classify(err error) error {
	var failure *driver.Error
	if !errors.As(err, &failure) || failure.Code()&0xff != codes.SQLITE_CONSTRAINT {
		return err
	}
	detail := constraintDetail(failure)
	switch failure.Code() {
	case codes.SQLITE_CONSTRAINT_TRIGGER:
		return raised(detail, err)
	case codes.SQLITE_CONSTRAINT_PRIMARYKEY, codes.SQLITE_CONSTRAINT_ROWID:
		table, _, _ := strings.Cut(detail, ".")
		return &ConstraintError{Kind: ErrConflict, Constraint: table + "_pkey"}
	case codes.SQLITE_CONSTRAINT_UNIQUE:
		return &ConstraintError{Kind: ErrConflict, Constraint: columnsName(detail, "key")}
	case codes.SQLITE_CONSTRAINT_CHECK:
		return &ConstraintError{Kind: ErrInvalid, Constraint: detail}
	case codes.SQLITE_CONSTRAINT_NOTNULL:
		return &ConstraintError{Kind: ErrInvalid, Constraint: columnsName(detail, "not_null")}
	case codes.SQLITE_CONSTRAINT_DATATYPE:
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	case codes.SQLITE_CONSTRAINT_FOREIGNKEY:
		// Which one SQLite does not say; a trigger that does is missing.
		return fmt.Errorf("%w: %w", ErrReference, err)
	}
	return err
}

// constraintDetail is what follows "… constraint failed: " without the code.
func constraintDetail(failure *driver.Error) string {
	text := strings.TrimSuffix(failure.Error(), fmt.Sprintf(" (%d)", failure.Code()))
	// The driver puts the general text in front of SQLite's own.
	text = strings.TrimPrefix(text, "constraint failed: ")
	if _, detail, ok := strings.Cut(text, " constraint failed: "); ok && failure.Code() != codes.SQLITE_CONSTRAINT_TRIGGER {
		return detail
	}
	return text
}

// columnsName makes the name that PostgreSQL would give: "t.a, t.b" is t_a_b_key.
func columnsName(columns, suffix string) string {
	var parts []string
	for i, column := range strings.Split(columns, ", ") {
		table, name, _ := strings.Cut(column, ".")
		if i == 0 {
			parts = append(parts, table)
		}
		parts = append(parts, name)
	}
	return strings.Join(append(parts, suffix), "_")
}

// raised reads what triggers raise: "kind: constraint" or "kind: constraint: detail".
func raised(text string, err error) error {
	kind, rest, _ := strings.Cut(text, ": ")
	constraint, detail, _ := strings.Cut(rest, ": ")
	switch kind {
	case "overlap":
		return &ConstraintError{Kind: ErrOverlap, Constraint: constraint}
	case "append-only":
		return &ConstraintError{Kind: ErrAppendOnly, Constraint: constraint}
	case "missing":
		return &ConstraintError{Kind: ErrReference, Constraint: constraint, Name: detail}
	case "in use":
		return inUse(constraint, detail)
	}
	return err
}

// migrator does not enforce foreign keys: SQLite changes a table by making a
// new one and dropping the old one, which must not delete what refers to it.
func (s sqlite) migrator(ctx context.Context, _ *sql.DB) (*sql.DB, bool, error) {
	pool, err := s.pool(ctx, 1, "foreign_keys(0)")
	return pool, true, err
}

// lockMigrations does nothing: a transaction that writes is alone.
func (sqlite) lockMigrations(context.Context, *sql.Tx) error { return nil }

func (sqlite) checkMigrated(ctx context.Context, tx *sql.Tx) error {
	var table string
	err := tx.QueryRowContext(ctx, `SELECT "table" FROM pragma_foreign_key_check LIMIT 1`).Scan(&table)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("table %s refers to rows that do not exist", table)
}

func (sqlite) countTables() string {
	return `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = $1`
}

// tryLock locks a file beside the database in SQLite's own way, which works on
// every system and ends with the process.
func (s sqlite) tryLock(ctx context.Context, name string) (heldLock, error) {
	path := s.cfg.Path + "." + name + ".lock"
	if err := prepareFile(path); err != nil {
		return nil, err
	}
	address, err := s.address(path, 0, "exclusive", "journal_mode(OFF)")
	if err != nil {
		return nil, err
	}
	pool, err := sql.Open("sqlite", address)
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(1)
	// The context of BeginTx would end the lock.
	tx, err := pool.BeginTx(context.WithoutCancel(ctx), nil)
	if err == nil {
		return &fileLock{pool: pool, tx: tx}, nil
	}
	if s.lostRace(err) {
		err = ErrLocked
	}
	return nil, errors.Join(err, pool.Close())
}

type fileLock struct {
	pool *sql.DB
	tx   *sql.Tx
}

// check: the kernel takes a lock from nobody who runs.
func (*fileLock) check(context.Context) error { return nil }

func (l *fileLock) release() error {
	return errors.Join(l.tx.Rollback(), l.pool.Close())
}
