// Package store keeps the resources of the catalog in the ledger database.
//
// In come messages and transactions; out come stored versions. Every write
// leaves, in the caller's transaction, the resource with its references and
// unique keys, a row of the audit log and a row of the outbox. What the
// transaction had not committed is gone after a crash, all of it.
package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/sql"
)

// Stored is one version of a resource.
type Stored struct {
	Kind     *kind.Kind
	Name     string
	Parent   string
	UID      string
	Revision int64
	Create   time.Time
	Update   time.Time
	// Message has everything that the API shows, its etag too. Not to be changed.
	Message kind.Resource
	// SecretHash is that of an API key or a token.
	SecretHash []byte
}

// Etag changes with every version, and is never that of another resource.
func etag(uid string, revision int64) string {
	return strconv.FormatInt(revision, 10) + "-" + uid[:12]
}

var (
	resourceGet      = sql.LedgerQuery("resource_get")
	resourceKind     = sql.LedgerQuery("resource_kind")
	resourcesBelow   = sql.LedgerQuery("resources_below")
	resourcesBetween = sql.LedgerQuery("resources_between")
	resourceUsers    = sql.LedgerQuery("resource_users")
	resourceUsedIn   = sql.LedgerQuery("resource_used_in")
	keyOwner         = sql.LedgerQuery("key_owner")
	periodOverlap    = sql.LedgerQuery("period_overlap")
)

var (
	writeJSON = protojson.MarshalOptions{UseProtoNames: true}
	// A program that was put back to an older version reads what a newer one
	// wrote.
	readJSON = protojson.UnmarshalOptions{DiscardUnknown: true}
)

// Get reads a resource; ledger.ErrNotFound if there is none.
func Get(ctx context.Context, tx *ledger.Tx, name string) (*Stored, error) {
	s, err := scan(tx.QueryRow(ctx, resourceGet, name))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return s, nil
}

func scan(row ledger.Row) (*Stored, error) {
	var s Stored
	var id, body string
	var created, updated, used int64
	if err := row.Scan(&s.Name, &id, &s.Parent, &s.UID, &s.Revision, &body, &created, &updated, &used); err != nil {
		return nil, err
	}
	var record catalogv1.Record
	if err := readJSON.Unmarshal([]byte(body), &record); err != nil {
		return nil, fmt.Errorf("decode %s: %w", s.Name, err)
	}
	k, m, ok := kind.Unwrap(record.GetResource())
	if !ok || k.ID != id {
		return nil, fmt.Errorf("decode %s: it is no %s", s.Name, id)
	}
	s.Kind, s.Message, s.SecretHash = k, m.(kind.Resource), record.GetSecretHash()
	s.Create, s.Update = time.UnixMicro(created).UTC(), time.UnixMicro(updated).UTC()
	if t, ok := m.(*catalogv1.Token); ok && used > 0 {
		t.LastUsedTime = timestamppb.New(time.UnixMicro(used))
	}
	return &s, nil
}

// KindOf is the kind of a resource that is there, nil if there is none.
func KindOf(ctx context.Context, tx *ledger.Tx, name string) (*kind.Kind, error) {
	var id string
	err := tx.QueryRow(ctx, resourceKind, name).Scan(&id)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", name, err)
	}
	k, ok := kind.ByID(id)
	if !ok {
		return nil, fmt.Errorf("%s is a %q, which this program does not know", name, id)
	}
	return k, nil
}

// Place is where a page begins: after this resource below this parent.
type Place struct{ Parent, Name string }

// Below reads up to limit resources of one kind below one parent, by name.
func Below(ctx context.Context, tx *ledger.Tx, k *kind.Kind, parent string, after Place, limit int) ([]*Stored, error) {
	out, err := ledger.Select(ctx, tx, scan, resourcesBelow, k.ID, parent, after.Name, limit)
	if err != nil {
		return nil, fmt.Errorf("list %s below %q: %w", k.Segment, parent, err)
	}
	return out, nil
}

