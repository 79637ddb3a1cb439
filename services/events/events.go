// Package events answers what became of an event that was accepted, and brings
// back messages that could not be decoded.
//
// In: the source and id of an event, as its sender knows them, or the identity
// that Tollway gave it, which FindCalls shows. Out: its fate:
// stored (with the place in the log that it came from), a duplicate,
// quarantined with the reason, in a dead letter, or not seen, with what that
// can mean. The service reads the tables that the pipelines write, and moves
// dead letters when it is told to. It holds no state: a crash during a redrive
// leaves some letters sent again and some not, and one that was sent twice is
// counted once.
package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tollway/tollway/pipelines/call"
	eventsv1 "github.com/tollway/tollway/schemas/proto/tollway/events/v1"
)

// Bounds of requests.
const (
	defaultPageSize = 50
	maxPageSize     = 1000
	maxRedrive      = 1000
	maxName         = 1024 // bytes of a source or an id
)

// Rows is the row that a scan is called for.
type Rows interface {
	Scan(dest ...any) error
}

// Store runs one statement that reads. Parameters stand in the text as
// {name:Type}. scan is called once per row.
type Store interface {
	Query(ctx context.Context, sql string, params map[string]any, scan func(Rows) error) error
}

// Watermark says up to when all events that were acknowledged have their fate;
// the zero time when that is not known.
type Watermark interface {
	Watermark(ctx context.Context) (time.Time, error)
}

// DeadLetters is the topic of messages that could not be decoded.
type DeadLetters interface {
	// List returns a page of the letters, oldest first. An unknown token is
	// ErrBadToken.
	List(ctx context.Context, pageSize int, pageToken string) (Page, error)
	// Redrive sends the named letters again, and returns a result for each in
	// the same order. Its error means that nothing is known of any.
	Redrive(ctx context.Context, ids []string) ([]Redriven, error)
}

// ErrBadToken is a page token that List did not make.
var ErrBadToken = errors.New("the page token is not one that was given out")

// Page is a part of the dead letters.
type Page struct {
	Letters []DeadLetter
	// Next is the token of the following page, empty on the last.
	Next string
	// Waiting is how many letters there are in all.
	Waiting int64
}

// DeadLetter is one message that could not be decoded.
type DeadLetter struct {
	ID              string // "<partition>-<offset>" in the dead-letter topic
	Reason          string
	Time            time.Time
	OriginTopic     string
	OriginPartition int
	OriginOffset    int64
	Bytes           int64
	// Source and EventID of the event, where they are known.
	Source  string
	EventID string
}

// Redriven is what became of one letter.
type Redriven struct {
	ID        string
	Partition int
	Offset    int64
	Err       error
}

// Deps are what a server needs.
type Deps struct {
	Store       Store
	Watermark   Watermark   // nil: the lag is never known
	DeadLetters DeadLetters // nil: there is no dead-letter topic here
	Now         func() time.Time
	Log         zerolog.Logger
}

// Rules name the roles that may call each method.
var Rules = map[string][]string{
	eventsv1.Events_TraceEvent_FullMethodName:         {"admin", "product_manager", "finance", "gateway"},
	eventsv1.Events_FindCalls_FullMethodName:          {"admin", "product_manager"},
	eventsv1.Events_ListDeadLetters_FullMethodName:    {"admin"},
	eventsv1.Events_RedriveDeadLetters_FullMethodName: {"admin"},
}

// Server is the gRPC service.
type Server struct {
	eventsv1.UnimplementedEventsServer
	deps Deps
}

// New makes a server; it runs nothing of its own.
func New(deps Deps) *Server {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	return &Server{deps: deps}
}

