package catalog

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/catalog/store"
	"github.com/tollway/tollway/services/platform/ledger"
)

// unit is one write: a transaction, in which the caller's wishes are checked and
// carried out.
type unit struct {
	s   *Service
	tx  *ledger.Tx
	w   *store.Writer
	who caller
	now time.Time
	// transitions allows to say in which state a resource is, and what led there,
	// as files do.
	transitions bool
	// dry: nothing will be committed.
	dry     bool
	kinds   map[string]*kind.Kind // of names that were looked up
	items   []item                // of the request, if it has several
	changes []change
}

// change is what was done to one resource.
type change struct {
	action        catalogv1.ChangeAction
	kind          *kind.Kind
	name          string
	before, after kind.Resource
	fields        []string
}

var errDry = errors.New("nothing is to be changed")

// write runs fn in a transaction, possibly several times, and commits unless it
// is a dry run.
func (s *Service) write(ctx context.Context, dry bool, fn func(u *unit) error) error {
	who, err := callerOf(ctx)
	if err != nil {
		return err
	}
	return s.writeAs(ctx, who, dry, fn)
}

func (s *Service) writeAs(ctx context.Context, who caller, dry bool, fn func(u *unit) error) error {
	author := who.author(ctx)
	var done []change
	err := s.deps.Ledger.Tx(ctx, func(tx *ledger.Tx) error {
		now := s.deps.Now().UTC().Truncate(time.Microsecond)
		u := &unit{s: s, tx: tx, w: store.NewWriter(tx, author, now), who: who, now: now, dry: dry, kinds: map[string]*kind.Kind{}}
		if err := fn(u); err != nil {
			return err
		}
		if err := u.checkMatching(ctx); err != nil {
			return err
		}
		done = u.changes
		if dry {
			return errDry
		}
		return nil
	})
	if dry && errors.Is(err, errDry) {
		return nil
	}
	if err != nil {
		return s.status(err)
	}
	if len(done) > 0 {
		s.deps.Changed()
	}
	for _, c := range done {
		if c.action == catalogv1.ChangeAction_UNCHANGED {
			continue
		}
		s.changes.WithLabelValues(c.kind.ID, strings.ToLower(c.action.String())).Inc()
	}
	return nil
}

// get reads a resource that must be there.
func (u *unit) get(ctx context.Context, k *kind.Kind, name string) (*store.Stored, error) {
	if err := k.CheckName(name); err != nil {
		return nil, wrong("name", "%v", err)
	}
	if err := u.who.own(name); err != nil && kind.AccountOf(name) != "" {
		return nil, err
	}
	s, err := store.Get(ctx, u.tx, name)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, notFound(name)
	}
	return s, err
}

// find is get for a resource that may be missing, which is nil then.
func (u *unit) find(ctx context.Context, k *kind.Kind, name string) (*store.Stored, error) {
	s, err := u.get(ctx, k, name)
	if status.Code(err) == codes.NotFound {
		return nil, nil
	}
	return s, err
}

// kindOf is the kind of a resource, nil if there is none.
func (u *unit) kindOf(ctx context.Context, name string) (*kind.Kind, error) {
	if k, known := u.kinds[name]; known {
		return k, nil
	}
	k, err := store.KindOf(ctx, u.tx, name)
	if err == nil {
		u.kinds[name] = k
	}
	return k, err
}

// create makes a resource of a message that came in a request. What is returned
// has the secret that was made, if one was.
func (u *unit) create(ctx context.Context, k *kind.Kind, name string, in proto.Message) (kind.Resource, error) {
	if err := u.who.own(name); err != nil {
		return nil, err
	}
	if err := u.who.writes(k); err != nil {
		return nil, err
	}
	m := proto.Clone(in).(kind.Resource)
	if u.transitions {
		k.ClearLocal(m)
	} else {
		k.ClearOutput(m)
	}
	kind.SetName(m, name)
	if err := u.free(ctx, k, name); err != nil {
		return nil, err
	}
	h := hooks[k]
	if h.adopt != nil {
		h.adopt(u, nil, m)
	}
	k.Normalize(m)
	if err := u.check(ctx, k, m); err != nil {
		return nil, err
	}
	var secret secret
	if h.begin != nil {
		var err error
		if secret, err = h.begin(ctx, u, m); err != nil {
			return nil, err
		}
	}
	if err := u.checkUnique(ctx, k, m); err != nil {
		return nil, err
	}
	stored, err := u.w.Insert(ctx, k, m, secret.Secret)
	if err != nil {
		return nil, err
	}
	u.kinds[name] = k
	if h.stored != nil {
		if err := h.stored(ctx, u, m); err != nil {
			return nil, err
		}
	}
	shown := u.reveal(stored.Message, secret)
	u.changes = append(u.changes, change{action: catalogv1.ChangeAction_CREATED, kind: k, name: name, after: shown})
	return shown, nil
}

// free checks that the name is not taken and that what it lies in is there.
func (u *unit) free(ctx context.Context, k *kind.Kind, name string) error {
	there, err := u.kindOf(ctx, name)
	if err != nil {
		return err
	}
	if there != nil {
		return status.Errorf(codes.AlreadyExists, "%s exists already", name)
	}
	if k.Parent == nil {
		return nil
	}
	parent, _ := kind.Split(name)
	if there, err = u.kindOf(ctx, parent); err == nil && there == nil {
		err = notFound(parent)
	}
	return err
}

