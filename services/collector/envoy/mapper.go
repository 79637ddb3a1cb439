package envoy

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/useragent"
)

// Node is the Envoy that logs: what it says of itself once per stream.
type Node struct {
	ID, Cluster, Region, Zone string
	LogName                   string
	Source                    string // of the node's calls; see Mapper.Source
}

// Mapper makes calls from entries. It may be used from many goroutines, each
// with a Scratch of its own.
type Mapper struct {
	cfg    Config
	agents *useragent.Cache
}

// NewMapper makes a mapper.
func NewMapper(cfg Config) (*Mapper, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Mapper{cfg: cfg, agents: useragent.NewCache()}, nil
}

// Source is the source of the calls of a cluster of Envoys.
func (m *Mapper) Source(cluster string) string {
	switch {
	case m.cfg.Source != "":
		return m.cfg.Source
	case cluster == "":
		return "envoy"
	}
	return "envoy/" + cluster
}

// Scratch holds the strings of a call that are not in its entry. They are
// valid until the next Map with the same Scratch.
type Scratch struct{ buf []byte }

// text runs fill on the buffer and returns what it added.
func (s *Scratch) text(fill func([]byte) []byte) string {
	start := len(s.buf)
	s.buf = fill(s.buf)
	return call.Alias(s.buf[start:])
}

// Map fills c from the entry. raw is the entry as it came; it is the identity
// of an entry that has no other. now is the collector's time in µs. The
// strings of c alias those of n, e and s.
func (m *Mapper) Map(n *Node, e *Entry, raw []byte, trusted bool, now int64, s *Scratch, c *call.Call) error {
	c.Reset()
	s.buf = s.buf[:0]
	if r := m.start(e, now, c); r != nil {
		return r
	}
	if r := latency(e, &c.Latency); r != nil {
		return r
	}
	if r := numbers(e, c); r != nil {
		return r
	}
	c.ReceivedAt = now
	m.where(n, e, s, c)
	m.what(e, s, c)
	identity(e, trusted, s, c)
	m.agent(e, c)
	c.Strings[call.Fault], c.Strings[call.Denied] = blame(e, c.GRPCStatus)
	if e.Flags != 0 {
		c.Strings[call.Flags] = s.text(e.Flags.Append)
		if e.Flags&ResponseFromCache != 0 {
			c.Strings[call.Cache] = "hit"
		}
	}
	c.ID = m.id(n, e, raw, c.Time)
	return nil
}

// id is the call's identity. The start is in microseconds, so that a call has
// one identity whichever way its entry came: text logs have no nanoseconds.
// A request id alone would not do: clients choose it.
func (m *Mapper) id(n *Node, e *Entry, raw []byte, start int64) call.ID {
	key := e.StreamID
	if key == "" {
		key = e.RequestID
	}
	if key == "" {
		return call.NewID(n.ID, call.Alias(raw))
	}
	var buf [20]byte
	return call.NewID(n.ID, key, call.Alias(strconv.AppendInt(buf[:0], start, 10)))
}

func (m *Mapper) start(e *Entry, now int64, c *call.Call) *Reject {
	if !e.Start.Set {
		return &Reject{ReasonMissing, "start_time"}
	}
	if e.Start.Seconds > maxSeconds || e.Start.Seconds < -maxSeconds {
		return &Reject{ReasonRange, "start_time"}
	}
	c.Time = e.Start.Seconds*1e6 + int64(e.Start.Nanos)/1000
	switch {
	case c.Time > now+m.cfg.MaxFuture.Microseconds():
		return &Reject{ReasonFuture, "start_time"}
	case c.Time < now-m.cfg.MaxAge.Microseconds():
		return &Reject{ReasonPast, "start_time"}
	}
	return nil
}

// numbers fills what is counted. Bytes are headers and body as Envoy reports
// them: headers before compression, bodies without framing.
func numbers(e *Entry, c *call.Call) *Reject {
	var ok bool
	if c.RequestBytes, ok = sum(e.RequestHeader, e.RequestBody); !ok {
		return &Reject{ReasonRange, "request_bytes"}
	}
	if c.ResponseBytes, ok = sum(e.ResponseHeader, e.ResponseBody); !ok {
		return &Reject{ReasonRange, "response_bytes"}
	}
	if e.Status > 999 {
		return &Reject{ReasonRange, "response_code"}
	}
	c.Status = uint16(e.Status)
	c.Attempts = uint16(min(e.Attempts, 1<<16-1))
	c.GRPCStatus = grpcStatus(e.TrailerGRPC)
	if c.GRPCStatus < 0 {
		c.GRPCStatus = grpcStatus(e.HeaderGRPC)
	}
	return nil
}

