// Package otlp takes access logs as OpenTelemetry log records, over gRPC
// (LogsService/Export) and HTTP (POST /v1/logs, protobuf or JSON): what
// Envoy's and Istio's OpenTelemetry access logger send.
//
// In: requests of many records. The attributes of a record are the fields of an
// access log by name (envoy.Entry.Set, deploy/envoy/otlp.yaml), as numbers or
// as text, in the record's attributes or in its body. The resource says which
// Envoy it was. Out: calls, to a Publisher. A request is answered only when the
// log has acknowledged its calls, so a sender knows what is stored; records that
// cannot be calls are counted in the answer's partial_success, with the reason.
// A crash loses nothing that was answered. Envoy sends a failed request again
// only where its configuration says so (deploy/envoy/otlp.yaml); otherwise it
// counts the records as dropped.
package otlp

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	logsv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	recordv1 "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/envoy"
	"github.com/tollway/tollway/services/collector/publish"
)

// Publisher takes calls, copying what it keeps. It never blocks: ErrBusy of
// package publish says that there is no room.
type Publisher interface {
	Append(d *publish.Delivery, c *call.Call) error
}

// Config of the source.
type Config struct {
	envoy.Config `yaml:",inline"`

	// MaxBody is how many bytes a request over HTTP may have, unpacked.
	MaxBody int64 `yaml:"max_body"`
	// MaxRequests is how many requests are worked on at a time.
	MaxRequests int `yaml:"max_requests"`
	// AckTimeout is how long a request waits for the log.
	AckTimeout time.Duration `yaml:"ack_timeout"`
}

// DefaultConfig is what is used where nothing is configured.
func DefaultConfig() Config {
	return Config{Config: envoy.DefaultConfig(), MaxBody: 16 << 20, MaxRequests: 64, AckTimeout: 10 * time.Second}
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	if err := c.Config.Validate(); err != nil {
		return err
	}
	switch {
	case c.MaxBody <= 0:
		return fmt.Errorf("max_body: %d is not positive", c.MaxBody)
	case c.MaxRequests <= 0:
		return fmt.Errorf("max_requests: %d is not positive", c.MaxRequests)
	case c.AckTimeout <= 0:
		return fmt.Errorf("ack_timeout: %v is not positive", c.AckTimeout)
	}
	return nil
}

// Deps are what a Server needs from others.
type Deps struct {
	Publisher Publisher
	// Trusted says whether the principal of a request may say who called. Nil
	// trusts nobody.
	Trusted func(context.Context) bool
	Clock   func() time.Time
	Metrics prometheus.Registerer
	Logger  zerolog.Logger
}

// Server is the source, for gRPC (Register) and HTTP (it is a handler).
type Server struct {
	logsv1.UnimplementedLogsServiceServer
	cfg     Config
	deps    Deps
	mapper  *envoy.Mapper
	logger  zerolog.Logger
	slots   chan struct{}
	calls   *publish.Counters
	skipped *prometheus.CounterVec
	fields  *prometheus.CounterVec
}

// New makes a source. It runs nothing of its own.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	mapper, err := envoy.NewMapper(cfg.Config)
	if err != nil {
		return nil, err
	}
	if deps.Trusted == nil {
		deps.Trusted = func(context.Context) bool { return false }
	}
	if deps.Clock == nil {
		deps.Clock = time.Now
	}
	s := &Server{
		cfg: cfg, deps: deps, mapper: mapper,
		logger: deps.Logger.Sample(&zerolog.BurstSampler{Burst: 3, Period: 10 * time.Second}),
		slots:  make(chan struct{}, cfg.MaxRequests),
		calls:  publish.NewCounters(deps.Metrics, "otlp"),
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollway_otlp_records_skipped_total",
			Help: "Records that are no calls, such as those of a call that goes on, by type."}, []string{"type"}),
		fields: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tollway_otlp_records_rejected_total",
			Help: "Records refused, by reason and field."}, []string{"reason", "field"}),
	}
	deps.Metrics.MustRegister(s.skipped, s.fields)
	return s, nil
}

