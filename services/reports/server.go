package reports

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	reportsv1 "github.com/tollway/tollway/schemas/proto/tollway/reports/v1"
	"github.com/tollway/tollway/services/platform/clickhouse"
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

// Watermark says up to when all calls that were acknowledged are in the store;
// the zero time when that is not known.
type Watermark interface {
	Watermark(ctx context.Context) (time.Time, error)
}

// Caller is who asks.
type Caller struct {
	// Account is the only one whose calls the caller may see, where Restricted.
	Account    string
	Restricted bool
}

// Deps are what a server needs.
type Deps struct {
	Store     Store
	Watermark Watermark // nil: complete_until is never known
	// Caller reads who asks from the context that authentication has filled.
	Caller     func(context.Context) (Caller, error)
	Now        func() time.Time // nil: the clock
	Log        zerolog.Logger
	Registerer prometheus.Registerer
}

// Rules name the roles that may call each method.
var Rules = map[string][]string{
	reportsv1.Reports_Query_FullMethodName:           {"admin", "product_manager", "finance", "consumer"},
	reportsv1.Reports_DescribeMetrics_FullMethodName: {"admin", "product_manager", "finance", "consumer"},
}

// Server is the gRPC service.
type Server struct {
	reportsv1.UnimplementedReportsServer

	cfg     Config
	deps    Deps
	slots   chan struct{}
	queries *prometheus.CounterVec
	seconds prometheus.Histogram
}

// New makes a server; it runs nothing of its own.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("reports: %w", err)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	s := &Server{
		cfg: cfg, deps: deps, slots: make(chan struct{}, cfg.MaxConcurrent),
		queries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollway_reports_queries_total", Help: "Queries answered, by gRPC code.",
		}, []string{"code"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tollway_reports_query_seconds", Help: "Time that a query took.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}),
	}
	for _, c := range []prometheus.Collector{s.queries, s.seconds} {
		if err := deps.Registerer.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of reports: %w", err)
		}
	}
	return s, nil
}

// Query answers one request.
func (s *Server) Query(ctx context.Context, r *reportsv1.QueryRequest) (*reportsv1.QueryResponse, error) {
	begin := time.Now()
	answer, err := s.query(ctx, r)
	s.seconds.Observe(time.Since(begin).Seconds())
	s.queries.WithLabelValues(status.Code(err).String()).Inc()
	return answer, err
}

func (s *Server) query(ctx context.Context, r *reportsv1.QueryRequest) (*reportsv1.QueryResponse, error) {
	caller, err := s.deps.Caller(ctx)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	now := s.deps.Now()
	p, err := s.cfg.read(r, now)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if caller.Restricted {
		if caller.Account == "" {
			return nil, status.Error(codes.PermissionDenied, "the caller is tied to an account, and its token names none")
		}
		if err := p.restrict(caller.Account); err != nil {
			return nil, status.Error(codes.PermissionDenied, err.Error())
		}
	}
	answer, err := s.run(ctx, p, now)
	if err != nil {
		return nil, s.failure(err)
	}
	return answer, nil
}

// run reads the store, at most MaxConcurrent at a time.
func (s *Server) run(ctx context.Context, p *report, now time.Time) (*reportsv1.QueryResponse, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	// The watermark is read first: what comes in between is counted, and
	// complete_until promises less than there is.
	answer := &reportsv1.QueryResponse{}
	if err := s.watermark(ctx, answer); err != nil {
		return nil, err
	}
	rows, source, err := s.read(ctx, &p.query, p.location, now)
	if err != nil {
		return nil, err
	}
	answer.SourceTable = source
	if p.compare {
		if err := s.addPrevious(ctx, p, rows, now); err != nil {
			return nil, err
		}
	}
	for _, row := range rows {
		answer.Rows = append(answer.Rows, &structpb.Struct{Fields: row.fields})
	}
	return answer, nil
}

func (s *Server) watermark(ctx context.Context, answer *reportsv1.QueryResponse) error {
	if s.deps.Watermark == nil {
		return nil
	}
	t, err := s.deps.Watermark.Watermark(ctx)
	if err != nil {
		// The rows are as good as ever; only how complete they are is unknown.
		s.deps.Log.Warn().Err(err).Msg("reading the watermark for a report")
		return ctx.Err()
	}
	if !t.IsZero() {
		answer.CompleteUntil = timestamppb.New(t)
	}
	return nil
}

// A row of an answer, with what identifies it among the others.
type row struct {
	key    string
	fields map[string]*structpb.Value
}

