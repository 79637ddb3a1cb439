package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// oldestPostgres is the oldest version that the tests run on.
const oldestPostgres = 15

type postgres struct {
	cfg        Config
	connection *pgx.ConnConfig
}

func newPostgres(cfg Config) (dialect, error) {
	connection, err := postgresConfig(cfg)
	if err != nil {
		return nil, err
	}
	return postgres{cfg: cfg, connection: connection}, nil
}

func postgresConfig(cfg Config) (*pgx.ConnConfig, error) {
	if cfg.URL == "" {
		return nil, errors.New("ledger: url is empty")
	}
	connection, err := pgx.ParseConfig(cfg.URL.Reveal())
	if err != nil {
		// The cause repeats parts of the address, and with a misplaced character
		// the password is one of them.
		return nil, errors.New("ledger: url cannot be read, want postgres://user:password@host:port/database with parameters of libpq (special characters percent-encoded, files named by it must exist)")
	}
	connection.ConnectTimeout = cfg.ConnectTimeout
	for name, value := range map[string]string{
		"application_name":                    "tollway",
		"lock_timeout":                        milliseconds(cfg.LockTimeout),
		"statement_timeout":                   milliseconds(cfg.TransactionTimeout),
		"idle_in_transaction_session_timeout": milliseconds(cfg.TransactionTimeout),
	} {
		if _, given := connection.RuntimeParams[name]; !given {
			connection.RuntimeParams[name] = value
		}
	}
	return connection, nil
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

func (postgres) variables() map[string]string {
	return map[string]string{
		// Bytewise, so that pages and ranges are the same on every server.
		"text":     `TEXT COLLATE "C"`,
		"int64":    "BIGINT",
		"bytes":    "BYTEA",
		"identity": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
		"strict":   "",
	}
}

func (p postgres) open(ctx context.Context) (writer, reader *sql.DB, err error) {
	pool := stdlib.OpenDB(*p.connection)
	pool.SetMaxOpenConns(p.cfg.MaxConnections)
	pool.SetMaxIdleConns(p.cfg.MaxConnections)
	pool.SetConnMaxLifetime(time.Hour) // so that a new primary is found some day
	if err := checkServer(ctx, pool); err != nil {
		return nil, nil, errors.Join(err, pool.Close())
	}
	return pool, pool, nil
}

func checkServer(ctx context.Context, pool *sql.DB) error {
	var version int
	var encoding string
	err := pool.QueryRowContext(ctx, `SELECT CAST(current_setting('server_version_num') AS INTEGER),
		current_setting('server_encoding')`).Scan(&version, &encoding)
	if err != nil {
		return err
	}
	if version/10000 < oldestPostgres {
		return fmt.Errorf("the server is PostgreSQL %d, want %d or newer", version/10000, oldestPostgres)
	}
	if encoding != "UTF8" {
		return fmt.Errorf("the database has the encoding %s, want UTF8", encoding)
	}
	return nil
}

func (postgres) writeOptions() *sql.TxOptions {
	return &sql.TxOptions{Isolation: sql.LevelSerializable}
}

func (postgres) readOptions() *sql.TxOptions {
	return &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
}

// SQLSTATE codes that this package knows.
const (
	notNullViolation     = "23502"
	foreignKeyViolation  = "23503"
	restrictViolation    = "23001" // what PostgreSQL 18 says for ON DELETE RESTRICT
	uniqueViolation      = "23505"
	checkViolation       = "23514"
	exclusionViolation   = "23P01"
	wrongState           = "55000"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	lockNotAvailable     = "55P03"
	completionUnknown    = "40003"
	tooManyConnections   = "53300"
)

func (postgres) lostRace(err error) bool {
	switch sqlState(err) {
	case serializationFailure, deadlockDetected, lockNotAvailable:
		return true
	}
	return false
}

// away: a server that is started again, or replaced, breaks the connections of
// the pool and takes none for a moment. One that refuses the password will
// refuse it again.
func (postgres) away(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	state := sqlState(err)
	return state == "" || state == tooManyConnections || strings.HasPrefix(state, "57P")
}

// answered: a server that is told to stop (57P…) may say so after it has
// committed, and a lost connection (08…) says nothing.
func (postgres) answered(err error) bool {
	if errors.Is(err, pgx.ErrTxCommitRollback) || errors.Is(err, sql.ErrTxDone) {
		return true
	}
	state := sqlState(err)
	return state != "" && state != completionUnknown && !strings.HasPrefix(state, "57P") && !strings.HasPrefix(state, "08")
}

func sqlState(err error) string {
	var failure *pgconn.PgError
	if errors.As(err, &failure) {
		return failure.Code
	}
	return ""
}

func (postgres) classify(err error) error {
	var failure *pgconn.PgError
	if !errors.As(err, &failure) {
		return err
	}
	switch failure.Code {
	case uniqueViolation:
		return &ConstraintError{Kind: ErrConflict, Constraint: failure.ConstraintName}
	case foreignKeyViolation, restrictViolation:
		return foreignKey(failure)
	case exclusionViolation:
		return &ConstraintError{Kind: ErrOverlap, Constraint: failure.ConstraintName}
	case checkViolation:
		return &ConstraintError{Kind: ErrInvalid, Constraint: failure.ConstraintName}
	case notNullViolation:
		return &ConstraintError{Kind: ErrInvalid, Constraint: failure.TableName + "_" + failure.ColumnName + "_not_null"}
	case wrongState:
		if failure.ConstraintName != "" {
			return &ConstraintError{Kind: ErrAppendOnly, Constraint: failure.ConstraintName}
		}
	}
	return err
}

var keyDetail = regexp.MustCompile(`\((.*?)\)=\((.*)\)`)

// foreignKey tells from the column whether the reference or its target is at
// fault: the words around it are in the server's language.
func foreignKey(failure *pgconn.PgError) *ConstraintError {
	if detail, ours := strings.CutPrefix(failure.Detail, "in use: "); ours {
		return inUse(failure.ConstraintName, detail)
	}
	refused := &ConstraintError{Kind: ErrReference, Constraint: failure.ConstraintName}
	if key := keyDetail.FindStringSubmatch(failure.Detail); key != nil {
		refused.Name = key[2]
		if failure.ConstraintName != failure.TableName+"_"+key[1]+"_fkey" {
			refused.Kind = ErrInUse
		}
	}
	return refused
}

func (postgres) migrator(_ context.Context, writer *sql.DB) (*sql.DB, bool, error) {
	return writer, false, nil
}

// lockMigrations also lifts the limits of time, which the context still has.
func (postgres) lockMigrations(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, `SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0`); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(`+lockKey+`)`, "migrate")
	return err
}

// lockKey is the number of the lock $1. Advisory locks belong to the database,
// in which others may have schemas of their own.
const lockKey = `hashtextextended('tollway ' || current_schema() || ' ' || CAST($1 AS TEXT), 0)`

func (postgres) checkMigrated(context.Context, *sql.Tx) error { return nil }

func (postgres) countTables() string {
	return `SELECT count(*) FROM pg_catalog.pg_tables WHERE schemaname = current_schema() AND tablename = $1`
}

// tryLock takes a connection of its own, outside of the pool.
func (p postgres) tryLock(ctx context.Context, name string) (heldLock, error) {
	config := p.connection.Copy()
	config.RuntimeParams["idle_session_timeout"] = "0"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	var got bool
	err = conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(`+lockKey+`)`, name).Scan(&got)
	if err == nil && !got {
		err = ErrLocked
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return &sessionLock{conn: conn, timeout: p.cfg.ConnectTimeout}, nil
}

// sessionLock lasts as long as its connection.
type sessionLock struct {
	conn    *pgx.Conn
	timeout time.Duration
}

func (l *sessionLock) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	return l.conn.Ping(ctx)
}

func (l *sessionLock) release() error {
	ctx, cancel := context.WithTimeout(context.Background(), l.timeout)
	defer cancel()
	return l.conn.Close(ctx)
}
