package auth

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tollway/tollway/services/platform/problem"
)

// Rules says who may call what. A key is a gRPC method ("/pkg.Service/Method"), an
// HTTP method and path ("POST /v1/events"), or the beginning of one, ending in
// "*". An exact key wins over a beginning, a longer beginning over a shorter one.
// What no key matches is refused to everyone.
type Rules map[string][]Role

// Guard applies rules to gRPC and HTTP calls.
type Guard struct {
	auth     Authenticator
	exact    map[string][]Role
	prefixes []prefixRule // the longest first
}

type prefixRule struct {
	prefix string
	roles  []Role
}

// NewGuard checks the rules' keys and roles.
func NewGuard(auth Authenticator, rules Rules) (*Guard, error) {
	g := &Guard{auth: auth, exact: map[string][]Role{}}
	for key, roles := range rules {
		if err := checkRule(key, roles); err != nil {
			return nil, fmt.Errorf("rule %q: %w", key, err)
		}
		if prefix, ok := strings.CutSuffix(key, "*"); ok {
			g.prefixes = append(g.prefixes, prefixRule{prefix, roles})
		} else {
			g.exact[key] = roles
		}
	}
	slices.SortFunc(g.prefixes, func(a, b prefixRule) int { return len(b.prefix) - len(a.prefix) })
	return g, nil
}

func checkRule(key string, roles []Role) error {
	method, p, isHTTP := strings.Cut(key, " ")
	if !isHTTP {
		p = key
	} else if method == "" || strings.ToUpper(method) != method {
		return errors.New("an HTTP rule begins with the method in capitals")
	}
	if !strings.HasPrefix(p, "/") || strings.Contains(strings.TrimSuffix(p, "*"), "*") {
		return errors.New("a path begins with / and has * at its end only")
	}
	if len(roles) == 0 {
		return errors.New("no role is given")
	}
	for _, r := range roles {
		if _, ok := prefixes[r]; !ok && r != Anyone {
			return fmt.Errorf("role %q is not known", r)
		}
	}
	return nil
}

func (g *Guard) roles(call string) []Role {
	if roles, ok := g.exact[call]; ok {
		return roles
	}
	for _, r := range g.prefixes {
		if strings.HasPrefix(call, r.prefix) {
			return r.roles
		}
	}
	return nil
}

var errForbidden = errors.New("forbidden")

// admit returns the context to go on with, or why not. A call for anyone is not
// authenticated at all.
func (g *Guard) admit(ctx context.Context, call, bearer string) (context.Context, error) {
	roles := g.roles(call)
	if slices.Contains(roles, Anyone) {
		return ctx, nil
	}
	p, err := g.auth.Authenticate(ctx, bearer)
	if err != nil {
		return nil, err
	}
	if len(roles) == 0 {
		return nil, fmt.Errorf("%w: no rule allows %s", errForbidden, call)
	}
	if !slices.Contains(roles, p.Role) {
		return nil, fmt.Errorf("%w: role %s may not call %s", errForbidden, p.Role, call)
	}
	return WithPrincipal(ctx, p), nil
}

// bearerOf takes the token out of an Authorization header.
func bearerOf(header string) string {
	const scheme = "bearer "
	if len(header) < len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return ""
	}
	return strings.TrimSpace(header[len(scheme):])
}

func (g *Guard) admitGRPC(ctx context.Context, method string) (context.Context, error) {
	bearer := ""
	if v := metadata.ValueFromIncomingContext(ctx, "authorization"); len(v) == 1 {
		bearer = bearerOf(v[0])
	}
	out, err := g.admit(ctx, method, bearer)
	var locked *LockedOutError
	switch {
	case err == nil:
		return out, nil
	case errors.As(err, &locked):
		return nil, status.Error(codes.ResourceExhausted, locked.Error())
	case errors.Is(err, errForbidden):
		return nil, status.Error(codes.PermissionDenied, err.Error())
	case errors.Is(err, ErrUnauthenticated):
		return nil, status.Error(codes.Unauthenticated, ErrUnauthenticated.Error())
	}
	return nil, status.Error(codes.Unavailable, "tokens cannot be checked now")
}

// Unary guards single calls.
func (g *Guard) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		ctx, err := g.admitGRPC(ctx, info.FullMethod)
		if err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
}

// Stream guards streams, when they begin.
func (g *Guard) Stream() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		ctx, err := g.admitGRPC(ss.Context(), info.FullMethod)
		if err != nil {
			return err
		}
		return next(srv, &guardedStream{ServerStream: ss, ctx: ctx})
	}
}

type guardedStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context holds the principal.
func (s *guardedStream) Context() context.Context { return s.ctx }

// Missing lists the methods of a server that no rule matches, in order. A process
// refuses to start when there are any: they were forgotten.
func (g *Guard) Missing(srv *grpc.Server) []string {
	var out []string
	for service, info := range srv.GetServiceInfo() {
		for _, m := range info.Methods {
			if call := "/" + service + "/" + m.Name; g.roles(call) == nil {
				out = append(out, call)
			}
		}
	}
	slices.Sort(out)
	return out
}

// Middleware guards HTTP requests. A path that is not in its shortest form is
// refused, since a handler might read it differently than the rules do.
func (g *Guard) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := r.URL.Path
		if clean := path.Clean(p); clean != p && clean+"/" != p {
			problem.Write(w, http.StatusBadRequest, "Malformed path", "the path has empty or dot segments", nil)
			return
		}
		ctx, err := g.admit(WithRemote(r.Context(), r.RemoteAddr), r.Method+" "+p, bearerOf(r.Header.Get("Authorization")))
		if err != nil {
			refuse(w, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func refuse(w http.ResponseWriter, err error) {
	var locked *LockedOutError
	switch {
	case errors.As(err, &locked):
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(locked.RetryAfter.Seconds()))))
		problem.Write(w, http.StatusTooManyRequests, "Too many failed attempts", locked.Error(), nil)
	case errors.Is(err, errForbidden):
		problem.Write(w, http.StatusForbidden, "", strings.TrimPrefix(err.Error(), errForbidden.Error()+": "), nil)
	case errors.Is(err, ErrUnauthenticated):
		w.Header().Set("WWW-Authenticate", `Bearer realm="tollway"`)
		problem.Write(w, http.StatusUnauthorized, "", ErrUnauthenticated.Error(), nil)
	default:
		problem.Write(w, http.StatusServiceUnavailable, "", "tokens cannot be checked now", nil)
	}
}
