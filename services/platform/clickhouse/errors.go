package clickhouse

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	client "github.com/ClickHouse/clickhouse-go/v2"
)

// ErrNoRows is what a row's Scan returns when there was none.
var ErrNoRows = sql.ErrNoRows

// Error is an exception of the server, the same over both protocols.
type Error struct {
	// Code is the server's number for the kind of error.
	Code int
	// Name is its symbol, such as TOO_MANY_PARTS, where the server sent it.
	Name    string
	Message string
}

func (e *Error) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("clickhouse error %d: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("clickhouse error %d %s: %s", e.Code, e.Name, e.Message)
}

// Code is the number of the server's exception in err, 0 if there is none.
func Code(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// transportError is a failure on the way to or from the server.
type transportError struct {
	err error
	// unsent means that not a byte of the statement can have reached it.
	unsent bool
}

func (e *transportError) Error() string { return e.err.Error() }
func (e *transportError) Unwrap() error { return e.err }

// wrap turns the client's errors into this package's.
func wrap(err error) error {
	if err == nil || errors.Is(err, ErrNoRows) {
		return err
	}
	var exception *client.Exception
	if errors.As(err, &exception) {
		return &Error{Code: int(exception.Code), Name: exception.CodeName, Message: exception.Message}
	}
	if isTransport(err) {
		return &transportError{err: err, unsent: isDial(err)}
	}
	return err
}

// wrapIn adds why the context ended to an error that came of it: the client
// reports a deadline as a failed read.
func wrapIn(ctx context.Context, err error) error {
	err = wrap(err)
	var transport *transportError
	if !errors.As(err, &transport) {
		return err
	}
	if ended := endOf(ctx, transport.err); ended != nil && !errors.Is(err, ended) {
		transport.err = fmt.Errorf("%w: %w", ended, transport.err)
	}
	return err
}

// endOf is why ctx ended. The client gives the context's deadline to the
// connection, whose timer can fire a moment before the context's own.
func endOf(ctx context.Context, err error) error {
	if ended := ctx.Err(); ended != nil {
		return ended
	}
	var network net.Error
	deadline, ok := ctx.Deadline()
	if ok && errors.As(err, &network) && network.Timeout() && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

func isTransport(err error) bool {
	var network net.Error
	return errors.As(err, &network) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		isBrokenConnection(err)
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" || errors.Is(err, client.ErrAcquireConnTimeout)
}

// Exceptions that pass when the server is less busy, has more room or is whole
// again. Everything else is about the statement or its data and stays.
var retryableCodes = []int{
	74,   // CANNOT_READ_FROM_FILE_DESCRIPTOR
	75,   // CANNOT_WRITE_TO_FILE_DESCRIPTOR: a full disk shows itself so too
	76,   // CANNOT_OPEN_FILE: no more descriptors
	159,  // TIMEOUT_EXCEEDED
	198,  // DNS_ERROR
	201,  // QUOTA_EXCEEDED
	202,  // TOO_MANY_SIMULTANEOUS_QUERIES
	203,  // NO_FREE_CONNECTION
	209,  // SOCKET_TIMEOUT
	210,  // NETWORK_ERROR
	225,  // NO_ZOOKEEPER
	236,  // ABORTED: the server is stopping
	241,  // MEMORY_LIMIT_EXCEEDED
	242,  // TABLE_IS_READ_ONLY: a replica without its keeper
	243,  // NOT_ENOUGH_SPACE
	252,  // TOO_MANY_PARTS
	279,  // ALL_CONNECTION_TRIES_FAILED
	285,  // TOO_FEW_LIVE_REPLICAS
	286,  // UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
	319,  // UNKNOWN_STATUS_OF_INSERT
	394,  // QUERY_WAS_CANCELLED
	439,  // CANNOT_SCHEDULE_TASK
	473,  // DEADLOCK_AVOIDED
	745,  // SERVER_OVERLOADED
	999,  // KEEPER_EXCEPTION
	1001, // STD_EXCEPTION: the operating system refused something
}

// Exceptions that the server raises before it does anything.
var refusedCodes = []int{
	201, // QUOTA_EXCEEDED
	202, // TOO_MANY_SIMULTANEOUS_QUERIES
	242, // TABLE_IS_READ_ONLY
	745, // SERVER_OVERLOADED
}

// IsRetryable reports whether the same statement may succeed later: the server
// was busy, full, away, or a proxy answered in its place. An error in the
// statement or its data is not.
func IsRetryable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	var exception *Error
	if errors.As(err, &exception) {
		return slices.Contains(retryableCodes, exception.Code)
	}
	var status *statusError
	if errors.As(err, &status) {
		return status.code >= 500 || status.code == 429 || status.code == 408
	}
	var transport *transportError
	return errors.As(err, &transport) || isTransport(err)
}

// IsUnknownOutcome reports whether a write that failed with err may be stored
// all the same, whole or in part: the answer was lost, or the server failed in
// the middle, where a view or a partition may have been written and the next
// one not. An error in the data is found before anything is written as long as
// the insert is a single block.
func IsUnknownOutcome(err error) bool {
	if err == nil {
		return false
	}
	var exception *Error
	if errors.As(err, &exception) {
		return slices.Contains(retryableCodes, exception.Code) && !slices.Contains(refusedCodes, exception.Code) ||
			exception.Code == 49 || exception.Code == 1002 // LOGICAL_ERROR, UNKNOWN_EXCEPTION
	}
	var status *statusError
	if errors.As(err, &status) {
		return status.code >= 500 || status.code == 408
	}
	var transport *transportError
	if errors.As(err, &transport) {
		return !transport.unsent
	}
	return isTransport(err) && !isDial(err)
}