// TraceEvent looks for an event in every place where it can be.
func (s *Server) TraceEvent(ctx context.Context, r *eventsv1.TraceEventRequest) (*eventsv1.TraceEventResponse, error) {
	id, err := identity(r)
	if err != nil {
		return nil, err
	}
	answer := &eventsv1.TraceEventResponse{CallId: id.String()}
	// The watermark is read first: an event from before it that is found
	// nowhere afterwards was not seen.
	s.watermark(ctx, answer)
	if err := s.findStored(ctx, id, answer); err != nil {
		return nil, s.failure(err, "find the call")
	}
	if err := s.findDiscarded(ctx, id, answer); err != nil {
		return nil, s.failure(err, "find discarded copies")
	}
	slices.SortStableFunc(answer.Copies, func(a, b *eventsv1.Copy) int {
		return a.ReceiveTime.AsTime().Compare(b.ReceiveTime.AsTime())
	})
	if answer.Fate = overall(answer.Copies); answer.Fate == eventsv1.Fate_NOT_SEEN {
		if err := s.findDead(ctx, r, answer); err != nil {
			return nil, s.failure(err, "look through the dead letters")
		}
	}
	answer.Explanation = explain(answer, s.deps.Now())
	return answer, nil
}

// identity is the call's, however the request names it.
func identity(r *eventsv1.TraceEventRequest) (id call.ID, err error) {
	if r.CallId == "" {
		if err := checkName("source", r.Source); err != nil {
			return id, err
		}
		if err := checkName("id", r.Id); err != nil {
			return id, err
		}
		return call.NewID(r.Source, r.Id), nil
	}
	if r.Source != "" || r.Id != "" {
		return id, status.Error(codes.InvalidArgument, "call_id: name the event by it, or by source and id")
	}
	if id, err = call.ParseID(r.CallId); err != nil {
		return id, status.Errorf(codes.InvalidArgument, "call_id: want %d hexadecimal digits", 2*len(id))
	}
	return id, nil
}

func checkName(field, value string) error {
	if value == "" {
		return status.Errorf(codes.InvalidArgument, "%s is required", field)
	}
	if len(value) > maxName {
		return status.Errorf(codes.InvalidArgument, "%s is longer than %d bytes", field, maxName)
	}
	return nil
}

func (s *Server) watermark(ctx context.Context, answer *eventsv1.TraceEventResponse) {
	if s.deps.Watermark == nil {
		return
	}
	t, err := s.deps.Watermark.Watermark(ctx)
	if err != nil {
		s.deps.Log.Warn().Err(err).Msg("reading the watermark for a trace")
		return
	}
	if !t.IsZero() {
		answer.CompleteUntil = timestamppb.New(t)
		answer.Lag = durationpb.New(max(s.deps.Now().Sub(t), 0))
	}
}

// The id has a skip index, and all rows of one identity are found by it, so it
// may be used although FINAL comes after it.
const storedSQL = `SELECT time, received_at, stored_at, epoch, partition, offset, row,
    account, app, product, api, operation, method, status, total_us
FROM calls FINAL
WHERE id = toFixedString(unhex({id:String}), 16)
LIMIT 10
SETTINGS use_skip_indexes_if_final = 1, max_execution_time = 30`

const discardedSQL = `SELECT time, received_at, stored_at, epoch, partition, offset, row, toString(fate), toString(reason)
FROM discards FINAL
WHERE id = toFixedString(unhex({id:String}), 16)
ORDER BY received_at, epoch, partition, offset, row
LIMIT 1000
SETTINGS max_execution_time = 30`

// place is what both tables say of a row's way.
type place struct {
	at, received, stored time.Time
	epoch                uint32
	partition            uint16
	offset               int64
	row                  uint32
}

func (p *place) dest() []any {
	return []any{&p.at, &p.received, &p.stored, &p.epoch, &p.partition, &p.offset, &p.row}
}

func (p *place) copy(fate eventsv1.Fate, reason string) *eventsv1.Copy {
	return &eventsv1.Copy{
		Fate: fate, Reason: reason,
		EventTime: timestamppb.New(p.at), ReceiveTime: timestamppb.New(p.received), StoreTime: timestamppb.New(p.stored),
		Provenance: &eventsv1.Provenance{Epoch: p.epoch, Partition: uint32(p.partition), Offset: p.offset, Row: p.row},
	}
}

