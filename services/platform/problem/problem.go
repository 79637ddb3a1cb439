// Package problem writes errors over HTTP as RFC 9457 problem details. In goes a
// status and texts, out goes application/problem+json. It keeps nothing.
package problem

import (
	"encoding/json"
	"maps"
	"net/http"
)

// ContentType is the media type of the body.
const ContentType = "application/problem+json"

// Write answers a request with a problem. The title is the same for every
// occurrence of a kind of problem; the detail says what is wrong with this
// request; both may be empty. Extra members must not be named like the standard
// ones, which win. Headers that belong to the answer are set before the call.
func Write(w http.ResponseWriter, status int, title, detail string, extra map[string]any) {
	if title == "" {
		title = http.StatusText(status)
	}
	body := maps.Clone(extra)
	if body == nil {
		body = map[string]any{}
	}
	body["type"] = "about:blank"
	body["status"] = status
	body["title"] = title
	if detail != "" {
		body["detail"] = detail
	} else {
		delete(body, "detail")
	}
	b, err := json.Marshal(body)
	if err != nil {
		// An extra member that JSON cannot hold must not hide the problem itself.
		Write(w, status, title, detail, nil)
		return
	}
	h := w.Header()
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store")
	h.Del("Content-Length")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // nobody is left to tell when the caller is gone
}
