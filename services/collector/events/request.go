package events

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/tollway/tollway/services/collector/publish"
	"github.com/tollway/tollway/services/collector/scan"
)

// request is one request being read; its memory is used again.
type request struct {
	handler *Handler
	decoder decoder
	ids     idSet

	delivery *publish.Delivery
	body     []byte
	claimed  int64 // of Handler.buffered
	all      bool  // list accepted items too
	results  []byte

	index, accepted, duplicates, rejected int
	acknowledged                          bool
}

func (q *request) begin(r *http.Request) {
	q.ids.reset()
	q.delivery = publish.NewDelivery()
	q.body, q.results = q.body[:0], q.results[:0]
	q.all = r.URL.Query().Get("results") == "all"
	q.index, q.accepted, q.duplicates, q.rejected = 0, 0, 0, 0
	q.acknowledged = false
	trusted := q.handler.deps.Trusted
	q.decoder.start(q.handler.deps.Clock(), trusted != nil && trusted(r.Context()))
}

// take reads the body and gives its calls to the publisher.
func (q *request) take(w http.ResponseWriter, r *http.Request) *problem {
	f := formatOf(r.Header)
	if f == unsupported {
		return &problem{status: http.StatusUnsupportedMediaType, reason: "content_type",
			detail: "content type must be application/cloudevents+json, application/cloudevents-batch+json, application/x-ndjson, or JSON with ce- headers"}
	}
	if p := q.read(w, r); p != nil {
		return p
	}
	switch f {
	case structured:
		return q.structured()
	case batch:
		return q.batch()
	case lines:
		return q.lines()
	}
	return q.binary(r.Header)
}

func (q *request) read(w http.ResponseWriter, r *http.Request) *problem {
	limit := q.handler.cfg.MaxBodyBytes
	if r.ContentLength > limit {
		return q.tooLarge()
	}
	plain, done, err := decompress(r.Header.Get("Content-Encoding"), http.MaxBytesReader(w, r.Body, limit), uint64(limit))
	if errors.Is(err, errEncoding) {
		return &problem{status: http.StatusUnsupportedMediaType, reason: "content_encoding", detail: "content encoding must be gzip, zstd or none"}
	}
	if err == nil {
		err = q.fill(plain, r.ContentLength)
		done()
	}
	var overLimit *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errTooLarge), errors.As(err, &overLimit), errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, zstd.ErrWindowSizeExceeded):
		return q.tooLarge()
	case errors.Is(err, errBuffers):
		return busy()
	}
	return &problem{status: http.StatusBadRequest, reason: "unreadable", detail: "body cannot be read: " + err.Error()}
}

func (q *request) tooLarge() *problem {
	return &problem{status: http.StatusRequestEntityTooLarge, reason: "too_large",
		detail: fmt.Sprintf("body is larger than %d bytes", q.handler.cfg.MaxBodyBytes)}
}

func busy() *problem {
	return &problem{status: http.StatusTooManyRequests, reason: "busy", retryAfter: "1",
		detail: "too much is waiting for the log; send the same events again later, copies are dropped"}
}

// fill reads all of src into the body, within the limits. expected is a hint.
func (q *request) fill(src io.Reader, expected int64) error {
	limit := q.handler.cfg.MaxBodyBytes
	if err := q.claim(int64(cap(q.body))); err != nil {
		q.body = nil
	}
	if err := q.room(max(expected+1, 16<<10)); err != nil {
		return err
	}
	for {
		n, err := src.Read(q.body[len(q.body):cap(q.body)])
		q.body = q.body[:len(q.body)+n]
		if int64(len(q.body)) > limit {
			return errTooLarge
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if len(q.body) == cap(q.body) {
			if err := q.room(min(2*int64(cap(q.body)), limit+1)); err != nil {
				return err
			}
		}
	}
}

// room makes the body's buffer so large, if all bodies together stay in bound.
func (q *request) room(size int64) error {
	if int64(cap(q.body)) >= size {
		return nil
	}
	if err := q.claim(size - int64(cap(q.body))); err != nil {
		return err
	}
	q.body = append(make([]byte, 0, size), q.body...)
	return nil
}

func (q *request) claim(n int64) error {
	h := q.handler
	if h.buffered.Add(n) > h.cfg.MaxBufferedBytes+1 {
		h.buffered.Add(-n)
		return errBuffers
	}
	q.claimed += n
	return nil
}

var (
	errEncoding = errors.New("unknown content encoding")
	gzips       sync.Pool
	zstds       sync.Pool
)

// decompress undoes the content encoding; done gives the decoder back.
func decompress(encoding string, src io.Reader, limit uint64) (plain io.Reader, done func(), err error) {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity":
		return src, func() {}, nil
	case "gzip", "x-gzip":
		z, _ := gzips.Get().(*gzip.Reader)
		if z == nil {
			z = new(gzip.Reader)
		}
		if err := z.Reset(src); err != nil {
			return nil, nil, err
		}
		return z, func() { gzips.Put(z) }, nil
	case "zstd":
		z, _ := zstds.Get().(*zstd.Decoder)
		if z == nil {
			// One goroutine, so that nothing runs between requests.
			z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(max(limit, 1<<20)), zstd.WithDecoderMaxWindow(8<<20))
			if err != nil {
				return nil, nil, err
			}
		}
		if err := z.Reset(src); err != nil {
			return nil, nil, err
		}
		return z, func() { _ = z.Reset(nil); zstds.Put(z) }, nil
	}
	return nil, nil, errEncoding
}

