package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/platform/ledger"
	queries "github.com/tollway/tollway/sql"
)

var (
	auditAll   = queries.LedgerQuery("audit_all")
	auditBelow = queries.LedgerQuery("audit_below")
)

// AuditQuery says which entries are wanted: about a resource and all below it,
// by an actor, in [Start, End). What is empty does not limit.
type AuditQuery struct {
	Name, Actor string
	Start, End  time.Time
	// Before is the id before which entries are wanted, 0 for the newest.
	Before int64
	Limit  int
}

// Audit reads a page of the log, newest first.
func Audit(ctx context.Context, tx *ledger.Tx, q AuditQuery) ([]*catalogv1.AuditEntry, error) {
	before, start, end := open, int64(0), open
	if q.Before > 0 {
		before = q.Before
	}
	if !q.Start.IsZero() {
		start = q.Start.UnixMicro()
	}
	if !q.End.IsZero() {
		end = q.End.UnixMicro()
	}
	args := []any{before, start, end, q.Actor}
	text := auditAll
	if q.Name != "" {
		text = auditBelow
		args = append(args, q.Name)
	}
	entries, err := ledger.Select(ctx, tx, scanAudit, text, append(args, q.Limit)...)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	return entries, nil
}

func scanAudit(row ledger.Row) (*catalogv1.AuditEntry, error) {
	var e catalogv1.AuditEntry
	var at int64
	var before, after sql.NullString
	if err := row.Scan(&e.Id, &at, &e.Actor, &e.Role, &e.Method, &e.Name, &before, &after); err != nil {
		return nil, err
	}
	e.Time = timestamppb.New(time.UnixMicro(at))
	var err error
	if e.Before, err = decodeResource(before); err != nil {
		return nil, err
	}
	e.After, err = decodeResource(after)
	return &e, err
}

func decodeResource(text sql.NullString) (*catalogv1.Resource, error) {
	if !text.Valid {
		return nil, nil
	}
	var r catalogv1.Resource
	if err := readJSON.Unmarshal([]byte(text.String), &r); err != nil {
		return nil, fmt.Errorf("decode audit entry: %w", err)
	}
	return &r, nil
}
