package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"time"

	client "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Oldest server that is supported, and tested by its behaviour rather than by
// its name: 25.8 is the long-term release whose deduplication of dependent
// views Tollway relies on.
const (
	oldestMajor = 25
	oldestMinor = 8
)

// Rows is the answer to a query; the caller closes it.
type Rows = driver.Rows

// Row is the answer to a query of one row.
type Row = driver.Row

// DB is a pool of connections to one server, or to servers that answer alike:
// replicas of a shard, or nodes of a cluster that are asked about all shards.
type DB struct {
	cfg     Config
	conn    driver.Conn
	http    *http.Client
	inserts chan struct{} // one slot per Arrow insert in flight
}

// Open connects and checks the version of the server.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	tlsConfig, err := cfg.TLS.config()
	if err != nil {
		return nil, err
	}
	settings := client.Settings{"max_execution_time": seconds(cfg.MaxExecutionTime)}
	if cfg.Cluster != "" {
		// A Distributed table asks the replica that is written to, the first one
		// that is up: another may not have everything yet.
		settings["load_balancing"] = "in_order"
	}
	conn, err := client.Open(&client.Options{
		Protocol:         client.Native,
		TLS:              tlsConfig,
		Addr:             cfg.Addresses,
		Auth:             client.Auth{Database: cfg.Database, Username: cfg.Username, Password: cfg.Password.Reveal()},
		Compression:      &client.Compression{Method: client.CompressionLZ4},
		DialTimeout:      cfg.DialTimeout,
		ReadTimeout:      cfg.MaxExecutionTime + readSlack,
		MaxOpenConns:     cfg.MaxConnections,
		MaxIdleConns:     cfg.MaxConnections,
		ConnOpenStrategy: client.ConnOpenInOrder,
		Settings:         settings,
	})
	if err != nil {
		return nil, fmt.Errorf("open clickhouse: %w", err)
	}
	db := &DB{cfg: cfg, conn: conn, http: insertClient(cfg, tlsConfig), inserts: make(chan struct{}, cfg.MaxInserts)}
	if err := db.checkVersion(ctx); err != nil {
		db.Close()
		return nil, fmt.Errorf("open clickhouse at %v: %w", cfg.Addresses, err)
	}
	return db, nil
}

// readSlack is what a server gets beyond its own time limit to say that the
// limit was reached.
const readSlack = 10 * time.Second

func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

func (db *DB) checkVersion(ctx context.Context) error {
	if err := db.Ping(ctx); err != nil {
		return err
	}
	server, err := db.conn.ServerVersion()
	if err != nil {
		return wrap(err)
	}
	v := server.Version
	if v.Major < oldestMajor || v.Major == oldestMajor && v.Minor < oldestMinor {
		return fmt.Errorf("the server is version %d.%d and Tollway needs %d.%d or newer", v.Major, v.Minor, oldestMajor, oldestMinor)
	}
	return nil
}

// Close ends all connections.
func (db *DB) Close() error {
	db.http.CloseIdleConnections()
	return db.conn.Close()
}

// Database is the one that unqualified table names belong to.
func (db *DB) Database() string { return db.cfg.Database }

// Config is what the pool was opened with.
func (db *DB) Config() Config { return db.cfg }

// Ping asks the server for a sign of life.
func (db *DB) Ping(ctx context.Context) error { return wrapIn(ctx, db.conn.Ping(ctx)) }

// Option changes one statement.
type Option func(*statement)

type statement struct {
	settings client.Settings
	queryID  string
}

// WithSettings passes settings of the server for this statement.
func WithSettings(settings map[string]any) Option {
	return func(s *statement) {
		for name, value := range settings {
			s.settings[name] = plain(value)
		}
	}
}

// WithQueryID names the statement in the server's process list.
func WithQueryID(id string) Option {
	return func(s *statement) { s.queryID = id }
}

// Limits stop a statement that asks for too much; zero means no limit of its
// own.
type Limits struct {
	ReadRows    uint64
	ReadBytes   uint64
	ResultRows  uint64
	MemoryBytes uint64
	Time        time.Duration
}

