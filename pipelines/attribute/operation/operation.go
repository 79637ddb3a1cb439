// Package operation finds the operation that a call is one of, from its method,
// host and path.
//
// In: rules, as APIs and their operations in the catalog say them. Out: for a
// call, the API and the operation, or the API alone, or nothing. The package is
// pure. A Matcher never changes, so it is shared by all goroutines and replaced
// as a whole; a crash loses nothing, because it is made from the catalog.
//
// # What matches
//
// A path is compared segment by segment with base path and template. Letter case
// counts. The query and the fragment do not belong to the path. Escapes of
// characters that need none are the characters (%7E is ~), and the hexadecimal
// digits of all others have no case; an escaped slash (%2F) does not end a
// segment. Dot segments are segments like any others: whoever routes the call
// has resolved them, or has taken them for names. A parameter is never empty, so
// a path with an empty segment (//) matches by /** only.
//
// One slash at the end of a path does not count, unless there is a template with
// it: /orders is matched by /orders and /orders/, the template /orders/ by
// /orders/ only, and where both exist each gets its own. The template / is the
// base path itself, with and without the slash.
//
// # Which of several wins
//
// As gateways route: first by host, then by path, then by method.
//
//   - A host that is named wins over *.suffix, a longer suffix over a shorter one,
//     and that over any host.
//   - Paths are compared from the left. In the first segment in which two differ, a
//     literal wins over a segment with a literal part ({id}:cancel), that over a
//     parameter, and that over the rest of the path (/**). Of two segments with
//     literal parts the one with more literal characters wins, then the one with
//     the longer prefix, then the first one by text.
//   - A method that is named wins over any method.
//
// Something less specific is taken when nothing more specific matches as a whole.
package operation

import (
	"strings"
	"unsafe"
)

// Target is what a call is attributed to.
type Target struct {
	API       string
	Operation string // empty if only the API is known
}

// Rule says which calls are calls of an operation. Every rule also says where
// its API is: a call under the hosts and the base path of an API that is none of
// its operations is a call of the API alone. An API that names neither hosts nor
// a base path, and a place that two APIs share, say nothing about such calls.
type Rule struct {
	API string
	// Operation is empty, as is Template then, in a rule that only says where the
	// API is.
	Operation string
	// Hosts are names, or *.suffix for everything below a suffix, without regard to
	// case; a port does not count. None is any host.
	Hosts []string
	// BasePath precedes the template; it has no parameters.
	BasePath string
	// Method is any method if it is empty or *.
	Method string
	// Template is a path with parameters: /v1/orders/{id}, /v1/orders/{id}:cancel,
	// /v1/{name=orders/*}. At its end, /**, /{name=**} and /{name+} are the rest of
	// the path, which may be empty. A gRPC method is /package.Service/Method.
	Template string
}

// Matcher finds operations.
type Matcher struct {
	names    map[string]*site // by host
	suffixes map[string]*site // by suffix with its leading dot, for *.suffix
	any      *site
}

// site is what is found under a host.
type site struct {
	paths *node
	less  *site // the next less specific one that the same hosts match
}

// Match returns the operation of a call; if there is none, the API it belongs to.
// It does not allocate unless a path is over 512 bytes long and has escapes.
func (m *Matcher) Match(method, host, path string) (Target, bool) {
	if i := strings.IndexByte(path, '?'); i >= 0 {
		path = path[:i]
	}
	if i := strings.IndexByte(path, '#'); i >= 0 {
		path = path[:i]
	}
	if strings.IndexByte(path, '%') >= 0 {
		return m.matchEscaped(method, host, path)
	}
	return m.match(method, host, path)
}

func (m *Matcher) matchEscaped(method, host, path string) (Target, bool) {
	var space [512]byte
	canonical := appendCanonical(space[:0], path)
	// The string lives no longer than the call, and nobody writes to the bytes.
	return m.match(method, host, unsafe.String(unsafe.SliceData(canonical), len(canonical)))
}

func (m *Matcher) match(method, host, path string) (Target, bool) {
	if path == "" || path[0] != '/' {
		return Target{}, false // the * of OPTIONS, the authority of CONNECT
	}
	first := m.site(host)
	for s := first; s != nil; s = s.less {
		if t := s.paths.find(path, method); t != nil {
			return *t, true
		}
	}
	for s := first; s != nil; s = s.less {
		if p := s.paths.place(path); p != nil {
			return Target{API: p.api}, !p.shared
		}
	}
	return Target{}, false
}
