package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/sql"
)

var (
	resourceInsert  = sql.LedgerQuery("resource_insert")
	resourceUpdate  = sql.LedgerQuery("resource_update")
	resourceDelete  = sql.LedgerQuery("resource_delete")
	referenceInsert = sql.LedgerQuery("reference_insert")
	refsDelete      = sql.LedgerQuery("references_delete")
	keyInsert       = sql.LedgerQuery("key_insert")
	keyDelete       = sql.LedgerQuery("key_delete")
	periodsDelete   = sql.LedgerQuery("periods_delete")
	periodInsert    = sql.LedgerQuery("period_insert")
	auditInsert     = sql.LedgerQuery("audit_insert")
	auditRevision   = sql.LedgerQuery("audit_revision")
	outboxInsert    = sql.LedgerQuery("outbox_insert")
)

// Author is who writes, for the audit log.
type Author struct{ Actor, Role, Method, RequestID string }

// Writer writes in one transaction, at one time.
type Writer struct {
	tx     *ledger.Tx
	author Author
	now    time.Time
}

// NewWriter makes a writer. The database keeps microseconds.
func NewWriter(tx *ledger.Tx, author Author, now time.Time) *Writer {
	return &Writer{tx: tx, author: author, now: now.UTC().Truncate(time.Microsecond)}
}

// Secret is what is kept of a key or a token: the unique key that finds it, and
// the hash itself.
type Secret struct {
	Key  string
	Hash []byte
}

// Insert stores a new resource under the name that the message has.
func (w *Writer) Insert(ctx context.Context, k *kind.Kind, m kind.Resource, secret Secret) (*Stored, error) {
	revision, err := w.lastRevision(ctx, m.GetName())
	if err != nil {
		return nil, err
	}
	parent, _ := kind.Split(m.GetName())
	uid := make([]byte, 16)
	if _, err := rand.Read(uid); err != nil {
		return nil, fmt.Errorf("make a uid: %w", err)
	}
	s := &Stored{
		Kind: k, Name: m.GetName(), Parent: parent, UID: hex.EncodeToString(uid),
		Revision: revision + 1, Create: w.now, Update: w.now, SecretHash: secret.Hash,
	}
	s.stamp(m)
	body, err := s.body()
	if err != nil {
		return nil, err
	}
	_, err = w.tx.Exec(ctx, resourceInsert, s.Name, k.ID, s.Parent, s.UID, s.Revision, kind.State(m), body,
		s.Create.UnixMicro(), s.Update.UnixMicro())
	if err != nil {
		return nil, fmt.Errorf("insert %s: %w", s.Name, err)
	}
	if err := w.refer(ctx, s); err != nil {
		return nil, err
	}
	keys := keysOf(s)
	if secret.Key != "" {
		keys = append(keys, secret.Key)
	}
	if err := w.claim(ctx, s.Name, nil, keys); err != nil {
		return nil, err
	}
	return s, w.note(ctx, s.Name, k, s.Revision, nil, s, body)
}

// Update stores the next version of a resource.
func (w *Writer) Update(ctx context.Context, before *Stored, m kind.Resource) (*Stored, error) {
	s := *before
	s.Revision++
	s.Update = w.now
	if !s.Update.After(before.Update) {
		s.Update = before.Update.Add(time.Microsecond) // the clock went back
	}
	s.stamp(m)
	body, err := s.body()
	if err != nil {
		return nil, err
	}
	changed, err := w.tx.Exec(ctx, resourceUpdate, s.Name, s.Revision, kind.State(m), body, s.Update.UnixMicro())
	if err != nil || changed != 1 {
		return nil, fmt.Errorf("update %s: %d rows: %w", s.Name, changed, orLost(err))
	}
	if _, err := w.tx.Exec(ctx, refsDelete, s.Name); err != nil {
		return nil, fmt.Errorf("update references of %s: %w", s.Name, err)
	}
	if err := w.refer(ctx, &s); err != nil {
		return nil, err
	}
	if err := w.claim(ctx, s.Name, keysOf(before), keysOf(&s)); err != nil {
		return nil, err
	}
	return &s, w.note(ctx, s.Name, s.Kind, s.Revision, before, &s, body)
}

var errLost = errors.New("it is not there any more")

func orLost(err error) error {
	if err == nil {
		return errLost
	}
	return err
}

// Delete removes a resource.
func (w *Writer) Delete(ctx context.Context, before *Stored) error {
	if _, err := w.tx.Exec(ctx, resourceDelete, before.Name); err != nil {
		return fmt.Errorf("delete %s: %w", before.Name, err)
	}
	return w.note(ctx, before.Name, before.Kind, before.Revision+1, before, nil, nil)
}

