package ledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"time"
)

// step is one migration file, ready to run.
type step struct {
	name     string // without the dialect, so that both databases have the same list
	checksum string
	text     string
}

// Where the databases must differ there are two files for one step.
var stepPattern = regexp.MustCompile(`^(\d{4}_[a-z0-9_]+)(?:\.(sqlite|postgres))?\.sql$`)

// Migrate brings the database to the newest schema and returns how many steps
// it ran. Each step is a transaction of its own together with the record that
// it is done; of processes that migrate at the same time one runs a step and
// the others wait. A database that is up to date is only read. A step that was
// changed after it had been applied, or one that this program does not know,
// is an error.
//
// In a file ${text}, ${int64}, ${bytes}, ${identity} (a generated number that
// is the primary key) and ${strict} (after a table's closing bracket) stand for
// what the database calls them.
func (db *DB) Migrate(ctx context.Context, files fs.FS) (int, error) {
	steps, err := readSteps(files, db.cfg.Driver, db.dialect.variables())
	if err != nil {
		return 0, err
	}
	pool, own, err := db.dialect.migrator(ctx, db.writer)
	if err != nil {
		return 0, fmt.Errorf("migrate: %w", err)
	}
	if own {
		defer func() { _ = pool.Close() }() // nothing is pending in it
	}
	pending, err := db.pending(ctx, pool, steps)
	if err != nil {
		return 0, fmt.Errorf("migrate: %w", err)
	}
	ran := 0
	for _, s := range pending {
		did, err := db.apply(ctx, pool, s)
		if err != nil {
			return ran, fmt.Errorf("migration %s: %w", s.name, err)
		}
		if did {
			ran++
			db.log.Info().Str("step", s.name).Msg("ledger database migrated")
		}
	}
	return ran, nil
}

func readSteps(files fs.FS, driver string, variables map[string]string) ([]step, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var steps []step
	dialects := map[string][]string{} // of each step that has files of its own for each
	for _, file := range names {
		match := stepPattern.FindStringSubmatch(file)
		if match == nil {
			return nil, fmt.Errorf("migration %s: want a name like 0001_resources.sql", file)
		}
		if match[2] != "" {
			dialects[match[1]] = append(dialects[match[1]], match[2])
		}
		if match[2] != "" && match[2] != driver {
			continue
		}
		s, err := readStep(files, file, match[1], variables)
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", file, err)
		}
		if len(steps) > 0 && steps[len(steps)-1].name[:4] == s.name[:4] {
			return nil, fmt.Errorf("migrations %s and %s have the same number", steps[len(steps)-1].name, s.name)
		}
		steps = append(steps, s)
	}
	for name, have := range dialects {
		if len(have) != 2 {
			return nil, fmt.Errorf("migration %s is there for %s only", name, have[0])
		}
	}
	return steps, nil
}

func readStep(files fs.FS, file, name string, variables map[string]string) (step, error) {
	raw, err := fs.ReadFile(files, file)
	if err != nil {
		return step{}, err
	}
	text, err := expand(string(raw), variables)
	if err != nil {
		return step{}, err
	}
	sum := sha256.Sum256(raw)
	return step{name: name, checksum: hex.EncodeToString(sum[:]), text: text}, nil
}

var variablePattern = regexp.MustCompile(`\$\{([^}]*)\}`)

func expand(text string, variables map[string]string) (string, error) {
	var unknown error
	text = variablePattern.ReplaceAllStringFunc(text, func(found string) string {
		value, known := variables[found[2:len(found)-1]]
		if !known && unknown == nil {
			unknown = fmt.Errorf("unknown variable %s", found)
		}
		return value
	})
	return text, unknown
}

// pending are the steps that are not recorded yet. It asks without a lock, so
// that a program may start without the right to change the schema.
func (db *DB) pending(ctx context.Context, pool *sql.DB, steps []step) ([]step, error) {
	var tables int
	if err := pool.QueryRowContext(ctx, db.dialect.countTables(), "schema_migrations").Scan(&tables); err != nil {
		return nil, err
	}
	if tables == 0 {
		return steps, nil
	}
	done, err := recorded(ctx, pool)
	if err != nil {
		return nil, err
	}
	var left []step
	for _, s := range steps {
		checksum, was := done[s.name]
		if !was {
			left = append(left, s)
		} else if checksum != s.checksum {
			return nil, changed(s)
		}
		delete(done, s.name)
	}
	for name := range done {
		return nil, fmt.Errorf("the database has the step %s, which this version of the program does not know: use a newer one", name)
	}
	return left, nil
}

func changed(s step) error {
	return fmt.Errorf("step %s was changed after it had been applied; restore it and add a new one instead", s.name)
}

func recorded(ctx context.Context, pool *sql.DB) (map[string]string, error) {
	rows, err := pool.QueryContext(ctx, `SELECT name, checksum FROM schema_migrations`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // its error is that of rows.Err
	done := map[string]string{}
	for rows.Next() {
		var name, checksum string
		if err := rows.Scan(&name, &checksum); err != nil {
			return nil, err
		}
		done[name] = checksum
	}
	return done, rows.Err()
}

// apply runs one step unless another process was faster.
func (db *DB) apply(ctx context.Context, pool *sql.DB, s step) (bool, error) {
	// Each statement must see what was committed while it waited for the lock, so
	// this is the one place that is not serializable.
	tx, err := pool.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback() }() // after a commit this does nothing
	if err := db.dialect.lockMigrations(ctx, tx); err != nil {
		return false, fmt.Errorf("wait for other migrations: %w", err)
	}
	if done, err := alreadyApplied(ctx, tx, db.dialect, s); done || err != nil {
		return false, err
	}
	if _, err := tx.ExecContext(ctx, s.text); err != nil {
		return false, err
	}
	if err := db.dialect.checkMigrated(ctx, tx); err != nil {
		return false, err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO schema_migrations (name, checksum, applied_at) VALUES ($1, $2, $3)`,
		s.name, s.checksum, time.Now().UnixMicro())
	if err != nil {
		return false, fmt.Errorf("record: %w", err)
	}
	return true, tx.Commit()
}

func alreadyApplied(ctx context.Context, tx *sql.Tx, d dialect, s step) (bool, error) {
	table, err := expand(`CREATE TABLE IF NOT EXISTS schema_migrations (
		name ${text} NOT NULL PRIMARY KEY, checksum ${text} NOT NULL, applied_at ${int64} NOT NULL) ${strict}`, d.variables())
	if err != nil {
		return false, err
	}
	if _, err := tx.ExecContext(ctx, table); err != nil {
		return false, err
	}
	var checksum string
	err = tx.QueryRowContext(ctx, `SELECT checksum FROM schema_migrations WHERE name = $1`, s.name).Scan(&checksum)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err == nil && checksum != s.checksum:
		return false, changed(s)
	}
	return true, err
}
