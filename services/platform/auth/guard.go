package auth

import (
	"context"
	"errors"
	"math"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tollway/tollway/services/platform/problem"
)

// Guard applies rules to gRPC and HTTP calls.
type Guard struct {
	auth  Authenticator
	rules ruleSet
	now   func() time.Time
}

// NewGuard checks the rules.
func NewGuard(auth Authenticator, rules Rules) (*Guard, error) {
	set, err := newRuleSet(rules)
	if err != nil {
		return nil, err
	}
	return &Guard{auth: auth, rules: set, now: time.Now}, nil
}

var errForbidden = errors.New("forbidden")

// Allowed tells whether the rules let a principal make a call, by role and scope.
// What the call is about is judged by AllowedRequest.
func (g *Guard) Allowed(call string, p Principal) bool {
	rule, _ := g.rules.find(call)
	return slices.Contains(rule.Roles, Anyone) || rule.allows(p, call) == nil
}

// AllowedRequest tells whether a principal may make a gRPC call with this
// request: nil, or a gRPC status that says why not.
func (g *Guard) AllowedRequest(method string, p Principal, request any) error {
	rule, _ := g.rules.find(method)
	if slices.Contains(rule.Roles, Anyone) {
		return nil
	}
	if err := rule.allows(p, method); err != nil {
		return statusOf(err)
	}
	return rule.checkRequest(p, request)
}

// checkRequest keeps consumers to their own account.
func (r Rule) checkRequest(p Principal, request any) error {
	if p.Role != Consumer {
		return nil
	}
	if err := ownAccount(r, p.Account, request); err != nil {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	return nil
}

// admit returns the context to go on with, with the caller in it, or why not. A
// call for anyone is not authenticated at all.
func (g *Guard) admit(ctx context.Context, call, bearer string) (context.Context, Rule, error) {
	rule, _ := g.rules.find(call)
	if slices.Contains(rule.Roles, Anyone) {
		return ctx, rule, nil
	}
	p, err := g.auth.Authenticate(ctx, bearer)
	if err != nil {
		return nil, rule, err
	}
	if err := rule.allows(p, call); err != nil {
		return nil, rule, err
	}
	return WithPrincipal(ctx, p), rule, nil
}

// bearerOf takes the token out of an Authorization header.
func bearerOf(header string) string {
	const scheme = "bearer "
	if len(header) < len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return ""
	}
	return strings.TrimSpace(header[len(scheme):])
}

// bearerIn takes it out of gRPC metadata.
func bearerIn(ctx context.Context) string {
	if v := metadata.ValueFromIncomingContext(ctx, "authorization"); len(v) == 1 {
		return bearerOf(v[0])
	}
	return ""
}

func (g *Guard) admitGRPC(ctx context.Context, method string) (context.Context, Rule, error) {
	out, rule, err := g.admit(withCaller(ctx), method, bearerIn(ctx))
	if err != nil {
		return nil, rule, statusOf(err)
	}
	return out, rule, nil
}

// statusOf tells a gRPC caller why it is not let in.
func statusOf(err error) error {
	var locked *LockedOutError
	switch {
	case errors.As(err, &locked):
		return locked.status()
	case errors.Is(err, errForbidden):
		return status.Error(codes.PermissionDenied, reason(err))
	case errors.Is(err, ErrUnauthenticated):
		return status.Error(codes.Unauthenticated, ErrUnauthenticated.Error())
	}
	return status.Error(codes.Unavailable, errNotNow)
}

// reason is why something is forbidden, as far as the caller may know.
func reason(err error) string { return strings.TrimPrefix(err.Error(), errForbidden.Error()+": ") }

// errNotNow is all that a caller hears about parts that do not work.
const errNotNow = "who calls cannot be checked now"

// Tap refuses strangers when a call begins. An interceptor of single calls runs
// only after the whole request was read, and a stranger should not fill the
// memory. What an HTTP request sends on within the process is KnownFirst's to
// judge: all such requests share one connection, which must not wait.
func (g *Guard) Tap() tap.ServerInHandle {
	return func(ctx context.Context, info *tap.Info) (context.Context, error) {
		if inProcess(ctx) {
			return ctx, nil
		}
		_, _, err := g.admitGRPC(ctx, info.FullMethodName)
		return ctx, err
	}
}

// Unary guards single calls.
func (g *Guard) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		ctx, rule, err := g.admitGRPC(ctx, info.FullMethod)
		if err != nil {
			return nil, err
		}
		if p, ok := FromContext(ctx); ok {
			if err := rule.checkRequest(p, req); err != nil {
				return nil, err
			}
		}
		return next(ctx, req)
	}
}