// structured reads one event.
func (q *request) structured() *problem {
	d := &q.decoder
	d.scan.Reset(q.body)
	err := d.cloudEvent()
	if err == nil {
		err = d.scan.End()
	}
	if err != nil {
		return malformed(err)
	}
	return q.item()
}

// batch reads an array of events.
func (q *request) batch() *problem {
	s := &q.decoder.scan
	s.Reset(q.body)
	if err := s.EnterArray(); err != nil {
		return malformed(err)
	}
	for first := true; ; first = false {
		more, err := s.Element(first)
		if err == nil && !more {
			err = s.End()
		}
		if err != nil {
			return malformed(err)
		}
		if !more {
			return nil
		}
		if q.index == q.handler.cfg.MaxItems {
			return q.tooMany()
		}
		if err := q.decoder.cloudEvent(); err != nil {
			return malformed(err)
		}
		if p := q.item(); p != nil {
			return p
		}
	}
}

// lines reads one event or flat call per line. A bad line is that line's
// problem only.
func (q *request) lines() *problem {
	for rest := q.body; len(rest) > 0; {
		line := rest
		if i := bytes.IndexByte(rest, '\n'); i >= 0 {
			line, rest = rest[:i], rest[i+1:]
		} else {
			rest = nil
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if q.index == q.handler.cfg.MaxItems {
			return q.tooMany()
		}
		q.line(line)
		if p := q.item(); p != nil {
			return p
		}
	}
	return nil
}

func (q *request) line(line []byte) {
	d := &q.decoder
	one := (*decoder).flat
	if d.isCloudEvent(line) {
		one = (*decoder).cloudEvent
	}
	d.scan.Reset(line)
	err := one(d)
	if err == nil {
		err = d.scan.End()
	}
	if err != nil {
		d.field, d.reason, d.detail = "", "malformed JSON", ": "+err.Error()
	}
}

// binary reads an event whose attributes are headers and whose data is the
// body.
func (q *request) binary(h http.Header) *problem {
	d := &q.decoder
	d.reset()
	d.id, d.source = attribute(h, "Ce-Id"), attribute(h, "Ce-Source")
	d.time, d.kind = attribute(h, "Ce-Time"), attribute(h, "Ce-Type")
	d.version, d.hasData = h.Get("Ce-Specversion"), true
	d.scan.Reset(q.body)
	err := d.data(false)
	if err == nil {
		err = d.scan.End()
	}
	if err != nil {
		return malformed(err)
	}
	d.envelope()
	return q.item()
}

// attribute reads a header; CloudEvents has what is not plain ASCII percent
// encoded there.
func attribute(h http.Header, name string) string {
	v := h.Get(name)
	if !strings.Contains(v, "%") {
		return v
	}
	if plain, err := url.PathUnescape(v); err == nil {
		return plain
	}
	return v
}

// item decides the fate of what the decoder holds. A problem ends the request.
func (q *request) item() *problem {
	d := &q.decoder
	index := q.index
	q.index++
	if d.reason != "" {
		q.rejected++
		q.handler.counters.Rejected(strings.ReplaceAll(d.reason, " ", "_")).Inc()
		q.result(index, d.id, "rejected", d.reason+d.detail, d.field)
		return nil
	}
	if !q.ids.add(d.call.ID) {
		q.duplicates++
		if q.all {
			q.result(index, d.id, "duplicate", "", "")
		}
		return nil
	}
	switch err := q.handler.deps.Publisher.Append(q.delivery, &d.call); {
	case errors.Is(err, publish.ErrBusy):
		return busy()
	case err != nil:
		return &problem{status: http.StatusServiceUnavailable, reason: "stopping", retryAfter: "1",
			detail: "the collector is stopping; send the same events again, copies are dropped"}
	}
	q.accepted++
	if q.all {
		q.result(index, d.id, "accepted", "", "")
	}
	return nil
}

func (q *request) tooMany() *problem {
	return &problem{status: http.StatusRequestEntityTooLarge, reason: "too_many", settles: true,
		detail: fmt.Sprintf("more than %d items; those before are accepted as counted", q.handler.cfg.MaxItems)}
}

func malformed(err error) *problem {
	p := &problem{status: http.StatusBadRequest, reason: "malformed", settles: true, detail: "malformed JSON: " + err.Error(), position: -1}
	if at := (*scan.SyntaxError)(nil); errors.As(err, &at) {
		p.position = at.Pos
	}
	return p
}
