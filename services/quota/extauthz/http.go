package extauthz

import (
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
// The call's method, host and path with query are taken from X-Original-Method,
// -Host and -URI, or X-Forwarded-Method, -Host and -Uri, or, where the gateway
// repeats the call below this path, from the request itself. The gateway's own
// token is in Authorization, so the call's is in X-Original-Authorization.
func (s *Server) ServeHTTP(w http.ResponseWriter, in *http.Request) {
	h := in.Header
	r := request{
		method:        one(h, "X-Original-Method", "X-Forwarded-Method"),
		host:          one(h, "X-Original-Host", "X-Forwarded-Host"),
		path:          one(h, "X-Original-Uri", "X-Forwarded-Uri"),
		authorization: h.Get("X-Original-Authorization"),
		environment:   s.cfg.Environment,
		header:        h.Get,
	}
	if r.method == "" {
		r.method = in.Method
	}
	if r.host == "" {
		r.host = in.Host
	}
	if r.path == "" {
		r.path = strings.TrimPrefix(in.RequestURI, Path)
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

func one(h http.Header, names ...string) string {
	for _, n := range names {
		if v := h.Get(n); v != "" {
			return v
		}
	}
	return ""
}
