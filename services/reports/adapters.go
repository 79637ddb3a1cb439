package reports

import (
	"context"

	"github.com/tollway/tollway/services/platform/auth"
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

// Authenticated is the caller that the guard of the API has put into the
// context. Consumers are tied to their account.
func Authenticated(ctx context.Context) (Caller, error) {
	p, ok := auth.FromContext(ctx)
	if !ok {
		return Caller{}, auth.ErrUnauthenticated
	}
	return Caller{Account: p.Account, Restricted: p.Role == auth.Consumer}, nil
}