// grpcStatus reads the number of a grpc-status header, -1 when it is none.
func grpcStatus(s string) int16 {
	if len(s) == 0 || len(s) > 4 || !digits(s) {
		return -1
	}
	n := int16(0)
	for i := range len(s) {
		n = n*10 + int16(s[i]-'0')
	}
	return n
}

func (m *Mapper) where(n *Node, e *Entry, s *Scratch, c *call.Call) {
	c.Strings[call.Source] = n.Source
	c.Strings[call.Environment] = m.cfg.Environment
	c.Strings[call.Gateway] = n.ID
	c.Strings[call.Region] = n.Region
	c.Strings[call.Zone] = n.Zone
	address := e.ClientAddress
	if address == "" {
		address = e.PeerAddress
	}
	if m.cfg.ClientIP == ClientIPTruncated || m.cfg.ClientIP == ClientIPFull {
		start := len(s.buf)
		s.buf = clientIP(s.buf, address, m.cfg.ClientIP)
		c.ClientIP = call.Alias(s.buf[start:])
	}
}

func (m *Mapper) what(e *Entry, s *Scratch, c *call.Call) {
	t := &c.Strings
	t[call.Protocol] = e.Protocol
	if e.TCP {
		t[call.Protocol] = "TCP"
		if e.Type == TypeUDPSessionEnd {
			t[call.Protocol] = "UDP"
		}
	}
	t[call.Method] = e.Method
	t[call.Host] = e.Authority
	t[call.Route] = e.Route
	t[call.Upstream], t[call.Version] = Cluster(e.Cluster)
	if e.UpstreamAddress != "" {
		start := len(s.buf)
		s.buf = hostPort(s.buf, e.UpstreamAddress, e.UpstreamPort)
		t[call.UpstreamHost] = call.Alias(s.buf[start:])
	}
	// Filters rewrite the path; what the client asked for is kept beside it.
	c.Path = e.Path
	if e.OriginalPath != "" {
		c.Path = e.OriginalPath
	}
	if i := strings.IndexAny(c.Path, "?#"); i >= 0 {
		if path, query := c.Path[:i], c.Path[i:]; m.cfg.KeepQuery {
			c.Path = s.text(func(b []byte) []byte { return withoutSecrets(append(b, path...), query) })
		} else {
			c.Path = path
		}
	}
}

// secretParameters are query parameters in which credentials travel.
var secretParameters = []string{"api_key", "apikey", "api-key", "key", "token", "access_token", "id_token", "code", "password", "secret", "client_secret", "sig", "signature"}

// withoutSecrets appends a query, which begins with ? or #, without the values of
// parameters in which credentials travel.
func withoutSecrets(b []byte, query string) []byte {
	for query != "" {
		end := strings.IndexAny(query[1:], "&#") + 1
		if end == 0 {
			end = len(query)
		}
		pair := query[:end]
		query = query[end:]
		if i := strings.IndexByte(pair, '='); i > 0 && secretParameter(pair[1:i]) {
			pair = pair[:i+1]
		}
		b = append(b, pair...)
	}
	return b
}

func secretParameter(name string) bool {
	if unescaped, err := url.QueryUnescape(name); err == nil {
		name = unescaped
	}
	return slices.ContainsFunc(secretParameters, func(s string) bool { return strings.EqualFold(s, name) })
}

func hostPort(b []byte, host string, port uint32) []byte {
	if port == 0 {
		return append(b, host...)
	}
	if strings.IndexByte(host, ':') >= 0 {
		b = append(b, '[')
		b = append(b, host...)
		b = append(b, ']')
	} else {
		b = append(b, host...)
	}
	b = append(b, ':')
	return strconv.AppendUint(b, uint64(port), 10)
}

func (m *Mapper) agent(e *Entry, c *call.Call) {
	if e.UserAgent == "" {
		return
	}
	a := m.agents.Classify(e.UserAgent)
	c.Strings[call.UserAgent], c.Strings[call.OS], c.Strings[call.Device] = a.Family, a.OS, a.Device
}
