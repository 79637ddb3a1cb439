package ledger

import (
	"context"
	"fmt"
	"regexp"
	"sync"
)

// Lock is held by one process of all that use the database, until it is
// unlocked or the process ends.
type Lock struct {
	name string
	mu   sync.Mutex
	held heldLock // nil once it was unlocked
}

type heldLock interface {
	check(ctx context.Context) error
	release() error
}

var lockName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

// TryLock takes the named lock, or returns ErrLocked at once if another process
// or another holder in this one has it. On PostgreSQL it stands on a connection
// of its own, so whoever holds it asks Check before each piece of work.
func (db *DB) TryLock(ctx context.Context, name string) (*Lock, error) {
	if !lockName.MatchString(name) {
		return nil, fmt.Errorf("lock %q: want lower-case letters, digits, - and _", name)
	}
	ctx, cancel := context.WithTimeout(ctx, db.cfg.ConnectTimeout)
	defer cancel()
	held, err := db.dialect.tryLock(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return &Lock{name: name, held: held}, nil
}

// Check returns ErrLockLost if the lock is no longer held for certain.
func (l *Lock) Check(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		return fmt.Errorf("lock %s: %w", l.name, ErrLockLost)
	}
	if err := l.held.check(ctx); err != nil {
		return fmt.Errorf("lock %s: %w: %w", l.name, ErrLockLost, err)
	}
	return nil
}

// Unlock gives the lock back. A second call does nothing.
func (l *Lock) Unlock() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		return nil
	}
	err := l.held.release()
	l.held = nil
	if err != nil {
		return fmt.Errorf("unlock %s: %w", l.name, err)
	}
	return nil
}
