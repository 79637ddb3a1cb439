package als

import (
	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/envoy"
)

// Decoder decodes the entries of one stream, one at a time.
type Decoder struct {
	mapper  *envoy.Mapper
	entry   envoy.Entry
	scratch envoy.Scratch
}

// NewDecoder makes a decoder that maps entries by m.
func NewDecoder(m *envoy.Mapper) *Decoder { return &Decoder{mapper: m} }

// HTTP decodes an envoy.data.accesslog.v3.HTTPAccessLogEntry into c. The
// strings of c alias b, n and the decoder and are valid until its next use.
// stored is false, and c not filled, when the entry is not the one that a call
// is counted by. An error is a *envoy.Reject.
func (d *Decoder) HTTP(b []byte, n *envoy.Node, trusted bool, now int64, c *call.Call) (stored bool, err error) {
	d.entry = envoy.Entry{}
	if bad := httpEntry(b, &d.entry); bad != "" {
		return false, envoy.Malformed(bad)
	}
	return d.finish(b, n, trusted, now, c)
}

// TCP decodes an envoy.data.accesslog.v3.TCPAccessLogEntry; see HTTP.
func (d *Decoder) TCP(b []byte, n *envoy.Node, trusted bool, now int64, c *call.Call) (stored bool, err error) {
	d.entry = envoy.Entry{TCP: true}
	if bad := tcpEntry(b, &d.entry); bad != "" {
		return false, envoy.Malformed(bad)
	}
	return d.finish(b, n, trusted, now, c)
}

// Type names the type of the last entry.
func (d *Decoder) Type() string { return d.entry.TypeName() }

func (d *Decoder) finish(b []byte, n *envoy.Node, trusted bool, now int64, c *call.Call) (bool, error) {
	if !d.entry.Ended() {
		return false, nil
	}
	if err := d.mapper.Map(n, &d.entry, b, trusted, now, &d.scratch, c); err != nil {
		return false, err
	}
	return true, nil
}

// The functions below fill an entry from one message each and return the name
// of the field that is malformed, or "". They add to what is there: a message
// that occurs twice is merged, as the format wants it.

func httpEntry(b []byte, e *envoy.Entry) (bad string) {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return "entry"
		}
		b = b[n:]
		switch f.key {
		case 1<<3 | bytes:
			bad = common(f.b, e)
		case 2<<3 | varint:
			e.Protocol = name(protocols[:], f.v)
		case 3<<3 | bytes:
			bad = request(f.b, e)
		case 4<<3 | bytes:
			bad = response(f.b, e)
		}
		if bad != "" {
			return bad
		}
	}
	return ""
}

func tcpEntry(b []byte, e *envoy.Entry) (bad string) {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return "entry"
		}
		b = b[n:]
		switch f.key {
		case 1<<3 | bytes:
			bad = common(f.b, e)
		case 2<<3 | bytes:
			bad = connection(f.b, e)
		}
		if bad != "" {
			return bad
		}
	}
	return ""
}

var (
	protocols = [...]string{"", "HTTP/1.0", "HTTP/1.1", "HTTP/2", "HTTP/3"}
	methods   = [...]string{"", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
)

// name is the name of an enum's value, "" for one that is not known.
func name(names []string, v uint64) string {
	if i := int32(v); i >= 0 && int(i) < len(names) {
		return names[i]
	}
	return ""
}

// common reads AccessLogCommon.
func common(b []byte, e *envoy.Entry) (bad string) {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return "common_properties"
		}
		b = b[n:]
		switch f.key {
		case 2<<3 | bytes:
			bad = address(f.b, &e.ClientAddress, nil, "downstream_remote_address")
		case 4<<3 | bytes:
			bad = tls(f.b, e)
		case 5<<3 | bytes:
			bad = span(f.b, &e.Start, "start_time")
		case 6<<3 | bytes, 7<<3 | bytes, 8<<3 | bytes, 9<<3 | bytes, 10<<3 | bytes, 11<<3 | bytes, 12<<3 | bytes:
			bad = span(f.b, &e.Points[f.key>>3-6], "time_to")
		case 13<<3 | bytes:
			bad = address(f.b, &e.UpstreamAddress, &e.UpstreamPort, "upstream_remote_address")
		case 15<<3 | bytes:
			e.Cluster = call.Alias(f.b)
		case 16<<3 | bytes:
			bad = flags(f.b, &e.Flags)
		case 17<<3 | bytes:
			bad = metadata(f.b, e)
		case 19<<3 | bytes:
			e.Route = call.Alias(f.b)
		case 20<<3 | bytes:
			bad = address(f.b, &e.PeerAddress, nil, "downstream_direct_remote_address")
		case 22<<3 | bytes:
			bad = tag(f.b, e)
		case 23<<3 | bytes:
			bad = span(f.b, &e.Points[envoy.Duration], "duration")
		case 24<<3 | varint:
			e.Attempts = uint32(f.v)
		case 25<<3 | bytes:
			if e.TCP {
				e.Details = call.Alias(f.b)
			}
		case 26<<3 | bytes:
			e.StreamID = call.Alias(f.b)
		case 27<<3 | varint:
			e.Intermediate = f.v != 0
		case 33<<3 | varint:
			e.Type = int32(f.v)
		}
		if bad != "" {
			return bad
		}
	}
	return ""
}