// Register adds the service to a grpc server.
func (s *Server) Register(r grpc.ServiceRegistrar) { logsv1.RegisterLogsServiceServer(r, s) }

// Export publishes the calls of a request and waits until they are stored.
// Unavailable asks the sender to try again.
func (s *Server) Export(ctx context.Context, request *logsv1.ExportLogsServiceRequest) (*logsv1.ExportLogsServiceResponse, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return nil, tryAgain(publish.ErrBusy)
	}
	e := export{server: s, trusted: s.deps.Trusted(ctx), now: s.deps.Clock().UnixMicro(), delivery: publish.NewDelivery()}
	if err := e.all(request); err != nil {
		e.unanswered()
		s.logger.Warn().Err(err).Msg("log records refused")
		return nil, tryAgain(err)
	}
	if e.appended > 0 {
		wait, cancel := context.WithTimeout(ctx, s.cfg.AckTimeout)
		defer cancel()
		if err := e.delivery.Wait(wait); err != nil {
			e.unanswered()
			s.logger.Warn().Err(err).Msg("log records not acknowledged")
			return nil, tryAgain(err)
		}
		s.calls.Out.Add(float64(e.appended))
	}
	return e.answer(), nil
}

// unanswered counts calls that were handed over, but not answered for: they may
// arrive, and the sender may send them again.
func (e *export) unanswered() {
	e.server.calls.Rejected("unacknowledged").Add(float64(e.appended))
}

// tryAgain is the answer when nothing is wrong with the request.
func tryAgain(err error) error {
	st, detailed := status.New(codes.Unavailable, err.Error()).WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)})
	if detailed != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	return st.Err()
}

// export is one request.
type export struct {
	server   *Server
	trusted  bool
	now      int64
	delivery *publish.Delivery
	entry    envoy.Entry
	scratch  envoy.Scratch
	call     call.Call

	appended int
	rejected int64
	reasons  []string // of the first few rejects
}

