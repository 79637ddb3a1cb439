package catalog

import (
	"context"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/catalog/store"
)

const (
	draft     = catalogv1.PlanVersionState_DRAFT
	published = catalogv1.PlanVersionState_PUBLISHED
	archived  = catalogv1.PlanVersionState_ARCHIVED
)

// maxVersions bounds the versions of one plan.
const maxVersions = 10_000

// versions are all of a plan.
func (u *unit) versions(ctx context.Context, plan string) ([]*catalogv1.PlanVersion, error) {
	all, err := store.Below(ctx, u.tx, kind.PlanVersion, plan, store.Place{}, maxVersions)
	if err != nil {
		return nil, err
	}
	out := make([]*catalogv1.PlanVersion, len(all))
	for i, s := range all {
		out[i] = s.Message.(*catalogv1.PlanVersion)
	}
	return out, nil
}

// number is the last part of a version's name.
func number(name string) int {
	_, id := kind.Split(name)
	n, _ := strconv.Atoi(id) // it is a number, or it would not be a name
	return n
}

// nextVersion is the id of a plan's next version.
func (u *unit) nextVersion(ctx context.Context, plan string) (string, error) {
	all, err := u.versions(ctx, plan)
	last := 0
	for _, v := range all {
		last = max(last, number(v.GetName()))
	}
	return strconv.Itoa(last + 1), err
}

func beginPlanVersion(ctx context.Context, u *unit, m kind.Resource) (secret, error) {
	v := m.(*catalogv1.PlanVersion)
	switch {
	case v.GetState() == draft:
		return secret{}, nil
	case v.GetState() == published && u.transitions:
		return secret{}, u.mayPublish(ctx, v)
	case v.GetState() == archived && u.transitions:
		return secret{}, nil
	}
	return secret{}, wrong("state", "is changed by PublishPlanVersion and ArchivePlanVersion; a new version is a DRAFT")
}

func frozenPlanVersion(before kind.Resource, fields []string) error {
	v := before.(*catalogv1.PlanVersion)
	if v.GetState() == draft || len(fields) == 1 && fields[0] == "state" {
		return nil
	}
	return precondition("%s is %s and never changes again (%s would); make another version", v.GetName(), v.GetState(), strings.Join(fields, ", "))
}

func changePlanVersion(ctx context.Context, u *unit, before, after kind.Resource, _ []string) error {
	b, a := before.(*catalogv1.PlanVersion), after.(*catalogv1.PlanVersion)
	from, to := b.GetState(), a.GetState()
	switch {
	case from == to:
		return nil
	case !u.transitions:
		return wrong("state", "is changed by PublishPlanVersion and ArchivePlanVersion")
	case from == draft && to == published:
		return u.mayPublish(ctx, a)
	case from == published && to == archived:
		return nil
	}
	return precondition("%s is %s and cannot become %s", b.GetName(), from, to)
}

// mayPublish checks that a version comes after those that are published for the
// same audience: otherwise it would hold in the past, under invoices that are
// written already.
func (u *unit) mayPublish(ctx context.Context, v *catalogv1.PlanVersion) error {
	plan, _ := kind.Split(v.GetName())
	all, err := u.versions(ctx, plan)
	if err != nil {
		return err
	}
	for _, other := range all {
		if other.GetState() != published || other.GetName() == v.GetName() || other.GetAccount() != v.GetAccount() {
			continue
		}
		if start := other.GetStartTime().AsTime(); v.GetStartTime().AsTime().Before(start) {
			return wrong("start_time", "is before %s, when %s starts, which is published", start.Format(time.RFC3339), other.GetName())
		}
	}
	return nil
}

// resolve finds the version of a plan that holds for an account at a moment: of
// those published that have started, the account's own go first, then the one
// that started last, then the one with the highest number.
func (u *unit) resolve(ctx context.Context, plan, account string, at time.Time) (string, error) {
	all, err := u.versions(ctx, plan)
	if err != nil {
		return "", err
	}
	var best *catalogv1.PlanVersion
	for _, v := range all {
		if holds(v, account, at) && (best == nil || goesBefore(v, best)) {
			best = v
		}
	}
	if best == nil {
		return "", precondition("%s has no published version that holds at %s", plan, at.Format(time.RFC3339))
	}
	return best.GetName(), nil
}

func holds(v *catalogv1.PlanVersion, account string, at time.Time) bool {
	mine := v.GetAccount() == "" || v.GetAccount() == account
	return mine && v.GetState() == published && !v.GetStartTime().AsTime().After(at)
}

func goesBefore(a, b *catalogv1.PlanVersion) bool {
	if (a.GetAccount() != "") != (b.GetAccount() != "") {
		return a.GetAccount() != ""
	}
	if c := a.GetStartTime().AsTime().Compare(b.GetStartTime().AsTime()); c != 0 {
		return c > 0
	}
	return number(a.GetName()) > number(b.GetName())
}

// PublishPlanVersion freezes a draft.
func (s *Service) PublishPlanVersion(ctx context.Context, r *catalogv1.PublishPlanVersionRequest) (*catalogv1.PlanVersion, error) {
	return s.transition(ctx, r.GetName(), r.GetEtag(), draft, published)
}

// ArchivePlanVersion keeps new subscriptions from a version.
func (s *Service) ArchivePlanVersion(ctx context.Context, r *catalogv1.ArchivePlanVersionRequest) (*catalogv1.PlanVersion, error) {
	return s.transition(ctx, r.GetName(), "", published, archived)
}

func (s *Service) transition(ctx context.Context, name, etag string, from, to catalogv1.PlanVersionState) (*catalogv1.PlanVersion, error) {
	var out *catalogv1.PlanVersion
	err := s.write(ctx, false, func(u *unit) error {
		u.transitions = true
		before, err := u.get(ctx, kind.PlanVersion, name)
		if err != nil {
			return err
		}
		if err := checkEtag(before, etag); err != nil {
			return err
		}
		v := proto.Clone(before.Message).(*catalogv1.PlanVersion)
		if v.GetState() != from {
			return precondition("%s is %s, not %s", name, v.GetState(), from)
		}
		v.State = to
		after, err := u.update(ctx, before, v)
		out, _ = after.(*catalogv1.PlanVersion)
		return err
	})
	return out, err
}

func timestamp(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }
