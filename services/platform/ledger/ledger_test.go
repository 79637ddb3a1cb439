package ledger_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

func TestMain(m *testing.M) {
	switch path := os.Getenv(pathVariable); os.Getenv(roleVariable) {
	case "writer":
		exitWith(writeForEver(path))
	case "holder":
		exitWith(holdForEver(path))
	}
	testenv.Main(m)
}

// With these variables the test binary is another process that uses the ledger.
const (
	roleVariable = "LEDGER_TEST_ROLE"
	pathVariable = "LEDGER_TEST_PATH"
)

func exitWith(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// otherProcess is this test binary in another role. What it prints comes line
// by line; it is killed by kill or when the test ends.
func otherProcess(t *testing.T, role, path string) (lines *bufio.Scanner, kill func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+role, pathVariable+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}
	t.Cleanup(kill)
	return bufio.NewScanner(out), kill
}

// openAt opens a SQLite file outside of a test.
func openAt(ctx context.Context, path string) (*ledger.DB, error) {
	cfg := ledger.DefaultConfig()
	cfg.Path = path
	return ledger.Open(ctx, cfg, zerolog.Nop())
}

// must runs one statement in a transaction of its own.
func must(t testing.TB, db *ledger.DB, statement string, args ...any) {
	t.Helper()
	if err := execute(t.Context(), db, statement, args...); err != nil {
		t.Fatalf("%s %v: %v", statement, args, err)
	}
}

func execute(ctx context.Context, db *ledger.DB, statement string, args ...any) error {
	return db.Tx(ctx, func(tx *ledger.Tx) error {
		_, err := tx.Exec(ctx, statement, args...)
		return err
	})
}

// number is the result of a query for one number.
func number(t testing.TB, db *ledger.DB, query string, args ...any) int64 {
	t.Helper()
	var n int64
	err := db.Read(t.Context(), func(tx *ledger.Tx) error {
		return tx.QueryRow(t.Context(), query, args...).Scan(&n)
	})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

const insertResource = `INSERT INTO resources (name, kind, parent, uid, revision, state, body, create_time, update_time)
	VALUES ($1, 'thing', $2, $3, 1, '', '{}', 0, 0)`

// resource makes a resource whose parent is the name without its last two parts.
func resource(t testing.TB, db *ledger.DB, name string) {
	t.Helper()
	must(t, db, insertResource, name, parentOf(name), "uid of "+name)
}

func parentOf(name string) string {
	parts := strings.Split(name, "/")
	return strings.Join(parts[:len(parts)-2], "/")
}
