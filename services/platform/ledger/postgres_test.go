package ledger_test

import (
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rs/zerolog"

	"github.com/tollway/tollway/services/platform/config"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
	"github.com/tollway/tollway/sql"
)

const endOthers = `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
	WHERE datname = current_database() AND pid <> pg_backend_pid()`

// Connections that broke while nobody used them are noticed at the next begin.
func TestRealPostgresConnectionsBreak(t *testing.T) {
	cfg := testenv.PostgresConfig(t)
	db, killer := testenv.OpenLedger(t, cfg), testenv.OpenLedger(t, cfg)
	must(t, db, `CREATE TABLE a (x BIGINT NOT NULL)`)
	for i := range 5 {
		number(t, killer, endOthers)
		must(t, db, `INSERT INTO a (x) VALUES ($1)`, i)
	}
	if n := number(t, db, `SELECT count(*) FROM a`); n != 5 {
		t.Errorf("%d rows, want 5", n)
	}
}

// A server that is started again breaks all connections and takes none for a
// while; a transaction that begins meanwhile waits.
func TestRealPostgresComesBack(t *testing.T) {
	cfg := testenv.PostgresConfig(t)
	address, err := url.Parse(cfg.URL.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	door := newDoor(t, address.Host)
	address.Host = door.addr()
	cfg.URL = config.Secret(address.String())
	db := testenv.OpenLedger(t, cfg)
	must(t, db, `CREATE TABLE a (x BIGINT NOT NULL)`)
	door.breakAll(3)
	must(t, db, `INSERT INTO a (x) VALUES (1)`)
	if left := door.refuse.Load(); left > 0 {
		t.Errorf("%d connections were still to be refused", left)
	}
}

// door passes connections on to a server, or does not.
type door struct {
	listener net.Listener
	server   string
	refuse   atomic.Int64 // so many connections
	mu       sync.Mutex
	open     []net.Conn
	wg       sync.WaitGroup
}

func newDoor(t *testing.T, server string) *door {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{listener: listener, server: server}
	d.wg.Go(d.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		d.breakAll(0)
		d.wg.Wait()
	})
	return d
}

func (d *door) addr() string { return d.listener.Addr().String() }

func (d *door) accept() {
	for {
		client, err := d.listener.Accept()
		if err != nil {
			return
		}
		if d.refuse.Add(-1) >= 0 {
			_ = client.Close()
			continue
		}
		server, err := net.Dial("tcp", d.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		d.mu.Lock()
		d.open = append(d.open, client, server)
		d.mu.Unlock()
		for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
			d.wg.Go(func() {
				_, _ = io.Copy(pair[0], pair[1])
				_, _ = client.Close(), server.Close()
			})
		}
	}
}

// breakAll ends what is open and refuses the next connections.
func (d *door) breakAll(refuse int64) {
	d.refuse.Store(refuse)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, conn := range d.open {
		_ = conn.Close()
	}
	d.open = nil
}

// Whoever loses the connection at the commit is told that the outcome is unknown.
func TestRealPostgresCommitWithoutAnswer(t *testing.T) {
	cfg := testenv.PostgresConfig(t)
	db, killer := testenv.OpenLedger(t, cfg), testenv.OpenLedger(t, cfg)
	must(t, db, `CREATE TABLE a (x BIGINT NOT NULL)`)
	runs := 0
	err := db.Tx(t.Context(), func(tx *ledger.Tx) error {
		runs++
		_, err := tx.Exec(t.Context(), `INSERT INTO a (x) VALUES (1)`)
		number(t, killer, endOthers)
		return err
	})
	if !errors.Is(err, ledger.ErrUnknownOutcome) || runs != 1 {
		t.Errorf("after %d runs the error is %v", runs, err)
	}
	// This time it was the one that is not there.
	if n := number(t, db, `SELECT count(*) FROM a`); n != 0 {
		t.Errorf("%d rows, want none", n)
	}
}

func TestRealPostgresRefusesWrongPassword(t *testing.T) {
	cfg := testenv.PostgresConfig(t)
	cfg.URL = withUser(t, cfg.URL, "tollway", "wrong-secret")
	_, err := ledger.Open(t.Context(), cfg, zerolog.Nop())
	if err == nil {
		t.Fatal("any password opens the database")
	}
	if text := err.Error(); strings.Contains(text, "wrong-secret") {
		t.Errorf("the error shows the password: %s", text)
	}
}

// A service may run with an account that cannot change the schema.
func TestRealPostgresWithoutRights(t *testing.T) {
	cfg := testenv.PostgresConfig(t)
	owner := testenv.OpenLedger(t, cfg)
	if _, err := owner.Migrate(t.Context(), sql.LedgerMigrations); err != nil {
		t.Fatal(err)
	}
	// The server goes with the tests, and the account with it.
	must(t, owner, `CREATE ROLE service LOGIN PASSWORD 'service'`)
	must(t, owner, `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO service`)
	cfg.URL = withUser(t, cfg.URL, "service", "service")
	service := testenv.OpenLedger(t, cfg)
	if done, err := service.Migrate(t.Context(), sql.LedgerMigrations); err != nil || done != 0 {
		t.Fatalf("did %d steps, error %v", done, err)
	}
	resource(t, service, "accounts/acme")
	if err := execute(t.Context(), service, `CREATE TABLE x (a INTEGER)`); err == nil {
		t.Error("the account of the service may create tables, so this test shows nothing")
	}
}

func withUser(t *testing.T, address config.Secret, user, password string) config.Secret {
	t.Helper()
	parsed, err := url.Parse(address.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	parsed.User = url.UserPassword(user, password)
	return config.Secret(parsed.String())
}
