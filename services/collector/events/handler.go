package events

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/publish"
)

// Publisher takes calls; services/collector/publish is one.
type Publisher interface {
	Append(d *publish.Delivery, c *call.Call) error
}

// Deps is what a handler works with.
type Deps struct {
	Publisher Publisher
	// Trusted says whether the caller may name account, app, product, plan,
	// subscription, api and operation. From others these are left out, and
	// attribution fills them in.
	Trusted  func(ctx context.Context) bool
	Clock    func() time.Time
	Registry prometheus.Registerer
	Logger   zerolog.Logger
}

// Handler serves POST /v1/events.
type Handler struct {
	cfg      Config
	deps     Deps
	counters *publish.Counters
	seconds  prometheus.Histogram
	requests sync.Pool    // of *request
	buffered atomic.Int64 // bytes of bodies
}

// New makes the handler.
func New(cfg Config, deps Deps) *Handler {
	h := &Handler{cfg: cfg, deps: deps, counters: publish.NewCounters(deps.Registry, "events")}
	h.seconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "tollway_events_request_seconds",
		Help:    "Duration of requests, the wait for the log included.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
	})
	deps.Registry.MustRegister(h.seconds)
	h.requests.New = func() any { return &request{handler: h, decoder: decoder{cfg: &h.cfg}} }
	return h
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	defer func() { h.seconds.Observe(time.Since(start).Seconds()) }()
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		write(w, refuse(http.StatusMethodNotAllowed, "events are sent with POST"), nil)
		return
	}
	q := h.requests.Get().(*request)
	defer h.release(q)
	q.begin(r)
	p := q.take(w, r)
	if p == nil || q.accepted > 0 && p.settles {
		// What is accepted is acknowledged before anything is answered, also
		// when the rest of the body cannot be read.
		if failed := h.acknowledge(r.Context(), q); failed != nil {
			p = failed
		}
	}
	if p == nil && q.accepted == 0 && q.rejected > 0 {
		p = refuse(http.StatusBadRequest, "none of the items can be accepted")
	}
	h.count(q, p)
	write(w, p, q)
}

// acknowledge waits for the log.
func (h *Handler) acknowledge(ctx context.Context, q *request) *problem {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.AckTimeout)
	defer cancel()
	if err := q.delivery.Wait(ctx); err != nil {
		h.deps.Logger.Debug().Err(err).Int("calls", q.accepted).Msg("events not acknowledged")
		return &problem{status: http.StatusServiceUnavailable, reason: "not_acknowledged", retryAfter: "1",
			detail: "the log did not acknowledge in time; send the same events again, copies are dropped"}
	}
	q.acknowledged = true
	return nil
}

func (h *Handler) count(q *request, p *problem) {
	h.counters.In.Add(float64(q.index))
	h.counters.Duplicates.Add(float64(q.duplicates))
	lost := 1
	if q.acknowledged {
		h.counters.Out.Add(float64(q.accepted))
	} else {
		lost = max(1, q.accepted) // the sender has to send all of it again
	}
	if p != nil && p.reason != "" {
		h.counters.Rejected(p.reason).Add(float64(lost))
	}
}

// release keeps q for another request, but not the memory of a large one.
func (h *Handler) release(q *request) {
	h.buffered.Add(-q.claimed)
	q.claimed = 0
	if cap(q.body) > keptBody {
		q.body = nil
	}
	if cap(q.results) > keptBody {
		q.results = nil
	}
	q.delivery = nil
	h.requests.Put(q)
}

// keptBody is the largest buffer that is kept between requests.
const keptBody = 1 << 20

// format is how a body is read.
type format uint8

const (
	unsupported format = iota
	structured
	batch
	lines
	headers
)

func formatOf(h http.Header) format {
	switch media := mediaType(h.Get("Content-Type")); {
	case strings.EqualFold(media, "application/cloudevents+json"):
		return structured
	case strings.EqualFold(media, "application/cloudevents-batch+json"):
		return batch
	case strings.EqualFold(media, "application/x-ndjson"), strings.EqualFold(media, "application/ndjson"):
		return lines
	case h.Get("Ce-Specversion") != "" && (media == "" || isJSON(media)):
		return headers
	}
	return unsupported
}

func mediaType(contentType string) string {
	media, _, _ := strings.Cut(contentType, ";")
	return strings.TrimSpace(media)
}

func isJSON(contentType string) bool {
	media := mediaType(contentType)
	return strings.EqualFold(media, "application/json") || strings.EqualFold(media, "text/json") ||
		len(media) > 5 && strings.EqualFold(media[len(media)-5:], "+json")
}

var (
	errTooLarge = errors.New("body over the limit")
	errBuffers  = errors.New("too many bodies at one time")
)
