// Package gen makes traffic: calls that look like a company's, sent to a
// collector over HTTP as CloudEvents or over gRPC as Envoy access logs.
//
// In: a seed, a rate and shares of repeated and late calls. Out: requests to a
// running collector, and to a journal what was attempted before it is sent and
// what was acknowledged after the answer. A crash loses the traffic that was
// not sent; the journal says which was.
package gen

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"time"
)

// ID is the identity that a stored call must have: the first 16 bytes of the
// SHA-256 over the source and the event's own id, each after its length.
type ID [16]byte

// IdentityOf computes the identity of an event.
func IdentityOf(source, id string) ID {
	var b []byte
	for _, s := range []string{source, id} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	sum := sha256.Sum256(b)
	return ID(sum[:16])
}

// Event is one call as it is sent.
type Event struct {
	ID            string `json:"id"`
	Source        string `json:"source"`
	TimeUS        int64  `json:"time_us"`
	Method        string `json:"method"`
	Host          string `json:"host"`
	Status        int    `json:"status"`
	API           string `json:"api"`
	Operation     string `json:"operation"`
	Upstream      string `json:"upstream"`
	Version       string `json:"version"`
	TotalUS       int64  `json:"total_us"`
	UpstreamUS    int64  `json:"upstream_us"`
	RequestBytes  int64  `json:"request_bytes"`
	ResponseBytes int64  `json:"response_bytes"`
	Account       string `json:"account"`
	Product       string `json:"product"`
}

// Identity is the identity of the event.
func (e Event) Identity() ID { return IdentityOf(e.Source, e.ID) }

// Late is how far back the start of a late call lies.
const Late = 2 * time.Hour

// Mix says how regular traffic is.
type Mix struct {
	Duplicates float64 // share of events that repeat an earlier one
	Late       float64 // share of events that started two hours ago
}

// Source makes events. It is deterministic but for the clock: the same seed
// gives the same events in the same order.
type Source struct {
	name   string
	mix    Mix
	random *rand.Rand
	next   int
	recent []Event // what a duplicate repeats
}

// NewSource makes a source of events; name tells the ids of several apart.
func NewSource(name string, seed uint64, mix Mix) *Source {
	return &Source{name: name, mix: mix, random: rand.New(rand.NewPCG(seed, 0x746f6c6c))}
}

// recentEvents is how many events back a repetition reaches.
const recentEvents = 20_000

// Next makes the next event, of the time now.
func (s *Source) Next(now time.Time) Event {
	r := s.random
	if len(s.recent) > 0 && r.Float64() < s.mix.Duplicates {
		return s.recent[r.IntN(len(s.recent))]
	}
	at := now.UnixMicro()
	if r.Float64() < s.mix.Late {
		at -= Late.Microseconds()
	}
	e := s.make(at)
	if s.mix.Duplicates > 0 {
		if len(s.recent) < recentEvents {
			s.recent = append(s.recent, e)
		} else {
			s.recent[r.IntN(recentEvents)] = e
		}
	}
	return e
}

var (
	methods  = []string{"GET", "GET", "GET", "POST", "POST", "PUT", "DELETE"}
	statuses = []int{200, 200, 200, 200, 200, 200, 201, 204, 304, 400, 404, 429, 500, 503}
)

func (s *Source) make(at int64) Event {
	r := s.random
	s.next++
	api := r.IntN(3)
	total := int64(math.Exp(r.NormFloat64()*1.2 + 9)) // around 8 ms, a long tail
	version := "v1"
	if r.IntN(10) == 0 {
		version = "v2"
	}
	return Event{
		ID:            s.name + "-" + strconv.Itoa(s.next),
		Source:        "loadtest/" + s.name,
		TimeUS:        at,
		Method:        methods[r.IntN(len(methods))],
		Host:          fmt.Sprintf("api%d.example.com", api),
		Status:        statuses[r.IntN(len(statuses))],
		API:           fmt.Sprintf("api%d", api),
		Operation:     fmt.Sprintf("/v1/things%d/{id}", r.IntN(5)),
		Upstream:      fmt.Sprintf("things%d", api),
		Version:       version,
		TotalUS:       total,
		UpstreamUS:    total * int64(50+r.IntN(50)) / 100,
		RequestBytes:  int64(r.IntN(4_000)),
		ResponseBytes: int64(r.IntN(60_000)),
		Account:       fmt.Sprintf("account-%03d", r.IntN(40)),
		Product:       fmt.Sprintf("product-%d", r.IntN(4)),
	}
}

// AppendCloudEvent appends the event as structured JSON.
func AppendCloudEvent(b []byte, e *Event) []byte {
	text := func(key, value string) {
		b = append(b, key...)
		b = strconv.AppendQuote(b, value)
	}
	number := func(key string, value int64) {
		b = append(b, key...)
		b = strconv.AppendInt(b, value, 10)
	}
	b = append(b, `{"specversion":"1.0","type":"tollway.call.v1"`...)
	text(`,"id":`, e.ID)
	text(`,"source":`, e.Source)
	b = append(b, `,"time":"`...)
	b = time.UnixMicro(e.TimeUS).UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	text(`","data":{"method":`, e.Method)
	text(`,"host":`, e.Host)
	number(`,"status":`, int64(e.Status))
	text(`,"api":`, e.API)
	text(`,"operation":`, e.Operation)
	text(`,"upstream":`, e.Upstream)
	text(`,"version":`, e.Version)
	number(`,"total_us":`, e.TotalUS)
	number(`,"upstream_us":`, e.UpstreamUS)
	number(`,"request_bytes":`, e.RequestBytes)
	number(`,"response_bytes":`, e.ResponseBytes)
	text(`,"account":`, e.Account)
	text(`,"product":`, e.Product)
	return append(b, "}}"...)
}

// AppendBatch appends events as a CloudEvents batch.
func AppendBatch(b []byte, events []Event) []byte {
	b = append(b, '[')
	for i := range events {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendCloudEvent(b, &events[i])
	}
	return append(b, ']')
}
