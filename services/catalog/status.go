package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tollway/tollway/services/catalog/kind"
	"github.com/tollway/tollway/services/platform/ledger"
)

// wrong is one violation.
func wrong(field, format string, args ...any) error {
	var v kind.Violations
	v.Add(field, format, args...)
	return &v
}

func notFound(name string) error {
	return status.Errorf(codes.NotFound, "%s does not exist", name)
}

func precondition(format string, args ...any) error {
	return status.Errorf(codes.FailedPrecondition, format, args...)
}

func denied(format string, args ...any) error {
	return status.Errorf(codes.PermissionDenied, format, args...)
}

// conflict is the answer to the writer who lost.
func conflict(name string) error {
	return status.Errorf(codes.Aborted, "%s was changed by somebody else since it was read: its etag is another one now; read it again and repeat the change", name)
}

// inUse says by what, with the first few names.
func inUse(name string, users []string, count int64) error {
	list := strings.Join(users, ", ")
	if more := count - int64(len(users)); more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return precondition("%s is in use by %s", name, list)
}

// badRequest makes a status of violations.
func badRequest(code codes.Code, message string, list []*errdetails.BadRequest_FieldViolation) error {
	st := status.New(code, message)
	if detailed, err := st.WithDetails(&errdetails.BadRequest{FieldViolations: list}); err == nil {
		st = detailed
	}
	return st.Err()
}

// status turns any error into what a caller may see. What the database says goes
// to the log.
func (s *Service) status(err error) error {
	if err == nil {
		return nil
	}
	if violations, ok := asViolations(err); ok {
		return badRequest(codes.InvalidArgument, violations.Error(), violations.List)
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	switch {
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the request was cancelled")
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "the request took too long")
	case errors.Is(err, ledger.ErrUnknownOutcome):
		s.deps.Log.Error().Err(err).Msg("writing to the catalog")
		return status.Error(codes.Unavailable, "the database did not answer: the change is there as a whole or not at all; read to see which")
	case errors.Is(err, ledger.ErrBusy):
		return status.Error(codes.Unavailable, "the database is busy; try again")
	}
	// What was checked beforehand is checked again by the database, which has the
	// last word.
	for refusal, code := range map[error]codes.Code{
		ledger.ErrConflict: codes.AlreadyExists, ledger.ErrOverlap: codes.FailedPrecondition,
		ledger.ErrInUse: codes.FailedPrecondition, ledger.ErrReference: codes.FailedPrecondition, ledger.ErrInvalid: codes.InvalidArgument,
	} {
		if errors.Is(err, refusal) {
			s.deps.Log.Warn().Err(err).Msg("the database refused a change of the catalog")
			return status.Errorf(code, "the database refused the change: %v (%s)", refusal, ledger.Constraint(err))
		}
	}
	s.deps.Log.Error().Err(err).Msg("using the catalog's database")
	return status.Error(codes.Internal, "the catalog's database could not be used; see the log of the server")
}

func asViolations(err error) (*kind.Violations, bool) {
	var v *kind.Violations
	ok := errors.As(err, &v)
	return v, ok
}
