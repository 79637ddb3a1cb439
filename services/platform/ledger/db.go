package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/rs/zerolog"
)

// DB is an open ledger database. It is safe for concurrent use.
type DB struct {
	cfg     Config
	log     zerolog.Logger
	dialect dialect
	writer  *sql.DB
	reader  *sql.DB // the writer on PostgreSQL
	metrics *metrics
}

// dialect is what differs between the databases.
type dialect interface {
	// variables are what migrations say where the databases have no word in common.
	variables() map[string]string
	// open connects a pool for writers and one for readers.
	open(ctx context.Context) (writer, reader *sql.DB, err error)
	writeOptions() *sql.TxOptions
	readOptions() *sql.TxOptions
	// classify turns an error of the driver into one of this package, where it
	// has one.
	classify(err error) error
	// lostRace reports whether the transaction may succeed when it is run again.
	lostRace(err error) bool
	// away reports whether a transaction that could not begin may soon.
	away(err error) bool
	// answered reports whether the database itself said that a commit failed.
	answered(err error) bool
	// migrator is a pool for migrations, and whether it is to be closed.
	migrator(ctx context.Context, writer *sql.DB) (pool *sql.DB, own bool, err error)
	// lockMigrations makes the transaction wait until no other one migrates.
	lockMigrations(ctx context.Context, tx *sql.Tx) error
	// checkMigrated looks for what a migration may have broken.
	checkMigrated(ctx context.Context, tx *sql.Tx) error
	// countTables is a query: how many tables have the name $1.
	countTables() string
	tryLock(ctx context.Context, name string) (heldLock, error)
}

func newDialect(cfg Config) (dialect, error) {
	if cfg.Driver == Postgres {
		return newPostgres(cfg)
	}
	return sqlite{cfg}, nil
}

// Open connects and makes sure that the database answers and is one that can be
// used. The schema is the business of Migrate.
func Open(ctx context.Context, cfg Config, log zerolog.Logger) (*DB, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d, err := newDialect(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout)
	defer cancel()
	writer, reader, err := d.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the ledger database: %w", err)
	}
	return &DB{cfg: cfg, log: log, dialect: d, writer: writer, reader: reader, metrics: newMetrics(writer, reader)}, nil
}

// Close waits for transactions that run and disconnects.
func (db *DB) Close() error {
	err := db.reader.Close()
	if db.writer != db.reader {
		err = errors.Join(err, db.writer.Close())
	}
	return err
}

// Ping asks whether the database answers.
func (db *DB) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, db.cfg.ConnectTimeout)
	defer cancel()
	if err := db.reader.PingContext(ctx); err != nil {
		return fmt.Errorf("ping the ledger database: %w", err)
	}
	return nil
}

// Tx runs fn in a write transaction, as if no other one ran at the same time,
// and commits what it did if it returns nil. fn runs again from the beginning
// when the transaction lost against another one, so it must change nothing but
// the database. After the first statement that fails all further ones fail with
// the same error, and nothing is committed even if fn returns nil; a row that
// is not found is no failure. A transaction is never begun within another one.
func (db *DB) Tx(ctx context.Context, fn func(tx *Tx) error) error {
	return db.run(ctx, db.writer, db.dialect.writeOptions(), "write", fn)
}

// Read runs fn on one consistent state of the database, which it cannot change.
func (db *DB) Read(ctx context.Context, fn func(tx *Tx) error) error {
	return db.run(ctx, db.reader, db.dialect.readOptions(), "read", fn)
}

func (db *DB) run(ctx context.Context, pool *sql.DB, options *sql.TxOptions, mode string, fn func(tx *Tx) error) error {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, db.cfg.TransactionTimeout)
	defer cancel()
	err := db.attempts(ctx, pool, options, fn)
	db.metrics.observe(mode, err, time.Since(start))
	return err
}

func (db *DB) attempts(ctx context.Context, pool *sql.DB, options *sql.TxOptions, fn func(tx *Tx) error) error {
	for attempt := 1; ; attempt++ {
		err := db.attempt(ctx, pool, options, fn)
		if err == nil || !db.mayRunAgain(err) {
			return endOf(ctx, err)
		}
		if attempt == db.cfg.MaxAttempts {
			return fmt.Errorf("%w: gave up after %d attempts: %w", ErrBusy, attempt, err)
		}
		db.metrics.retries.Inc()
		if !pause(ctx, attempt) {
			return fmt.Errorf("%w: %w: %w", ErrBusy, ctx.Err(), err)
		}
	}
}

func (db *DB) mayRunAgain(err error) bool {
	if errors.Is(err, ErrUnknownOutcome) {
		return false
	}
	var begin *beginError
	return db.dialect.lostRace(err) || errors.As(err, &begin) && db.dialect.away(begin.err)
}

// endOf adds why the context ended to an error that came of it: drivers report
// that each in its own way.
func endOf(ctx context.Context, err error) error {
	if ended := ctx.Err(); err != nil && ended != nil && !errors.Is(err, ended) {
		return fmt.Errorf("%w: %w", ended, err)
	}
	return err
}

// beginError means that nothing of the transaction has reached the database.
type beginError struct{ err error }

func (e *beginError) Error() string { return "begin: " + e.err.Error() }
func (e *beginError) Unwrap() error { return e.err }

// pause waits longer with every attempt, at random so that two losers do not
// meet again, and reports whether there is time left.
func pause(ctx context.Context, attempt int) bool {
	limit := time.Millisecond << min(attempt, 7)
	timer := time.NewTimer(rand.N(limit) + time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (db *DB) attempt(ctx context.Context, pool *sql.DB, options *sql.TxOptions, fn func(tx *Tx) error) error {
	begun, err := pool.BeginTx(ctx, options)
	if err != nil {
		return &beginError{err}
	}
	// After a commit this does nothing.
	defer func() { _ = begun.Rollback() }()
	tx := &Tx{tx: begun, dialect: db.dialect}
	if err := fn(tx); err != nil {
		return err
	}
	if tx.failed != nil {
		return tx.failed
	}
	// A context that ended makes Commit roll back, which is no unknown outcome.
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return db.commit(begun)
}

func (db *DB) commit(begun *sql.Tx) error {
	err := begun.Commit()
	switch {
	case err == nil:
		return nil
	case db.dialect.answered(err):
		return fmt.Errorf("commit: %w", db.dialect.classify(err))
	default:
		return fmt.Errorf("commit: %w: %w", ErrUnknownOutcome, err)
	}
}
