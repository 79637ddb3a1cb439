package events

import (
	"context"

	"github.com/tollway/tollway/services/platform/clickhouse"
)

// ClickHouse reads through a pool of connections, which should be those of an
// account that may only read.
func ClickHouse(db *clickhouse.DB) Store { return clickhouseStore{db} }

type clickhouseStore struct{ db *clickhouse.DB }

func (s clickhouseStore) Query(ctx context.Context, sql string, params map[string]any, scan func(Rows) error) error {
	rows, err := s.db.Query(ctx, sql, params)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
