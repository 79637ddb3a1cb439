package load

import (
	"context"

	"github.com/tollway/tollway/services/platform/clickhouse"
)

// AsWriter runs a statement that writes a partition's calls under the query id
// of its writers, and waits while another one runs.
func AsWriter(ctx context.Context, db *clickhouse.DB, partition uint16, statement string, params map[string]any, opts ...clickhouse.Option) error {
	opts = append(opts, clickhouse.WithQueryID(writerID(db, partition)))
	return exclusively(ctx, func() error { return db.Exec(ctx, statement, params, opts...) })
}
