package oracle

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/tollway/tollway/loadtest/gen"
)

// Target is where the product keeps what it took.
type Target struct {
	Brokers  []string
	Login    Login    // at the brokers
	Native   []string // ClickHouse addresses, native protocol
	Username string
	Password string
	Database string
	Topic    string
	Group    string
}

// Login is by SCRAM-SHA-256; without a name there is none.
type Login struct{ Username, Password string }

// Topic and group of the product's configuration, unless it is changed.
const (
	Topic = "tollway.calls.v1"
	Group = "tollway-pipelines"
)

// Open connects to ClickHouse.
func (t Target) Open() (driver.Conn, error) {
	return clickhouse.Open(&clickhouse.Options{
		Addr: t.Native, DialTimeout: 5 * time.Second, ReadTimeout: time.Minute,
		Auth: clickhouse.Auth{Database: t.Database, Username: t.Username, Password: t.Password},
	})
}

// ReadStore reads everything that is kept.
func ReadStore(ctx context.Context, t Target) (*Store, error) {
	db, err := t.Open()
	if err != nil {
		return nil, err
	}
	defer db.Close()
	s := &Store{Rollups: map[string]Rollup{}}
	if err := readCalls(ctx, db, s); err != nil {
		return nil, fmt.Errorf("read calls: %w", err)
	}
	if err := readDiscards(ctx, db, s); err != nil {
		return nil, fmt.Errorf("read discards: %w", err)
	}
	for _, tier := range Tiers {
		if s.Rollups[tier.Table], err = readTier(ctx, db, tier); err != nil {
			return nil, fmt.Errorf("read %s: %w", tier.Table, err)
		}
	}
	if s.Log, s.Partition, err = t.readLog(ctx); err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	return s, nil
}

func query(ctx context.Context, db driver.Conn, text string, row func(scan func(...any) error) error) error {
	rows, err := db.Query(ctx, text)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func readCalls(ctx context.Context, db driver.Conn, s *Store) error {
	if err := db.QueryRow(ctx, "SELECT count() FROM calls").Scan(&s.CallRows); err != nil {
		return err
	}
	const text = `SELECT id, source, toUnixTimestamp64Micro(time), method, host, status, api, operation, upstream, version,
		total_us, upstream_us, request_bytes, response_bytes, account, product, partition, offset, row,
		fault, region, environment, gateway, app, subscription, plan, denied FROM calls FINAL`
	return query(ctx, db, text, func(scan func(...any) error) error {
		var c Stored
		var id string
		var status, partition uint16
		e := &c.Event
		err := scan(&id, &e.Source, &e.TimeUS, &e.Method, &e.Host, &status, &e.API, &e.Operation, &e.Upstream, &e.Version,
			&e.TotalUS, &e.UpstreamUS, &e.RequestBytes, &e.ResponseBytes, &e.Account, &e.Product, &partition, &c.Place.Offset, &c.Place.Row,
			&c.Fault, &c.Region, &c.Environment, &c.Gateway, &c.App, &c.Subscription, &c.Plan, &c.Denied)
		if err != nil {
			return err
		}
		c.ID, e.Status, c.Place.Partition = gen.ID([]byte(id)), int(status), int(partition)
		s.Calls = append(s.Calls, c)
		return nil
	})
}

func readDiscards(ctx context.Context, db driver.Conn, s *Store) error {
	return query(ctx, db, "SELECT id, partition, offset, row, fate FROM discards FINAL", func(scan func(...any) error) error {
		var d Discard
		var id string
		var partition uint16
		if err := scan(&id, &partition, &d.Place.Offset, &d.Place.Row, &d.Fate); err != nil {
			return err
		}
		d.ID, d.Place.Partition = gen.ID([]byte(id)), int(partition)
		s.Discards = append(s.Discards, d)
		return nil
	})
}

func readTier(ctx context.Context, db driver.Conn, t Tier) (Rollup, error) {
	dimensions := t.Dimensions()
	latency := "toInt64(0), toInt64(0), toInt64(0), CAST(map(), 'Map(UInt16, Int64)'), CAST(map(), 'Map(UInt16, Int64)')"
	if !t.Usage {
		latency = "sum(total_us), sum(upstream_us), max(total_max_us), sumMap(total_histogram), sumMap(upstream_histogram)"
	}
	keys := strings.NewReplacer("toString(status)", "status").Replace(strings.Join(dimensions, ", "))
	text := fmt.Sprintf(`SELECT toInt64(toUnixTimestamp(bucket)), partition, [%s], sum(calls), sum(request_bytes), sum(response_bytes), %s
		FROM %s GROUP BY bucket, partition, %s`, asStrings(dimensions), latency, t.Table, keys)
	out := Rollup{}
	err := query(ctx, db, text, func(scan func(...any) error) error {
		var bucket int64
		var partition uint16
		var names []string
		s := Sums{}
		err := scan(&bucket, &partition, &names, &s.Calls, &s.RequestBytes, &s.ResponseBytes,
			&s.TotalUS, &s.UpstreamUS, &s.TotalMaxUS, &s.Total, &s.Upstream)
		if err != nil {
			return err
		}
		dropZeros(s.Total)
		dropZeros(s.Upstream)
		out[Key(bucket, int(partition), names...)] = s
		return nil
	})
	return out, err
}

func asStrings(columns []string) string {
	out := make([]string, len(columns))
	for i, c := range columns {
		out[i] = "toString(" + c + ")"
	}
	return strings.Join(out, ", ")
}

func dropZeros(m map[uint16]int64) {
	for k, v := range m {
		if v == 0 {
			delete(m, k)
		}
	}
}