// Between reads up to limit resources of one kind whose parents' names begin
// with a prefix that ends in a slash, by parent and name.
func Between(ctx context.Context, tx *ledger.Tx, k *kind.Kind, prefix string, after Place, limit int) ([]*Stored, error) {
	end := prefix[:len(prefix)-1] + "0" // the character after the slash
	out, err := ledger.Select(ctx, tx, scan, resourcesBetween, k.ID, prefix, end, after.Parent, after.Name, limit)
	if err != nil {
		return nil, fmt.Errorf("list %s below %q: %w", k.Segment, prefix, err)
	}
	return out, nil
}

// TimeOrder is the order in which resources were made, or changed last, and of
// their names where that was at the same time. Desc turns both round.
type TimeOrder struct{ Update, Desc bool }

var byTime = map[TimeOrder]string{
	{}: sql.LedgerQuery("resources_by_create_time"), {Desc: true}: sql.LedgerQuery("resources_by_create_time_desc"),
	{Update: true}: sql.LedgerQuery("resources_by_update_time"), {Update: true, Desc: true}: sql.LedgerQuery("resources_by_update_time_desc"),
}

// Moment is a place in such an order.
type Moment struct {
	At   time.Time
	Name string
}

// Beginning comes before every resource.
func (o TimeOrder) Beginning() Moment {
	if o.Desc {
		return Moment{At: time.UnixMicro(open)}
	}
	return Moment{At: time.UnixMicro(0)}
}

// Of is the place of a resource.
func (o TimeOrder) Of(s *Stored) Moment {
	if o.Update {
		return Moment{s.Update, s.Name}
	}
	return Moment{s.Create, s.Name}
}

// ByTime reads up to limit resources of one kind that come after a place.
func ByTime(ctx context.Context, tx *ledger.Tx, k *kind.Kind, o TimeOrder, after Moment, limit int) ([]*Stored, error) {
	out, err := ledger.Select(ctx, tx, scan, byTime[o], k.ID, after.At.UnixMicro(), after.Name, limit)
	if err != nil {
		return nil, fmt.Errorf("list %s by time: %w", k.Segment, err)
	}
	return out, nil
}

// Users are the first few that keep a resource from being deleted, and how many
// there are.
func Users(ctx context.Context, tx *ledger.Tx, name string, limit int) (users []string, count int64, err error) {
	users, err = ledger.Select(ctx, tx, func(row ledger.Row) (string, error) {
		var user string
		err := row.Scan(&user, &count)
		return user, err
	}, resourceUsers, name, limit)
	if err != nil {
		return nil, 0, fmt.Errorf("look for users of %s: %w", name, err)
	}
	return users, count, nil
}

// UsedIn tells whether something below a resource refers to another one, or to
// what is below that.
func UsedIn(ctx context.Context, tx *ledger.Tx, target, below string) (bool, error) {
	var name string
	err := tx.QueryRow(ctx, resourceUsedIn, target, below).Scan(&name)
	if errors.Is(err, ledger.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for users of %s: %w", target, err)
	}
	return true, nil
}

// Owner is the resource that has a unique key, "" if none has.
func Owner(ctx context.Context, tx *ledger.Tx, key string) (string, error) {
	var name string
	err := tx.QueryRow(ctx, keyOwner, key).Scan(&name)
	if errors.Is(err, ledger.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for a unique key: %w", err)
	}
	return name, nil
}

// Period is when a subscription gives its subject a product.
type Period struct {
	Subject, Product string
	Start, End       time.Time // a zero End is open
}

const open = int64(1<<63 - 1)

func (p Period) bounds() (start, end int64) {
	if p.End.IsZero() {
		return p.Start.UnixMicro(), open
	}
	return p.Start.UnixMicro(), p.End.UnixMicro()
}

// Overlapping is another subscription for the same subject and product at the
// same time, "" if there is none. The database refuses it in any case; this
// tells which one it is.
func Overlapping(ctx context.Context, tx *ledger.Tx, name string, p Period) (string, error) {
	start, end := p.bounds()
	var other string
	err := tx.QueryRow(ctx, periodOverlap, p.Subject, p.Product, start, end, name).Scan(&other)
	if errors.Is(err, ledger.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for overlapping subscriptions: %w", err)
	}
	return other, nil
}

func encode(m proto.Message) (string, error) {
	b, err := writeJSON.Marshal(m)
	return string(b), err
}
