package catalog

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/catalog/store"
	"github.com/tollway/tollway/services/platform/auth"
)

// stranger registers. Inside, it may do what it takes to make an account.
var stranger = caller{name: "anonymous", role: auth.Anyone}

// Register makes an account with a consumer's token for whoever asks, where the
// installation allows it.
func (s *Service) Register(ctx context.Context, r *catalogv1.RegisterRequest) (*catalogv1.RegisterResponse, error) {
	if s.cfg.Registration == Closed {
		return nil, denied("accounts are made by the operator here: catalog.registration is closed")
	}
	if r.GetEmail() == "" {
		return nil, s.status(wrong("email", "is required"))
	}
	if !s.arrival.allow(s.deps.Now()) {
		return nil, status.Error(codes.ResourceExhausted, "too many accounts are being registered; try again in a minute")
	}
	account := &catalogv1.Account{DisplayName: r.GetDisplayName(), Email: r.GetEmail(), State: catalogv1.AccountState_ACCOUNT_ACTIVE}
	if s.cfg.Registration == Approval {
		account.State = catalogv1.AccountState_ACCOUNT_PENDING
	}
	answer := &catalogv1.RegisterResponse{}
	err := s.writeAs(ctx, stranger, false, func(u *unit) error {
		name, err := u.nameFor(ctx, kind.Account, "", r.GetAccountId(), "account_id")
		if err != nil {
			return err
		}
		made, err := u.create(ctx, kind.Account, name, account)
		if err != nil {
			return err
		}
		// Reports and the audit log know accounts by their ids: a stranger must not
		// inherit what was once somebody else's.
		past, err := store.Audit(ctx, u.tx, store.AuditQuery{Name: name, Limit: 2})
		if err != nil {
			return err
		}
		if len(past) > 1 {
			return status.Errorf(codes.AlreadyExists, "%s was somebody's before; choose another account_id", name)
		}
		answer.Account = made.(*catalogv1.Account)
		token, err := u.create(ctx, kind.Token, kind.Token.Name("", randomID(kind.Token)), &catalogv1.Token{
			DisplayName: "made when " + name + " registered", Role: string(auth.Consumer), Account: name,
		})
		if err != nil {
			return err
		}
		answer.Token = token.(*catalogv1.Token)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// limiter lets so many pass in every minute.
type limiter struct {
	limit int

	mu     sync.Mutex
	minute time.Time
	passed int
}

func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if minute := now.Truncate(time.Minute); !minute.Equal(l.minute) {
		l.minute, l.passed = minute, 0
	}
	l.passed++
	return l.passed <= l.limit
}