// read plans and runs a query.
func (s *Server) read(ctx context.Context, q *query, loc *time.Location, now time.Time) ([]row, string, error) {
	tables := candidates(q.families(), q.buckets)
	segments := plan(tables, q.from, q.to)
	if err := s.cfg.checkRetention(segments, tables, now); err != nil {
		return nil, "", status.Error(codes.FailedPrecondition, err.Error())
	}
	text, params := q.statement(segments, s.cfg.limits())
	var rows []row
	err := s.deps.Store.Query(ctx, text, params, func(r Rows) error {
		row, err := q.scan(r, loc)
		rows = append(rows, row)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("query %s: %w", sourceTables(segments), err)
	}
	return rows, sourceTables(segments), nil
}

// scan reads one row of the statement.
func (q *query) scan(r Rows, loc *time.Location) (row, error) {
	labels := make([]string, len(q.dimensions))
	values := make([]*float64, len(q.metrics))
	var bucket int64
	var dest []any
	for i := range labels {
		dest = append(dest, &labels[i])
	}
	if q.buckets != nil {
		dest = append(dest, &bucket)
	}
	for i := range values {
		dest = append(dest, &values[i])
	}
	if err := r.Scan(dest...); err != nil {
		return row{}, fmt.Errorf("scan row: %w", err)
	}
	fields := make(map[string]*structpb.Value, len(dest))
	for i, d := range q.dimensions {
		fields[d.name] = structpb.NewStringValue(labels[i])
	}
	if q.buckets != nil {
		fields[timeColumn] = structpb.NewStringValue(time.UnixMicro(bucket).In(loc).Format(time.RFC3339))
	}
	for i, m := range q.metrics {
		fields[m.name] = number64(values[i])
	}
	return row{key: strings.Join(labels, "\x00"), fields: fields}, nil
}

func number64(f *float64) *structpb.Value {
	if f == nil {
		return structpb.NewNullValue()
	}
	return structpb.NewNumberValue(*f)
}

// addPrevious puts the metrics of the previous period beside those of each
// group. A group that had no calls then has zero of what is counted and null
// of what is computed from calls.
func (s *Server) addPrevious(ctx context.Context, p *report, rows []row, now time.Time) error {
	before, _, err := s.read(ctx, p.previous(s.cfg.MaxResultRows), p.location, now)
	if err != nil {
		return err
	}
	byKey := make(map[string]row, len(before))
	for _, b := range before {
		byKey[b.key] = b
	}
	for _, row := range rows {
		b, ok := byKey[row.key]
		for _, m := range p.metrics {
			value := b.fields[m.name]
			if !ok {
				value = m.ofNothing()
			}
			row.fields[previousPrefix+m.name] = value
		}
	}
	return nil
}

// ofNothing is the metric over no calls.
func (m *metric) ofNothing() *structpb.Value {
	switch m.unit {
	case unitCalls, unitBytes, unitRate:
		return structpb.NewNumberValue(0)
	}
	return structpb.NewNullValue()
}

// DescribeMetrics lists the registry.
func (s *Server) DescribeMetrics(context.Context, *reportsv1.DescribeMetricsRequest) (*reportsv1.DescribeMetricsResponse, error) {
	answer := &reportsv1.DescribeMetricsResponse{}
	for _, m := range listedMetrics() {
		answer.Metrics = append(answer.Metrics, &reportsv1.Metric{
			Name: m.name, Description: m.description, Unit: m.unit, Tables: tablesOf(m.families()),
		})
	}
	for _, d := range dimensions {
		answer.Dimensions = append(answer.Dimensions, &reportsv1.Dimension{
			Name: d.name, Description: d.description, Tables: tablesOf(d.families), Numeric: d.numeric,
		})
	}
	return answer, nil
}

// failure turns an error of the store into a status. What the store says goes
// to the log: it may name what a caller should not know.
func (s *Server) failure(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	switch {
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the query was cancelled")
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "the query took too long")
	}
	code := clickhouse.Code(err)
	if hint, ok := limitHints[code]; ok {
		return status.Error(codes.ResourceExhausted, hint)
	}
	if code != 0 {
		s.deps.Log.Error().Err(err).Msg("running a report")
		return status.Error(codes.Internal, "the store could not run the query; see the log of the server")
	}
	s.deps.Log.Error().Err(err).Msg("running a report")
	return status.Error(codes.Unavailable, "the store cannot be reached; try again")
}

const askForLess = "; take a shorter range, fewer dimensions or a filter"

// limitHints explain the exceptions of the store by which it enforces limits.
var limitHints = map[int]string{
	158: "the query would read more rows than reports.max_rows_to_read allows" + askForLess,
	159: "the query took longer than reports.max_execution_time" + askForLess,
	160: "the query is too slow to end within reports.max_execution_time" + askForLess,
	241: "the query needs more memory than reports.max_memory_bytes" + askForLess,
	307: "the query would read more bytes than is allowed" + askForLess,
	396: "the answer has more rows than reports.max_result_rows" + askForLess,
}
