package ledger

import (
	"errors"
	"fmt"
	"strings"
)

// What a caller may ask an error for, with errors.Is.
var (
	// ErrNotFound: a row was asked for and there is none.
	ErrNotFound = errors.New("not found")
	// ErrConflict: a value that must be unique is there already.
	ErrConflict = errors.New("exists already")
	// ErrReference: something refers to what does not exist. An error that is
	// ErrInUse is ErrReference too.
	ErrReference = errors.New("broken reference")
	// ErrInUse: what was to be deleted is referred to.
	ErrInUse = errors.New("in use")
	// ErrOverlap: a period overlaps another one.
	ErrOverlap = errors.New("periods overlap")
	// ErrAppendOnly: a row of a table that only grows was to be changed.
	ErrAppendOnly = errors.New("append-only")
	// ErrInvalid: a value that the column does not take.
	ErrInvalid = errors.New("invalid value")
	// ErrBusy: the transaction lost against others, or could not begin, in every
	// attempt. It may succeed later.
	ErrBusy = errors.New("database is busy or away")
	// ErrUnknownOutcome: the answer to a commit was lost. The transaction is
	// there as a whole or not at all; only reading tells.
	ErrUnknownOutcome = errors.New("outcome of the commit is unknown")
	// ErrLocked: somebody else holds the lock.
	ErrLocked = errors.New("lock is held by another process")
	// ErrLockLost: the lock was ours and is no longer.
	ErrLockLost = errors.New("lock was lost")
)

// ConstraintError is a refusal by the database itself.
type ConstraintError struct {
	// Kind is one of ErrConflict, ErrReference, ErrInUse, ErrOverlap,
	// ErrAppendOnly and ErrInvalid.
	Kind error
	// Constraint is its name, the same on both databases.
	Constraint string
	// Name is the missing target of an ErrReference, and what is in use for an
	// ErrInUse.
	Name string
	// By are the first ten that use it, where they are known.
	By []string
}

func (e *ConstraintError) Error() string {
	text := e.Kind.Error()
	if e.Name != "" {
		text = e.Name + ": " + text
	}
	if len(e.By) > 0 {
		text += " by " + strings.Join(e.By, ", ")
	}
	return fmt.Sprintf("%s (%s)", text, e.Constraint)
}

// Unwrap lets errors.Is find the kind.
func (e *ConstraintError) Unwrap() []error {
	if errors.Is(e.Kind, ErrInUse) {
		return []error{ErrInUse, ErrReference}
	}
	return []error{e.Kind}
}

// Constraint is the name of the constraint that refused, "" if none did.
func Constraint(err error) string {
	var refused *ConstraintError
	if errors.As(err, &refused) {
		return refused.Constraint
	}
	return ""
}

// inUse reads "name: user, user", as triggers write it.
func inUse(constraint, detail string) *ConstraintError {
	name, by, _ := strings.Cut(detail, ": ")
	return &ConstraintError{Kind: ErrInUse, Constraint: constraint, Name: name, By: strings.Split(by, ", ")}
}
