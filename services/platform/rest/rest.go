// Package rest puts HTTP and JSON in front of the gRPC services of the same
// process. In come HTTP requests, out go gRPC calls to the process's own server
// over a connection in memory, and their answers as JSON or problem details.
//
// The way through the server is a detour on purpose: whatever the server's
// interceptors check is then checked once, in one place, for both kinds of
// callers. Calling the service's methods directly would be faster and would need
// every check a second time. It keeps nothing; a crash loses the requests that
// are on their way.
package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tollway/tollway/services/platform/auth"
	"github.com/tollway/tollway/services/platform/problem"
)

const (
	// A request is read before the server judges who sends it. That is little, or
	// the sender is known.
	maxBody      = 16 << 20
	maxStrangers = 64 << 10
	// buffer of a connection in memory.
	buffer = 256 << 10
)

// Registration is what the generated code calls RegisterXHandler.
type Registration func(ctx context.Context, mux *runtime.ServeMux, conn *grpc.ClientConn) error

// Gateway is the HTTP side.
type Gateway struct {
	mux      *runtime.ServeMux
	handler  http.Handler
	listener *bufconn.Listener
	conn     *grpc.ClientConn
}

// New makes a gateway. Its server must have Credentials and the guard's
// interceptors, and be run by Serve.
func New(guard *auth.Guard) (*Gateway, error) {
	g := &Gateway{listener: bufconn.Listen(buffer)}
	g.mux = runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, JSON()),
		runtime.WithErrorHandler(writeError),
		runtime.WithRoutingErrorHandler(writeRoutingError),
		// Nothing of a request becomes metadata but its Authorization, which the
		// runtime forwards by itself, and what auth knows about the caller. By
		// default a caller could set any metadata with a Grpc-Metadata- header.
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithMetadata(auth.Forward),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithDisablePathLengthFallback(),
	)
	var err error
	g.conn, err = grpc.NewClient("passthrough:in-process",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return g.listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)),
		grpc.WithDisableServiceConfig())
	if err != nil {
		return nil, fmt.Errorf("rest: %w", err)
	}
	g.handler = auth.CleanPaths(guard.KnownFirst(maxStrangers, http.HandlerFunc(g.serve)))
	return g, nil
}

// Register adds services. Not once requests come in.
func (g *Gateway) Register(ctx context.Context, services ...Registration) error {
	for _, register := range services {
		if err := register(ctx, g.mux, g.conn); err != nil {
			return fmt.Errorf("rest: %w", err)
		}
	}
	return nil
}

// Serve lets the server answer the gateway, until ctx ends or the server stops.
func (g *Gateway) Serve(ctx context.Context, server *grpc.Server) error {
	stopped := context.AfterFunc(ctx, server.GracefulStop)
	defer stopped()
	if err := server.Serve(memoryListener{g.listener}); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve in memory: %w", err)
	}
	return nil
}

// Close ends the connection. Calls on their way fail.
func (g *Gateway) Close() error { return g.conn.Close() }

// ServeHTTP answers a request. The guard of the gRPC server checks the caller, so
// the gateway must not stand behind another one.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.handler.ServeHTTP(w, r) }

func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength > maxBody {
		writeTooLarge(w)
		return
	}
	r.Body = &body{ReadCloser: http.MaxBytesReader(w, r.Body, maxBody)}
	g.mux.ServeHTTP(w, r)
}

// body remembers that a request was cut off: what reads it says only that it is no
// JSON.
type body struct {
	io.ReadCloser
	tooLarge bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	var limit *http.MaxBytesError
	b.tooLarge = b.tooLarge || errors.As(err, &limit)
	return n, err
}

func writeTooLarge(w http.ResponseWriter) {
	problem.Write(w, http.StatusRequestEntityTooLarge, "", fmt.Sprintf("a request has at most %d MiB", maxBody>>20), nil)
}

// JSON is how messages are written and read: with the names of the schema, every
// field present, and a request's unknown field an error.
func JSON() runtime.Marshaler {
	return &runtime.JSONPb{MarshalOptions: protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}}
}

// writeError writes a gRPC status as problem details, with the code beside.
func writeError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	if b, ok := r.Body.(*body); ok && b.tooLarge {
		writeTooLarge(w)
		return
	}
	s := status.Convert(err)
	extra := map[string]any{"code": s.Code().String()}
	if s.Code() == codes.Unauthenticated {
		w.Header().Set("WWW-Authenticate", `Bearer realm="tollway"`)
	}
	var violations []map[string]string
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.RetryInfo:
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(d.GetRetryDelay().AsDuration().Seconds()))))
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				violations = append(violations, map[string]string{"field": v.GetField(), "description": v.GetDescription()})
			}
		}
	}
	if len(violations) > 0 {
		extra["violations"] = violations
	}
	problem.Write(w, runtime.HTTPStatusFromCode(s.Code()), "", s.Message(), extra)
}

func writeRoutingError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	detail := fmt.Sprintf("there is no %s %s", r.Method, r.URL.Path)
	if code == http.StatusBadRequest {
		detail = ""
	}
	problem.Write(w, code, "", detail, nil)
}