// WithLimits makes the server refuse rather than cut the answer short.
func WithLimits(l Limits) Option {
	return func(s *statement) {
		for name, value := range map[string]uint64{
			"max_rows_to_read": l.ReadRows, "max_bytes_to_read": l.ReadBytes,
			"max_result_rows": l.ResultRows, "max_memory_usage": l.MemoryBytes,
		} {
			if value > 0 {
				s.settings[name] = value
			}
		}
		if l.Time > 0 {
			s.settings["max_execution_time"] = seconds(l.Time)
		}
		for _, name := range []string{"read_overflow_mode", "result_overflow_mode", "timeout_overflow_mode"} {
			s.settings[name] = "throw"
		}
	}
}

// Query runs a statement that answers with rows. Parameters stand in the text
// as {name:Type} and never become part of it. A time travels as seconds since
// 1970, which the server reads only from the year 2001 on.
func (db *DB) Query(ctx context.Context, sql string, params map[string]any, opts ...Option) (Rows, error) {
	args, err := arguments(sql, params)
	if err != nil {
		return nil, err
	}
	rows, err := db.conn.Query(prepare(ctx, opts), sql, args...)
	if err != nil {
		return nil, wrapIn(ctx, err)
	}
	return wrappedRows{rows, ctx}, nil
}

// QueryRow runs a statement that answers with one row; its error comes with
// Scan. No row is ErrNoRows.
func (db *DB) QueryRow(ctx context.Context, sql string, params map[string]any, opts ...Option) Row {
	args, err := arguments(sql, params)
	if err != nil {
		return failedRow{err}
	}
	return wrappedRow{db.conn.QueryRow(prepare(ctx, opts), sql, args...), ctx}
}

// Select reads all rows into a slice of structs with ch tags. It is for
// answers that are known to be small.
func (db *DB) Select(ctx context.Context, dest any, sql string, params map[string]any, opts ...Option) error {
	args, err := arguments(sql, params)
	if err != nil {
		return err
	}
	return wrapIn(ctx, db.conn.Select(prepare(ctx, opts), dest, sql, args...))
}

// Exec runs a statement without an answer.
func (db *DB) Exec(ctx context.Context, sql string, params map[string]any, opts ...Option) error {
	args, err := arguments(sql, params)
	if err != nil {
		return err
	}
	return wrapIn(ctx, db.conn.Exec(prepare(ctx, opts), sql, args...))
}

func prepare(ctx context.Context, opts []Option) context.Context {
	if len(opts) == 0 {
		return ctx
	}
	s := statement{settings: client.Settings{}}
	for _, opt := range opts {
		opt(&s)
	}
	options := []client.QueryOption{client.WithSettings(s.settings)}
	if s.queryID != "" {
		options = append(options, client.WithQueryID(s.queryID))
	}
	return client.Context(ctx, options...)
}

// plain turns a Go bool into what the server calls one.
func plain(value any) any {
	if b, ok := value.(bool); ok {
		if b {
			return 1
		}
		return 0
	}
	return value
}

var parameterPattern = regexp.MustCompile(`\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*:`)

// arguments refuses parameters that the text does not have: the client would
// fall back to pasting values into the text.
func arguments(sql string, params map[string]any) ([]any, error) {
	if len(params) == 0 {
		return nil, nil
	}
	var wanted []string
	for _, match := range parameterPattern.FindAllStringSubmatch(sql, -1) {
		wanted = append(wanted, match[1])
	}
	args := make([]any, 0, len(params))
	for name, value := range params {
		if !slices.Contains(wanted, name) {
			return nil, fmt.Errorf("the statement has no parameter {%s:…}", name)
		}
		args = append(args, client.Named(name, value))
	}
	return args, nil
}

type failedRow struct{ err error }

func (r failedRow) Err() error           { return r.err }
func (r failedRow) Scan(...any) error    { return r.err }
func (r failedRow) ScanStruct(any) error { return r.err }

type wrappedRow struct {
	row driver.Row
	ctx context.Context
}

func (r wrappedRow) Err() error                { return wrapIn(r.ctx, r.row.Err()) }
func (r wrappedRow) Scan(dest ...any) error    { return wrapIn(r.ctx, r.row.Scan(dest...)) }
func (r wrappedRow) ScanStruct(dest any) error { return wrapIn(r.ctx, r.row.ScanStruct(dest)) }

type wrappedRows struct {
	driver.Rows
	ctx context.Context
}

func (r wrappedRows) Err() error   { return wrapIn(r.ctx, r.Rows.Err()) }
func (r wrappedRows) Close() error { return wrapIn(r.ctx, r.Rows.Close()) }

var errNoHTTP = errors.New("clickhouse: http_addresses is empty, and inserts of Arrow streams need one")