// check lists what is wrong with a message by itself and by what it refers to.
func (u *unit) check(ctx context.Context, k *kind.Kind, m kind.Resource) error {
	var v kind.Violations
	k.Validate(m, &v)
	if err := u.checkReferences(ctx, k, m, &v, nil); err != nil {
		return err
	}
	return v.Err()
}

// checkReferences looks for what a resource refers to; coming are names that
// will be there.
func (u *unit) checkReferences(ctx context.Context, k *kind.Kind, m kind.Resource, v *kind.Violations, coming map[string]bool) error {
	for _, r := range k.References(m) {
		of, err := kind.Of(r.Target)
		if err != nil || !slices.Contains(r.Kinds, of) {
			v.Add(r.Field, "%q is no name like %s", r.Target, patterns(r.Kinds))
			continue
		}
		if coming[r.Target] {
			continue
		}
		there, err := u.kindOf(ctx, r.Target)
		if err != nil {
			return err
		}
		if there == nil {
			v.Add(r.Field, "%s does not exist", r.Target)
		}
	}
	return nil
}

func patterns(kinds []*kind.Kind) string {
	texts := make([]string, len(kinds))
	for i, k := range kinds {
		texts[i] = k.Pattern()
	}
	return strings.Join(texts, " or ")
}

// checkUnique refuses what another resource has. A consumer is told the owner's
// name only if it is its own.
func (u *unit) checkUnique(ctx context.Context, k *kind.Kind, m kind.Resource) error {
	for _, key := range k.UniqueKeys(m) {
		owner, err := store.Owner(ctx, u.tx, key.Key)
		if err != nil {
			return err
		}
		if owner == "" || owner == m.GetName() {
			continue
		}
		if u.who.own(owner) != nil {
			owner = "somebody else"
		}
		text := key.What + " is that of " + owner + " already"
		var v kind.Violations
		v.Add(key.Field, "%s", text)
		return badRequest(codes.AlreadyExists, key.Field+": "+text, v.List)
	}
	return nil
}

// update makes the next version of a resource of a message that has all fields
// as they should be. If nothing differs there is no next version.
func (u *unit) update(ctx context.Context, before *store.Stored, in proto.Message) (kind.Resource, error) {
	k := before.Kind
	m := proto.Clone(in).(kind.Resource)
	kind.SetName(m, before.Name)
	k.KeepOutput(m, before.Message)
	if !kind.HasField(m, "state") {
		kind.CopyField(m, before.Message, "state") // not said is not reset
	}
	h := hooks[k]
	if h.adopt != nil {
		h.adopt(u, before.Message, m)
	}
	k.Normalize(m)
	fields := k.Diff(before.Message, m)
	if len(fields) == 0 {
		u.changes = append(u.changes, change{action: catalogv1.ChangeAction_UNCHANGED, kind: k, name: before.Name, before: before.Message, after: before.Message})
		return before.Message, nil
	}
	if err := u.who.writes(k); err != nil {
		return nil, err
	}
	if h.frozen != nil {
		if err := h.frozen(before.Message, fields); err != nil {
			return nil, err
		}
	}
	var v kind.Violations
	k.Unchanged(before.Message, m, &v)
	if err := v.Err(); err != nil {
		return nil, err
	}
	if err := u.check(ctx, k, m); err != nil {
		return nil, err
	}
	if h.change != nil {
		if err := h.change(ctx, u, before.Message, m, fields); err != nil {
			return nil, err
		}
	}
	return u.save(ctx, before, m)
}

// save stores the next version of a resource, which has been checked.
func (u *unit) save(ctx context.Context, before *store.Stored, m kind.Resource) (kind.Resource, error) {
	k := before.Kind
	if err := u.checkUnique(ctx, k, m); err != nil {
		return nil, err
	}
	fields := k.Diff(before.Message, m)
	stored, err := u.w.Update(ctx, before, m)
	if err != nil {
		return nil, err
	}
	if stored := hooks[k].stored; stored != nil {
		if err := stored(ctx, u, m); err != nil {
			return nil, err
		}
	}
	u.changes = append(u.changes, change{
		action: catalogv1.ChangeAction_UPDATED, kind: k, name: before.Name, before: before.Message, after: stored.Message, fields: fields,
	})
	return stored.Message, nil
}

// namedUsers is how many users of a resource an error names.
const namedUsers = 3

// remove deletes a resource that nothing uses.
func (u *unit) remove(ctx context.Context, before *store.Stored) error {
	if err := u.who.writes(before.Kind); err != nil {
		return err
	}
	if end := hooks[before.Kind].end; end != nil {
		if err := end(u, before.Message); err != nil {
			return err
		}
	}
	users, count, err := store.Users(ctx, u.tx, before.Name, namedUsers)
	if err != nil {
		return err
	}
	if count > 0 {
		return inUse(before.Name, users, count)
	}
	if err := u.w.Delete(ctx, before); err != nil {
		return err
	}
	u.kinds[before.Name] = nil
	u.changes = append(u.changes, change{action: catalogv1.ChangeAction_DELETED, kind: before.Kind, name: before.Name, before: before.Message})
	return nil
}

func checkEtag(before *store.Stored, etag string) error {
	if etag != "" && etag != before.Message.GetEtag() {
		return conflict(before.Name)
	}
	return nil
}