// SetPeriods says when a subscription holds, replacing what was said before.
func (w *Writer) SetPeriods(ctx context.Context, name string, periods ...Period) error {
	if _, err := w.tx.Exec(ctx, periodsDelete, name); err != nil {
		return fmt.Errorf("clear periods of %s: %w", name, err)
	}
	for _, p := range periods {
		start, end := p.bounds()
		if _, err := w.tx.Exec(ctx, periodInsert, name, p.Subject, p.Product, start, end); err != nil {
			return fmt.Errorf("insert period of %s: %w", name, err)
		}
	}
	return nil
}

// lastRevision is that of the last version that ever had the name: the log of
// changes remembers deleted ones.
func (w *Writer) lastRevision(ctx context.Context, name string) (int64, error) {
	var revision int64
	err := w.tx.QueryRow(ctx, auditRevision, name).Scan(&revision)
	if err != nil && !errors.Is(err, ledger.ErrNotFound) {
		return 0, fmt.Errorf("look for earlier versions of %s: %w", name, err)
	}
	return revision, nil
}

func (s *Stored) stamp(m kind.Resource) {
	kind.Stamp{Name: s.Name, UID: s.UID, Etag: etag(s.UID, s.Revision), Create: s.Create, Update: s.Update}.Put(m)
	s.Message = m
}

func (s *Stored) body() (string, error) {
	body, err := encode(&catalogv1.Record{Resource: s.Kind.Wrap(s.Message), SecretHash: s.SecretHash})
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", s.Name, err)
	}
	return body, nil
}

func (w *Writer) refer(ctx context.Context, s *Stored) error {
	for _, r := range s.Kind.References(s.Message) {
		if _, err := w.tx.Exec(ctx, referenceInsert, s.Name, r.Field, r.Target); err != nil {
			return fmt.Errorf("insert reference %s of %s: %w", r.Field, s.Name, err)
		}
	}
	return nil
}

func keysOf(s *Stored) []string {
	var keys []string
	for _, k := range s.Kind.UniqueKeys(s.Message) {
		keys = append(keys, k.Key)
	}
	return keys
}

// GiveUp frees the unique keys that a resource has and its next version has not.
func (w *Writer) GiveUp(ctx context.Context, before *Stored, next kind.Resource) error {
	return w.release(ctx, before.Name, keysOf(before), keysOf(&Stored{Kind: before.Kind, Message: next}))
}

func (w *Writer) release(ctx context.Context, name string, before, after []string) error {
	for _, key := range before {
		if slices.Contains(after, key) {
			continue
		}
		if _, err := w.tx.Exec(ctx, keyDelete, key, name); err != nil {
			return fmt.Errorf("give up a unique key of %s: %w", name, err)
		}
	}
	return nil
}

func (w *Writer) claim(ctx context.Context, name string, before, after []string) error {
	if err := w.release(ctx, name, before, after); err != nil {
		return err
	}
	for _, key := range after {
		if !slices.Contains(before, key) {
			if _, err := w.tx.Exec(ctx, keyInsert, key, name); err != nil {
				return fmt.Errorf("claim a unique key for %s: %w", name, err)
			}
		}
	}
	return nil
}

// note writes the change into the audit log and the outbox. body is nil when the
// resource was deleted.
func (w *Writer) note(ctx context.Context, name string, k *kind.Kind, revision int64, before, after *Stored, body any) error {
	was, err := audited(before)
	if err != nil {
		return err
	}
	is, err := audited(after)
	if err != nil {
		return err
	}
	now := w.now.UnixMicro()
	_, err = w.tx.Exec(ctx, auditInsert, now, w.author.Actor, w.author.Role, w.author.Method, name, revision, was, is, w.author.RequestID)
	if err != nil {
		return fmt.Errorf("insert audit row of %s: %w", name, err)
	}
	if _, err := w.tx.Exec(ctx, outboxInsert, name, k.ID, revision, body, now); err != nil {
		return fmt.Errorf("insert outbox row of %s: %w", name, err)
	}
	return nil
}

// audited is a version as the audit log keeps it: without the hash of a secret,
// which is nobody's business there. nil is NULL.
func audited(s *Stored) (any, error) {
	if s == nil {
		return nil, nil
	}
	m := proto.Clone(s.Message)
	if t, ok := m.(*catalogv1.Token); ok {
		t.LastUsedTime = nil
	}
	text, err := encode(s.Kind.Wrap(m))
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", s.Name, err)
	}
	return text, nil
}