func (s *Server) findStored(ctx context.Context, id call.ID, answer *eventsv1.TraceEventResponse) error {
	return s.deps.Store.Query(ctx, storedSQL, map[string]any{"id": id.String()}, func(rows Rows) error {
		var p place
		var httpStatus uint16
		c := &eventsv1.StoredCall{}
		err := rows.Scan(append(p.dest(), &c.Account, &c.App, &c.Product, &c.Api, &c.Operation, &c.Method, &httpStatus, &c.TotalUs)...)
		if err != nil {
			return err
		}
		c.Status = uint32(httpStatus)
		answer.Call = c
		answer.Copies = append(answer.Copies, p.copy(eventsv1.Fate_STORED, ""))
		return nil
	})
}

func (s *Server) findDiscarded(ctx context.Context, id call.ID, answer *eventsv1.TraceEventResponse) error {
	return s.deps.Store.Query(ctx, discardedSQL, map[string]any{"id": id.String()}, func(rows Rows) error {
		var p place
		var fate, reason string
		if err := rows.Scan(append(p.dest(), &fate, &reason)...); err != nil {
			return err
		}
		answer.Copies = append(answer.Copies, p.copy(fateOf(fate), reason))
		return nil
	})
}

// fateOf reads the fate column of discards.
func fateOf(fate string) eventsv1.Fate {
	if fate == "duplicate" {
		return eventsv1.Fate_DUPLICATE
	}
	return eventsv1.Fate_QUARANTINED
}

// overall is the fate of the event: that of its luckiest copy.
func overall(copies []*eventsv1.Copy) eventsv1.Fate {
	for _, fate := range []eventsv1.Fate{eventsv1.Fate_STORED, eventsv1.Fate_DUPLICATE, eventsv1.Fate_QUARANTINED} {
		if slices.ContainsFunc(copies, func(c *eventsv1.Copy) bool { return c.Fate == fate }) {
			return fate
		}
	}
	return eventsv1.Fate_NOT_SEEN
}

// findDead looks through the oldest dead letters for the event. Most letters
// do not say which events they hold: those are only counted.
func (s *Server) findDead(ctx context.Context, r *eventsv1.TraceEventRequest, answer *eventsv1.TraceEventResponse) error {
	if s.deps.DeadLetters == nil {
		return nil
	}
	page, err := s.deps.DeadLetters.List(ctx, maxPageSize, "")
	if err != nil {
		return err
	}
	answer.WaitingDeadLetters = page.Waiting
	for _, l := range page.Letters {
		if r.CallId == "" && l.Source == r.Source && l.EventID == r.Id {
			answer.Fate = eventsv1.Fate_DEAD_LETTERED
			answer.Copies = append(answer.Copies, &eventsv1.Copy{
				Fate: eventsv1.Fate_DEAD_LETTERED, Reason: l.Reason, StoreTime: timestamppb.New(l.Time),
				Provenance: &eventsv1.Provenance{Partition: uint32(l.OriginPartition), Offset: l.OriginOffset},
			})
		}
	}
	return nil
}

// explain says the fate in a sentence, with what to do about it.
func explain(a *eventsv1.TraceEventResponse, now time.Time) string {
	switch a.Fate {
	case eventsv1.Fate_STORED:
		text := "The event is stored: reports count it once."
		if copies := len(a.Copies) - 1; copies > 0 {
			text += fmt.Sprintf(" It came %d more time(s), which changed nothing.", copies)
		}
		return text
	case eventsv1.Fate_DUPLICATE:
		return "Only copies of the event are known: the one that was counted is past the retention of calls. The rollups still count it."
	case eventsv1.Fate_QUARANTINED:
		return "The event was understood but is not counted: " + a.Copies[len(a.Copies)-1].Reason + ". Correct it and send it again."
	case eventsv1.Fate_DEAD_LETTERED:
		return "The message that carried the event could not be decoded: " + a.Copies[len(a.Copies)-1].Reason + ". It waits for `tollway events dlq redrive`."
	}
	return explainNotSeen(a, now)
}