// Stream guards streams when they begin, and while messages come: a gateway's
// stream lives for days, and its token may not.
func (g *Guard) Stream() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		ctx, rule, err := g.admitGRPC(ss.Context(), info.FullMethod)
		if err != nil {
			return err
		}
		return next(srv, &guardedStream{ServerStream: ss, guard: g, method: info.FullMethod, ctx: ctx, rule: rule, admitted: g.now()})
	}
}

// readmit is how long a caller on a stream may go unjudged.
const readmit = time.Second

type guardedStream struct {
	grpc.ServerStream
	guard    *Guard
	method   string
	ctx      context.Context
	rule     Rule
	admitted time.Time
}

// Context holds the principal.
func (s *guardedStream) Context() context.Context { return s.ctx }

// RecvMsg is what the generated code reads requests with.
func (s *guardedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	p, ok := FromContext(s.ctx)
	if !ok {
		return nil
	}
	if err := s.again(p); err != nil {
		return err
	}
	return s.rule.checkRequest(p, m)
}

// again judges a caller anew who was let in a while ago. Where that cannot be
// done now, he stays: what he sends would be lost with the stream.
func (s *guardedStream) again(was Principal) error {
	now := s.guard.now()
	if since := now.Sub(s.admitted); since >= 0 && since < readmit {
		return nil
	}
	ctx, _, err := s.guard.admitGRPC(s.ServerStream.Context(), s.method)
	if status.Code(err) == codes.Unavailable {
		return nil
	}
	if err != nil {
		return err
	}
	if p, _ := FromContext(ctx); p.Name != was.Name || p.Role != was.Role || p.Account != was.Account {
		return statusOf(ErrUnauthenticated)
	}
	s.admitted = now
	return nil
}

// Missing lists the methods of a server that no rule matches, in order. A process
// refuses to start when there are any: they were forgotten.
func (g *Guard) Missing(srv *grpc.Server) []string {
	return slices.DeleteFunc(Methods(srv), func(method string) bool {
		_, ok := g.rules.find(method)
		return ok
	})
}

// Middleware guards HTTP requests.
func (g *Guard) Middleware(next http.Handler) http.Handler {
	return CleanPaths(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := withHTTPCaller(r)
		ctx, _, err := g.admit(ctx, r.Method+" "+r.URL.Path, bearerOf(r.Header.Get("Authorization")))
		if err != nil {
			refuse(w, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	}))
}

// KnownFirst refuses to read more than some bytes from somebody who is not known,
// for a handler that judges callers only after it has read the request.
func (g *Guard) KnownFirst(limit int64, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A length that is not known is -1.
		if r.ContentLength < 0 || r.ContentLength > limit {
			if _, err := g.auth.Authenticate(withHTTPCaller(r), bearerOf(r.Header.Get("Authorization"))); err != nil {
				refuse(w, err)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// CleanPaths refuses a path that is not in its shortest form, since a handler
// might read it differently than the rules do.
func CleanPaths(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := r.URL.Path
		if clean := path.Clean(p); clean != p && clean+"/" != p {
			problem.Write(w, http.StatusBadRequest, "Malformed path", "the path has empty or dot segments", nil)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// status has the wait as a detail, for programs.
func (e *LockedOutError) status() error {
	s := status.New(codes.ResourceExhausted, e.Error())
	if detailed, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)}); err == nil {
		s = detailed
	}
	return s.Err()
}

// retryAfter is whole seconds, rounded up.
func (e *LockedOutError) retryAfter() string {
	return strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds())))
}

func refuse(w http.ResponseWriter, err error) {
	var locked *LockedOutError
	switch {
	case errors.As(err, &locked):
		w.Header().Set("Retry-After", locked.retryAfter())
		problem.Write(w, http.StatusTooManyRequests, "Too many failed attempts", locked.Error(), nil)
	case errors.Is(err, errForbidden):
		problem.Write(w, http.StatusForbidden, "", reason(err), nil)
	case errors.Is(err, ErrUnauthenticated):
		w.Header().Set("WWW-Authenticate", `Bearer realm="tollway"`)
		problem.Write(w, http.StatusUnauthorized, "", ErrUnauthenticated.Error(), nil)
	default:
		problem.Write(w, http.StatusServiceUnavailable, "", errNotNow, nil)
	}
}
