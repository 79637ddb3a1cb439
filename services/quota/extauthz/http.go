package extauthz

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/tollway/tollway/services/platform/problem"
)

// Path is where ServeHTTP is served, itself and everything below.
const Path = "/v1/authz"

// ServeHTTP decides about a call that a gateway asks about with a request of its
// own: 200, or 401 or 403 with problem details. What the decision says of the
// caller is in headers named x-tollway-*, admitted or not.
//
// A gateway that repeats the call below this path, with its method and host, is
// asking about what it sends. One that asks at this very path names the call in
// X-Original-Method, -Host and -Uri, or in X-Forwarded-Method, -Host and -Uri:
// all three of one kind and none of the other, because what the gateway does not
// set it passes on as its client has sent it, and a client must not name another
// call than it makes. The gateway's own token is in Authorization, so the call's
// is in X-Original-Authorization.
func (s *Server) ServeHTTP(w http.ResponseWriter, in *http.Request) {
	r := request{
		method: in.Method, host: in.Host, path: strings.TrimPrefix(in.RequestURI, Path),
		authorization: in.Header.Get("X-Original-Authorization"), environment: s.cfg.Environment, header: in.Header.Get,
	}
	if in.URL.Path == Path {
		if err := r.named(in.Header); err != nil {
			problem.Write(w, http.StatusBadRequest, "Which call?", err.Error(), nil)
			return
		}
	}
	d, err := s.decide(in.Context(), &r)
	if err != nil {
		problem.Write(w, http.StatusServiceUnavailable, "", "The call cannot be judged now.", nil)
		return
	}
	d.facts(func(name, value string) {
		// Values come from the catalog, in whose names no header can break.
		w.Header().Set("X-Tollway-"+strings.ReplaceAll(name, "_", "-"), value)
	})
	if d.admitted() {
		w.WriteHeader(http.StatusOK)
		return
	}
	if d.status == http.StatusUnauthorized {
		w.Header().Set("Www-Authenticate", challenge)
	}
	problem.Write(w, d.status, "", details[d.reason], map[string]any{"reason": d.reason})
}

// named takes the call from what the gateway says of it.
func (r *request) named(h http.Header) error {
	kind, other := "X-Original-", "X-Forwarded-"
	if h.Values(kind+"Uri") == nil {
		kind, other = other, kind
	}
	if h.Values(other+"Uri") != nil {
		return errors.New("X-Original-Uri and X-Forwarded-Uri are both there: the gateway must take out the one that it does not set")
	}
	for part, field := range map[string]*string{"Method": &r.method, "Host": &r.host, "Uri": &r.path} {
		values := h.Values(kind + part)
		if len(values) != 1 || values[0] == "" {
			return fmt.Errorf("the gateway must set %sMethod, %[1]sHost and %[1]sUri, each once", kind)
		}
		*field = values[0]
	}
	return nil
}
