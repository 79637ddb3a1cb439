package catalog

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/catalog/store"
)

// maxResources bounds a request; a larger catalog is applied in sets.
const maxResources = 5000

const defaultSet = "default"

var setName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._:/-]{0,126}[a-z0-9])?$`)

// item is one resource that is to be as it says.
type item struct {
	index   int // in the request
	kind    *kind.Kind
	name    string
	message kind.Resource
	etag    string
}

// at is the beginning of the names of the item's fields in violations.
func (i item) at() string { return fmt.Sprintf("resources[%d].", i.index) }

// Apply makes the catalog as the resources say, all of it or nothing.
func (s *Service) Apply(ctx context.Context, r *catalogv1.ApplyRequest) (*catalogv1.ApplyResponse, error) {
	set := cmp.Or(r.GetSet(), defaultSet)
	if !setName.MatchString(set) {
		return nil, s.status(wrong("set", "%q must be lower-case letters, digits, and . _ : / - between them, at most 128", set))
	}
	items, err := readItems(r.GetResources())
	if err != nil {
		return nil, s.status(err)
	}
	var answer *catalogv1.ApplyResponse
	err = s.write(ctx, r.GetValidateOnly(), func(u *unit) error {
		u.transitions = true
		var leaving []string
		if r.GetPrune() {
			if leaving, err = leavers(ctx, u, set, items); err != nil {
				return err
			}
		}
		if err := u.applyAll(ctx, items, leaving); err != nil {
			return err
		}
		answer = u.answer(items)
		return u.putInSet(ctx, set, items)
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// readItems lists everything that is wrong with the resources by themselves.
func readItems(resources []*catalogv1.Resource) ([]item, error) {
	var v kind.Violations
	if len(resources) > maxResources {
		return nil, wrong("resources", "are %d, at most %d can be applied at once: apply them in several sets", len(resources), maxResources)
	}
	items := make([]item, 0, len(resources))
	first := map[string]int{}
	for i, r := range resources {
		v.Prefix = fmt.Sprintf("resources[%d].", i)
		k, m, ok := kind.Unwrap(r)
		if !ok || !m.ProtoReflect().IsValid() {
			v.Add("", "is no resource of any kind")
			continue
		}
		it := item{index: i, kind: k, message: proto.Clone(m).(kind.Resource)}
		it.name, it.etag = it.message.GetName(), it.message.GetEtag()
		if err := k.CheckName(it.name); err != nil {
			v.Add("name", "%v", err)
			continue
		}
		if other, there := first[it.name]; there {
			v.Add("name", "%s is in resources[%d] already", it.name, other)
			continue
		}
		first[it.name] = i
		k.ClearLocal(it.message)
		probe := proto.Clone(it.message).(kind.Resource)
		k.Normalize(probe)
		k.Validate(probe, &v)
		items = append(items, it)
	}
	return items, v.Err()
}

// leavers are the resources of a set that are not among the items.
func leavers(ctx context.Context, u *unit, set string, items []item) ([]string, error) {
	members, err := store.InSet(ctx, u.tx, set)
	if err != nil {
		return nil, err
	}
	staying := make(map[string]bool, len(items))
	for _, it := range items {
		staying[it.name] = true
	}
	return slices.DeleteFunc(members, func(name string) bool { return staying[name] }), nil
}

// applyAll carries out a whole request: what refers to another comes after it,
// and what is deleted goes before what it lies in.
func (u *unit) applyAll(ctx context.Context, items []item, leaving []string) error {
	if err := u.checkDangling(ctx, items); err != nil {
		return err
	}
	gone, err := u.readLeaving(ctx, leaving)
	if err != nil {
		return err
	}
	// What nothing uses goes first, so that a successor can have its place: a
	// subscription's time, a credential's client id, an operation's path.
	used, err := u.removeUnused(ctx, gone)
	if err != nil {
		return err
	}
	if err := u.giveUpKeys(ctx, items); err != nil {
		return err
	}
	u.items = items
	ordered := slices.Clone(items)
	slices.SortStableFunc(ordered, func(a, b item) int {
		return cmp.Or(cmp.Compare(a.kind.Rank, b.kind.Rank), compareVersions(a, b))
	})
	for _, it := range ordered {
		if err := u.applyOne(ctx, it); err != nil {
			return it.locate(err)
		}
	}
	for _, s := range used {
		if err := u.remove(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// giveUpKeys has resources give up what only one may have and they will not have
// any more, so that those of one request can exchange it.
func (u *unit) giveUpKeys(ctx context.Context, items []item) error {
	for _, it := range items {
		if len(it.kind.UniqueKeys(it.message)) == 0 {
			continue
		}
		before, err := u.find(ctx, it.kind, it.name)
		if err != nil {
			return it.locate(err)
		}
		if before == nil {
			continue
		}
		if err := u.w.GiveUp(ctx, before, it.message); err != nil {
			return err
		}
	}
	return nil
}

// removeUnused deletes what nothing uses and returns the rest.
func (u *unit) removeUnused(ctx context.Context, gone []*store.Stored) ([]*store.Stored, error) {
	var used []*store.Stored
	for _, s := range gone {
		_, count, err := store.Users(ctx, u.tx, s.Name, 1)
		if err != nil {
			return nil, err
		}
		if count > 0 {
			used = append(used, s)
			continue
		}
		if err := u.remove(ctx, s); err != nil {
			return nil, err
		}
	}
	return used, nil
}

// compareVersions puts the versions of plans in the order in which they can be
// published: of their starts, and then of their numbers.
func compareVersions(a, b item) int {
	v, ok := a.message.(*catalogv1.PlanVersion)
	w, both := b.message.(*catalogv1.PlanVersion)
	if !ok || !both {
		return 0
	}
	return cmp.Or(v.GetStartTime().AsTime().Compare(w.GetStartTime().AsTime()), cmp.Compare(number(a.name), number(b.name)))
}

// checkDangling lists all references to what is not there and will not be.
func (u *unit) checkDangling(ctx context.Context, items []item) error {
	coming := make(map[string]bool, len(items))
	for _, it := range items {
		coming[it.name] = true
	}
	var v kind.Violations
	for _, it := range items {
		v.Prefix = it.at()
		if err := u.checkReferences(ctx, it.kind, it.message, &v, coming); err != nil {
			return err
		}
		parent, _ := kind.Split(it.name)
		if parent == "" || coming[parent] {
			continue
		}
		there, err := u.kindOf(ctx, parent)
		if err != nil {
			return err
		}
		if there == nil {
			v.Add("name", "%s does not exist", parent)
		}
	}
	return v.Err()
}

// readLeaving reads what is to be deleted, children before their parents.
func (u *unit) readLeaving(ctx context.Context, names []string) ([]*store.Stored, error) {
	out := make([]*store.Stored, len(names))
	for i, name := range names {
		s, err := store.Get(ctx, u.tx, name)
		if err != nil {
			return nil, err
		}
		out[i] = s
	}
	slices.SortStableFunc(out, func(a, b *store.Stored) int { return cmp.Compare(b.Kind.Rank, a.Kind.Rank) })
	return out, nil
}

func (u *unit) applyOne(ctx context.Context, it item) error {
	before, err := u.find(ctx, it.kind, it.name)
	if err != nil {
		return err
	}
	if before == nil {
		if it.etag != "" {
			return conflict(it.name)
		}
		_, err := u.create(ctx, it.kind, it.name, it.message)
		return err
	}
	if err := checkEtag(before, it.etag); err != nil {
		return err
	}
	// The answer shows the resource even where it does not change.
	if err := u.who.reads(it.kind); err != nil {
		return err
	}
	m := proto.Clone(it.message).(kind.Resource)
	for _, field := range it.kind.Kept() {
		if !kind.HasField(m, field) {
			kind.CopyField(m, before.Message, field)
		}
	}
	_, err = u.update(ctx, before, m)
	return err
}

// locate says in an error which resource of the request it is about: every
// violation names resources[i], also where the state of the catalog is at fault.
func (i item) locate(err error) error {
	if violations, ok := asViolations(err); ok {
		located := kind.Violations{Prefix: i.at()}
		for _, v := range violations.List {
			located.Add(v.GetField(), "%s", v.GetDescription())
		}
		return &located
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	located := kind.Violations{Prefix: i.at()}
	for _, d := range st.Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				located.Add(v.GetField(), "%s", v.GetDescription())
			}
		}
	}
	if len(located.List) == 0 {
		located.Add("", "%s", st.Message())
	}
	return badRequest(st.Code(), located.Error(), located.List)
}

// answer lists the changes of the request's resources in its order, and then
// those of others by name.
func (u *unit) answer(items []item) *catalogv1.ApplyResponse {
	place := make(map[string]int, len(items))
	for _, it := range items {
		place[it.name] = it.index
	}
	slices.SortStableFunc(u.changes, func(a, b change) int {
		i, listed := place[a.name]
		j, other := place[b.name]
		switch {
		case listed && other:
			return cmp.Compare(i, j)
		case listed != other:
			return map[bool]int{true: -1, false: 1}[listed]
		}
		return cmp.Compare(a.name, b.name)
	})
	answer := &catalogv1.ApplyResponse{Changes: make([]*catalogv1.Change, len(u.changes))}
	for i, c := range u.changes {
		answer.Changes[i] = &catalogv1.Change{
			Name: c.name, Action: c.action, Fields: c.fields, Before: wrap(c.kind, c.before), After: wrap(c.kind, c.after),
		}
	}
	return answer
}

func wrap(k *kind.Kind, m kind.Resource) *catalogv1.Resource {
	if m == nil {
		return nil
	}
	return k.Wrap(m)
}

// putInSet notes with which set the resources were applied.
func (u *unit) putInSet(ctx context.Context, set string, items []item) error {
	for _, it := range items {
		was, err := store.SetOf(ctx, u.tx, it.name)
		if err != nil {
			return err
		}
		if was == set {
			continue
		}
		// Sets decide what is pruned, so this is a change, even where the
		// resource is as it was.
		if err := u.who.writes(it.kind); err != nil {
			return it.locate(err)
		}
		if err := store.PutInSet(ctx, u.tx, it.name, set); err != nil {
			return err
		}
	}
	return nil
}
