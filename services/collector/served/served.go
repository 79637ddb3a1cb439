// Package served records what each Envoy says it served, minute by minute, so
// that it can be held against the calls that arrived.
//
// In: Envoy's metrics sink, envoy.service.metrics.v3.MetricsService, version 3:
// all its counters and gauges every few seconds, as running totals
// (report_counters_as_deltas must stay off). Out: one Served per node,
// stat_prefix and minute to a Sink. Calls that have ended are requests begun
// minus requests active: Envoy's own count of completed requests leaves out
// those that a client broke off, though they are logged.
//
// Envoy's count of dropped log entries is kept beside it, to show that it does
// not do: entries handed to a stream that then breaks are in no count.
//
// A crash loses at most the minute under way and the records that the sink has
// not taken. As every record has the running totals, the next one covers the
// gap.
package served

import (
	"encoding/json"
	"strings"

	metrics "github.com/prometheus/client_model/go"
)

// Topic is where records go, as JSON, with Key as the message's key.
const Topic = "tollway.served.v1"

// Served is what one listener of one Envoy had served by the end of a minute.
type Served struct {
	Minute  int64  `json:"minute"` // its start, seconds since the Unix epoch, UTC
	Node    string `json:"node"`
	Cluster string `json:"cluster"`
	Prefix  string `json:"prefix"` // stat_prefix of the connection manager

	// Total and Active are Envoy's: requests since it started, requests now.
	Total  uint64 `json:"total"`
	Active uint64 `json:"active"`
	// Ended is how many calls ended since the last record of the node and
	// prefix. With First there was none: what ended before the first report
	// that came here is then in Total alone.
	Ended int64 `json:"ended"`
	First bool  `json:"first,omitempty"`
	// Restarts counts how often the totals began again while this collector
	// watched. Calls between the last report and a restart are not in Ended.
	Restarts uint32 `json:"restarts"`
	// Reports is how many reports of the minute are behind the record.
	Reports uint32 `json:"reports"`

	// LogsWritten and LogsDropped are Envoy's running totals of access log
	// entries, of all listeners together.
	LogsWritten uint64 `json:"logs_written"`
	LogsDropped uint64 `json:"logs_dropped"`
}

// Key keeps the records of one listener in order.
func (s Served) Key() []byte { return []byte(s.Node + "|" + s.Prefix) }

// Encode is the record's JSON.
func Encode(s Served) ([]byte, error) { return json.Marshal(s) }

// Decode reads what Encode wrote.
func Decode(b []byte) (s Served, err error) { return s, json.Unmarshal(b, &s) }

// reading is what one report says.
type reading struct {
	at       int64 // ms, when Envoy took it; 0 when it does not say
	prefixes map[string]*count
	written  uint64
	dropped  uint64
	// An Envoy may send its metrics in several messages (batch_size), so a
	// message may lack any of them.
	hasWritten, hasDropped bool
}

type count struct {
	total, active       uint64
	hasTotal, hasActive bool
}

const (
	prefixLabel = "envoy.http_conn_manager_prefix"
	totalName   = "downstream_rq_total"
	activeName  = "downstream_rq_active"
	logsPrefix  = "access_logs.grpc_access_log."
)

// read picks the few metrics that matter. The name of a family has the prefix
// inside it, unless the sink sends tags as labels.
func read(families []*metrics.MetricFamily, ignore map[string]bool) reading {
	r := reading{prefixes: map[string]*count{}}
	for _, f := range families {
		name := f.GetName()
		switch {
		case name == logsPrefix+"logs_written":
			r.written, r.hasWritten = r.written+sum(f), true
		case name == logsPrefix+"logs_dropped":
			r.dropped, r.hasDropped = r.dropped+sum(f), true
		case strings.HasPrefix(name, "http."):
			r.http(name, f, ignore)
		}
	}
	return r
}

func (r *reading) http(name string, f *metrics.MetricFamily, ignore map[string]bool) {
	rest := strings.TrimPrefix(name, "http.")
	isTotal := strings.HasSuffix(rest, totalName)
	if !isTotal && !strings.HasSuffix(rest, activeName) {
		return
	}
	inName := ""
	if dot := strings.LastIndexByte(rest, '.'); dot >= 0 {
		inName, rest = rest[:dot], rest[dot+1:]
	}
	if rest != totalName && rest != activeName {
		return
	}
	for _, m := range f.GetMetric() {
		prefix := inName
		for _, l := range m.GetLabel() {
			if l.GetName() == prefixLabel {
				prefix = l.GetValue()
			}
		}
		if prefix == "" || ignore[prefix] {
			continue
		}
		c := r.prefixes[prefix]
		if c == nil {
			c = &count{}
			r.prefixes[prefix] = c
		}
		r.at = max(r.at, m.GetTimestampMs())
		if isTotal {
			c.total, c.hasTotal = c.total+value(m), true
		} else {
			c.active, c.hasActive = c.active+value(m), true
		}
	}
}

func sum(f *metrics.MetricFamily) (n uint64) {
	for _, m := range f.GetMetric() {
		n += value(m)
	}
	return n
}

// value is a counter's or gauge's number; neither is ever negative here.
func value(m *metrics.Metric) uint64 {
	v := m.GetCounter().GetValue() + m.GetGauge().GetValue()
	if !(v > 0) || v > 1<<62 {
		return 0
	}
	return uint64(v)
}
