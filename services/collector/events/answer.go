package events

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// problem is an answer that is not a success, as RFC 9457 has it.
type problem struct {
	status     int
	detail     string
	reason     string // of the metric, for what is refused as a whole
	retryAfter string // seconds
	position   int    // byte of the body, with reason malformed
	settles    bool   // what was accepted before it stays accepted
}

func refuse(status int, detail string) *problem { return &problem{status: status, detail: detail} }

// write answers with the problem, if there is one, and with what became of the
// items, unless they have to be sent again.
func write(w http.ResponseWriter, p *problem, q *request) {
	status, b := http.StatusAccepted, []byte{'{'}
	contentType := "application/json"
	if p != nil {
		status, contentType = p.status, "application/problem+json"
		b = append(b, `"type":"about:blank","title":`...)
		b = appendString(b, http.StatusText(status))
		b = append(b, `,"status":`...)
		b = strconv.AppendInt(b, int64(status), 10)
		b = append(b, `,"detail":`...)
		b = appendString(b, p.detail)
		if p.reason == "malformed" && p.position >= 0 {
			b = append(b, `,"position":`...)
			b = strconv.AppendInt(b, int64(p.position), 10)
		}
		if p.retryAfter != "" {
			w.Header().Set("Retry-After", p.retryAfter)
		}
	}
	if q != nil && (p == nil || p.retryAfter == "" && q.index > 0) {
		if p != nil {
			b = append(b, ',')
		}
		b = q.summary(b)
	}
	b = append(b, "}\n"...)
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	// A sender that is gone will ask again.
	_, _ = w.Write(b)
}

func (q *request) summary(b []byte) []byte {
	b = append(b, `"accepted":`...)
	b = strconv.AppendInt(b, int64(q.accepted), 10)
	b = append(b, `,"duplicates":`...)
	b = strconv.AppendInt(b, int64(q.duplicates), 10)
	b = append(b, `,"rejected":`...)
	b = strconv.AppendInt(b, int64(q.rejected), 10)
	b = append(b, `,"results":[`...)
	b = append(b, q.results...)
	return append(b, ']')
}

// result adds the fate of one item to the answer.
func (q *request) result(index int, id, status, reason, field string) {
	b := q.results
	if len(b) > 0 {
		b = append(b, ',')
	}
	b = append(b, `{"index":`...)
	b = strconv.AppendInt(b, int64(index), 10)
	if id != "" {
		b = append(b, `,"id":`...)
		b = appendString(b, id)
	}
	b = append(b, `,"status":"`...)
	b = append(b, status...)
	b = append(b, '"')
	if reason != "" {
		b = append(b, `,"reason":`...)
		b = appendString(b, reason)
	}
	if field != "" {
		b = append(b, `,"field":`...)
		b = appendString(b, field)
	}
	q.results = append(b, '}')
}

// appendString quotes s; what is plain needs no library.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil { // strings can always be marshalled
				return append(b, `""`...)
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