func explainNotSeen(a *eventsv1.TraceEventResponse, now time.Time) string {
	parts := []string{"No trace of the event was found."}
	if a.CompleteUntil == nil {
		parts = append(parts, "How far the pipelines are is not known, so it may still be on its way.")
	} else {
		parts = append(parts, fmt.Sprintf("If it was acknowledged before %s (%s ago), it never reached the log, its source or id differs, or it is past the retention; if later, it may still be on its way.",
			a.CompleteUntil.AsTime().Format(time.RFC3339), now.Sub(a.CompleteUntil.AsTime()).Round(time.Millisecond)))
	}
	if a.WaitingDeadLetters > 0 {
		parts = append(parts, fmt.Sprintf("%d dead letter(s) wait that could not be decoded; it may be in one of them.", a.WaitingDeadLetters))
	}
	return strings.Join(parts, " ")
}

// ListDeadLetters pages through the dead letters.
func (s *Server) ListDeadLetters(ctx context.Context, r *eventsv1.ListDeadLettersRequest) (*eventsv1.ListDeadLettersResponse, error) {
	if r.PageSize < 0 {
		return nil, status.Error(codes.InvalidArgument, "page_size must not be negative")
	}
	if s.deps.DeadLetters == nil {
		return nil, status.Error(codes.FailedPrecondition, "this server has no dead-letter topic")
	}
	size := min(int(r.PageSize), maxPageSize)
	if size == 0 {
		size = defaultPageSize
	}
	page, err := s.deps.DeadLetters.List(ctx, size, r.PageToken)
	if errors.Is(err, ErrBadToken) {
		return nil, status.Error(codes.InvalidArgument, "page_token: "+ErrBadToken.Error())
	}
	if err != nil {
		return nil, s.failure(err, "list dead letters")
	}
	answer := &eventsv1.ListDeadLettersResponse{NextPageToken: page.Next}
	for _, l := range page.Letters {
		answer.DeadLetters = append(answer.DeadLetters, &eventsv1.DeadLetter{
			Id: l.ID, Reason: l.Reason, CreateTime: timestamppb.New(l.Time),
			OriginTopic: l.OriginTopic, OriginPartition: int32(l.OriginPartition), OriginOffset: l.OriginOffset,
			SizeBytes: l.Bytes, Source: l.Source, EventId: l.EventID,
		})
	}
	return answer, nil
}

// RedriveDeadLetters sends letters again.
func (s *Server) RedriveDeadLetters(ctx context.Context, r *eventsv1.RedriveDeadLettersRequest) (*eventsv1.RedriveDeadLettersResponse, error) {
	if len(r.Ids) == 0 || len(r.Ids) > maxRedrive {
		return nil, status.Errorf(codes.InvalidArgument, "ids: name between 1 and %d dead letters", maxRedrive)
	}
	if s.deps.DeadLetters == nil {
		return nil, status.Error(codes.FailedPrecondition, "this server has no dead-letter topic")
	}
	results, err := s.deps.DeadLetters.Redrive(ctx, r.Ids)
	if err != nil {
		return nil, s.failure(err, "redrive dead letters")
	}
	answer := &eventsv1.RedriveDeadLettersResponse{}
	for _, result := range results {
		out := &eventsv1.RedriveResult{Id: result.ID}
		if result.Err != nil {
			out.Error = result.Err.Error()
		} else {
			out.Provenance = &eventsv1.Provenance{Partition: uint32(result.Partition), Offset: result.Offset}
		}
		answer.Results = append(answer.Results, out)
	}
	return answer, nil
}

// failure logs what a part of the system says, and tells the caller only that
// it cannot be reached.
func (s *Server) failure(err error, doing string) error {
	switch {
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, doing+": cancelled")
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, doing+": took too long")
	}
	s.deps.Log.Error().Err(err).Msg(doing)
	return status.Error(codes.Unavailable, doing+": the store or the log cannot be reached; try again, and see the log of the server")
}