// all appends every record; an error is the publisher's.
func (e *export) all(request *logsv1.ExportLogsServiceRequest) error {
	for _, resource := range request.GetResourceLogs() {
		node := e.server.node(resource.GetResource().GetAttributes())
		for _, scope := range resource.GetScopeLogs() {
			for i, record := range scope.GetLogRecords() {
				if err := e.record(node, i, record); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (e *export) record(node *envoy.Node, index int, record *recordv1.LogRecord) error {
	err := e.decode(node, record)
	switch {
	case errors.Is(err, errIntermediate):
		e.server.skipped.WithLabelValues(e.entry.TypeName()).Inc()
		return nil
	case err != nil:
		e.reject(index, err)
		return nil
	}
	e.server.calls.In.Inc()
	if err := e.server.deps.Publisher.Append(e.delivery, &e.call); err != nil {
		e.server.calls.Rejected("busy").Inc()
		return err
	}
	e.appended++
	return nil
}

var errIntermediate = errors.New("the call has not ended")

// decode fills the call from a record.
func (e *export) decode(node *envoy.Node, record *recordv1.LogRecord) error {
	e.entry = envoy.Entry{}
	// Envoy stamps a record with the start of its call.
	if at := record.GetTimeUnixNano(); at != 0 {
		e.entry.Start = envoy.Span{Seconds: int64(at / 1e9), Nanos: int32(at % 1e9), Set: true}
	}
	known := 0
	for _, list := range [...][]*commonv1.KeyValue{record.GetBody().GetKvlistValue().GetValues(), record.GetAttributes()} {
		n, err := e.attributes(list)
		if err != nil {
			return err
		}
		known += n
	}
	if known == 0 {
		// A log record of something else.
		return &envoy.Reject{Reason: envoy.ReasonMissing, Field: "attributes"}
	}
	if !e.entry.Ended() {
		return errIntermediate
	}
	var raw []byte
	if e.entry.StreamID == "" && e.entry.RequestID == "" {
		var err error
		if raw, err = (proto.MarshalOptions{Deterministic: true}).Marshal(record); err != nil {
			return envoy.Malformed("record")
		}
	}
	return e.server.mapper.Map(node, &e.entry, raw, e.trusted, e.now, &e.scratch, &e.call)
}

func (e *export) attributes(list []*commonv1.KeyValue) (known int, err error) {
	for _, kv := range list {
		value, ok := text(kv.GetValue())
		if !ok {
			continue
		}
		is, err := e.entry.Set(kv.GetKey(), value)
		if err != nil {
			return 0, envoy.Malformed(kv.GetKey())
		}
		if is {
			known++
		}
	}
	return known, nil
}

// text is a scalar value as text.
func text(v *commonv1.AnyValue) (string, bool) {
	switch v := v.GetValue().(type) {
	case *commonv1.AnyValue_StringValue:
		return v.StringValue, true
	case *commonv1.AnyValue_IntValue:
		return strconv.FormatInt(v.IntValue, 10), true
	case *commonv1.AnyValue_DoubleValue:
		return strconv.FormatFloat(v.DoubleValue, 'f', -1, 64), true
	case *commonv1.AnyValue_BoolValue:
		return strconv.FormatBool(v.BoolValue), true
	}
	return "", false
}

const maxReasons = 5

func (e *export) reject(index int, err error) {
	reject := &envoy.Reject{Reason: "other"}
	errors.As(err, &reject)
	e.server.calls.In.Inc()
	e.server.calls.Rejected(reject.Reason).Inc()
	e.server.fields.WithLabelValues(reject.Reason, reject.Field).Inc()
	e.rejected++
	if len(e.reasons) < maxReasons {
		e.reasons = append(e.reasons, fmt.Sprintf("record %d: %v", index, err))
	}
}

func (e *export) answer() *logsv1.ExportLogsServiceResponse {
	if e.rejected == 0 {
		return &logsv1.ExportLogsServiceResponse{}
	}
	message := strings.Join(e.reasons, "; ")
	if more := e.rejected - int64(len(e.reasons)); more > 0 {
		message += fmt.Sprintf("; and %d more", more)
	}
	e.server.logger.Warn().Int64("records", e.rejected).Str("reasons", message).Msg("log records rejected")
	return &logsv1.ExportLogsServiceResponse{PartialSuccess: &logsv1.ExportLogsPartialSuccess{
		RejectedLogRecords: e.rejected, ErrorMessage: message,
	}}
}

// node reads which Envoy sent a record from its resource: the names that Envoy
// uses of itself, else those of OpenTelemetry.
func (s *Server) node(attributes []*commonv1.KeyValue) *envoy.Node {
	n := &envoy.Node{}
	set := func(field *string, rank *int, r int, value string) {
		if r > *rank {
			*field, *rank = call.Clean(value, call.MaxString), r
		}
	}
	var id, cluster, zone, region int
	for _, kv := range attributes {
		value, ok := text(kv.GetValue())
		if !ok || value == "" {
			continue
		}
		switch kv.GetKey() {
		case "node_name":
			set(&n.ID, &id, 3, value)
		case "service.instance.id":
			set(&n.ID, &id, 2, value)
		case "host.name":
			set(&n.ID, &id, 1, value)
		case "cluster_name":
			set(&n.Cluster, &cluster, 2, value)
		case "service.name":
			set(&n.Cluster, &cluster, 1, value)
		case "zone_name":
			set(&n.Zone, &zone, 2, value)
		case "cloud.availability_zone":
			set(&n.Zone, &zone, 1, value)
		case "region":
			set(&n.Region, &region, 2, value)
		case "cloud.region":
			set(&n.Region, &region, 1, value)
		case "log_name":
			n.LogName = call.Clean(value, call.MaxString)
		}
	}
	n.Source = s.mapper.Source(n.Cluster)
	return n
}