// request reads HTTPRequestProperties.
func request(b []byte, e *envoy.Entry) string {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return "request"
		}
		b = b[n:]
		switch f.key {
		case 1<<3 | varint:
			e.Method = name(methods[:], f.v)
		case 3<<3 | bytes:
			e.Authority = call.Alias(f.b)
		case 5<<3 | bytes:
			e.Path = call.Alias(f.b)
		case 6<<3 | bytes:
			e.UserAgent = call.Alias(f.b)
		case 9<<3 | bytes:
			e.RequestID = call.Alias(f.b)
		case 10<<3 | bytes:
			e.OriginalPath = call.Alias(f.b)
		case 11<<3 | varint:
			e.RequestHeader = f.v
		case 12<<3 | varint:
			e.RequestBody = f.v
		}
	}
	return ""
}

// response reads HTTPResponseProperties.
func response(b []byte, e *envoy.Entry) (bad string) {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return "response"
		}
		b = b[n:]
		switch f.key {
		case 1<<3 | bytes:
			bad = wrapped(f.b, &e.Status, "response_code")
		case 2<<3 | varint:
			e.ResponseHeader = f.v
		case 3<<3 | varint:
			e.ResponseBody = f.v
		case 4<<3 | bytes:
			bad = grpcStatus(f.b, &e.HeaderGRPC, "response_headers")
		case 5<<3 | bytes:
			bad = grpcStatus(f.b, &e.TrailerGRPC, "response_trailers")
		case 6<<3 | bytes:
			e.Details = call.Alias(f.b)
		}
		if bad != "" {
			return bad
		}
	}
	return ""
}

// connection reads ConnectionProperties.
func connection(b []byte, e *envoy.Entry) string {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return "connection_properties"
		}
		b = b[n:]
		switch f.key {
		case 1<<3 | varint:
			e.RequestBody = f.v
		case 2<<3 | varint:
			e.ResponseBody = f.v
		}
	}
	return ""
}

// span reads a google.protobuf.Duration or Timestamp.
func span(b []byte, s *envoy.Span, field string) string {
	s.Set = true
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return field
		}
		b = b[n:]
		switch f.key {
		case 1<<3 | varint:
			s.Seconds = int64(f.v)
		case 2<<3 | varint:
			s.Nanos = int32(f.v)
		}
	}
	return ""
}

// wrapped reads a google.protobuf.UInt32Value.
func wrapped(b []byte, v *uint32, field string) string {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return field
		}
		b = b[n:]
		if f.key == 1<<3|varint {
			*v = uint32(f.v)
		}
	}
	return ""
}

// address reads an envoy.config.core.v3.Address of a socket. Its kinds exclude
// each other: a pipe or an internal address that follows takes its place.
func address(b []byte, host *string, port *uint32, field string) string {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return field
		}
		b = b[n:]
		switch f.key {
		case 1<<3 | bytes:
			if bad := socketAddress(f.b, host, port, field); bad != "" {
				return bad
			}
		case 2<<3 | bytes, 3<<3 | bytes:
			*host = ""
			if port != nil {
				*port = 0
			}
		}
	}
	return ""
}

func socketAddress(b []byte, host *string, port *uint32, field string) string {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return field
		}
		b = b[n:]
		switch f.key {
		case 2<<3 | bytes:
			*host = call.Alias(f.b)
		case 3<<3 | varint:
			if port != nil {
				*port = uint32(f.v)
			}
		case 4<<3 | bytes: // a named port excludes a number
			if port != nil {
				*port = 0
			}
		}
	}
	return ""
}

// flags reads ResponseFlags: booleans, but for one message whose presence
// counts.
func flags(b []byte, fl *envoy.Flags) string {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return "response_flags"
		}
		b = b[n:]
		number := f.key >> 3
		if number > 28 {
			continue
		}
		bit := envoy.Flags(1) << (number - 1)
		switch {
		case bit == envoy.Unauthorized:
			if f.key&7 == bytes {
				*fl |= bit
			}
		case f.key&7 != varint:
		case f.v != 0:
			*fl |= bit
		default:
			*fl &^= bit
		}
	}
	return ""
}

// tag reads one entry of custom_tags.
func tag(b []byte, e *envoy.Entry) string {
	key, value, ok := pair(b)
	if !ok {
		return "custom_tags"
	}
	if t, ok := envoy.TagByName(call.Alias(key)); ok {
		e.Tags[t] = call.Alias(value)
	}
	return ""
}

// grpcStatus reads one entry of a map of headers.
func grpcStatus(b []byte, status *string, field string) string {
	key, value, ok := pair(b)
	if !ok {
		return field
	}
	if string(key) == "grpc-status" {
		*status = call.Alias(value)
	}
	return ""
}

// tls reads TLSProperties, down to the client's certificate.
func tls(b []byte, e *envoy.Entry) string {
	const field = "tls_properties"
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return field
		}
		b = b[n:]
		if f.key != 5<<3|bytes {
			continue
		}
		for peer := f.b; len(peer) > 0; {
			f, n := next(peer)
			if n < 0 {
				return field
			}
			peer = peer[n:]
			if f.key != 1<<3|bytes {
				continue
			}
			uri, ok := subjectURI(f.b)
			if !ok {
				return field
			}
			if e.PeerURI == "" {
				e.PeerURI = uri
			}
		}
	}
	return ""
}

// subjectURI reads a SubjectAltName, which is a URI or a DNS name, not both.
func subjectURI(b []byte) (uri string, ok bool) {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return "", false
		}
		b = b[n:]
		switch f.key {
		case 1<<3 | bytes:
			uri = call.Alias(f.b)
		case 2<<3 | bytes:
			uri = ""
		}
	}
	return uri, true
}
