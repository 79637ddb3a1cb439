package als

import (
	"fmt"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"

	"github.com/tollway/tollway/services/collector/envoy"
)

// The reference: the general decoder, and getters.

func referenceHTTP(m *datav3.HTTPAccessLogEntry) *envoy.Entry {
	e := &envoy.Entry{}
	referenceCommon(m.GetCommonProperties(), e)
	switch m.GetProtocolVersion() {
	case datav3.HTTPAccessLogEntry_HTTP10:
		e.Protocol = "HTTP/1.0"
	case datav3.HTTPAccessLogEntry_HTTP11:
		e.Protocol = "HTTP/1.1"
	case datav3.HTTPAccessLogEntry_HTTP2:
		e.Protocol = "HTTP/2"
	case datav3.HTTPAccessLogEntry_HTTP3:
		e.Protocol = "HTTP/3"
	}
	rq, rs := m.GetRequest(), m.GetResponse()
	if method := rq.GetRequestMethod(); method != 0 {
		e.Method = corev3.RequestMethod_name[int32(method)]
	}
	e.Authority, e.Path, e.OriginalPath = rq.GetAuthority(), rq.GetPath(), rq.GetOriginalPath()
	e.UserAgent, e.RequestID = rq.GetUserAgent(), rq.GetRequestId()
	e.RequestHeader, e.RequestBody = rq.GetRequestHeadersBytes(), rq.GetRequestBodyBytes()
	e.Status, e.Details = rs.GetResponseCode().GetValue(), rs.GetResponseCodeDetails()
	e.ResponseHeader, e.ResponseBody = rs.GetResponseHeadersBytes(), rs.GetResponseBodyBytes()
	e.HeaderGRPC, e.TrailerGRPC = rs.GetResponseHeaders()["grpc-status"], rs.GetResponseTrailers()["grpc-status"]
	return e
}

func referenceTCP(m *datav3.TCPAccessLogEntry) *envoy.Entry {
	e := &envoy.Entry{TCP: true, Details: m.GetCommonProperties().GetConnectionTerminationDetails()}
	referenceCommon(m.GetCommonProperties(), e)
	e.RequestBody = m.GetConnectionProperties().GetReceivedBytes()
	e.ResponseBody = m.GetConnectionProperties().GetSentBytes()
	return e
}

func referenceCommon(c *datav3.AccessLogCommon, e *envoy.Entry) {
	e.Type, e.Intermediate = int32(c.GetAccessLogType()), c.GetIntermediateLogEntry()
	e.StreamID, e.Route, e.Cluster = c.GetStreamId(), c.GetRouteName(), c.GetUpstreamCluster()
	e.Attempts = c.GetUpstreamRequestAttemptCount()
	if t := c.GetStartTime(); t != nil {
		e.Start = envoy.Span{Seconds: t.Seconds, Nanos: t.Nanos, Set: true}
	}
	for point, d := range map[envoy.Point]*durationpb.Duration{
		envoy.LastRx: c.GetTimeToLastRxByte(), envoy.FirstUpstreamTx: c.GetTimeToFirstUpstreamTxByte(),
		envoy.LastUpstreamTx: c.GetTimeToLastUpstreamTxByte(), envoy.FirstUpstreamRx: c.GetTimeToFirstUpstreamRxByte(),
		envoy.LastUpstreamRx: c.GetTimeToLastUpstreamRxByte(), envoy.FirstDownstreamTx: c.GetTimeToFirstDownstreamTxByte(),
		envoy.LastDownstreamTx: c.GetTimeToLastDownstreamTxByte(), envoy.Duration: c.GetDuration(),
	} {
		if d != nil {
			e.Points[point] = envoy.Span{Seconds: d.Seconds, Nanos: d.Nanos, Set: true}
		}
	}
	e.ClientAddress = c.GetDownstreamRemoteAddress().GetSocketAddress().GetAddress()
	e.PeerAddress = c.GetDownstreamDirectRemoteAddress().GetSocketAddress().GetAddress()
	e.UpstreamAddress = c.GetUpstreamRemoteAddress().GetSocketAddress().GetAddress()
	e.UpstreamPort = c.GetUpstreamRemoteAddress().GetSocketAddress().GetPortValue()
	for _, san := range c.GetTlsProperties().GetPeerCertificateProperties().GetSubjectAltName() {
		if e.PeerURI == "" {
			e.PeerURI = san.GetUri()
		}
	}
	referenceFlags(c.GetResponseFlags(), e)
	for name, value := range c.GetCustomTags() {
		if t, ok := envoy.TagByName(name); ok {
			e.Tags[t] = value
		}
	}
	md := c.GetMetadata().GetFilterMetadata()
	referenceAnswer(md[envoy.RateLimitNamespace], &e.RateLimit)
	referenceAnswer(md[envoy.ExtAuthzNamespace], &e.ExtAuthz)
	claims := md[envoy.JWTNamespace].GetFields()["payload"].GetStructValue().GetFields()
	e.JWT = envoy.JWT{
		Issuer:   claims["iss"].GetStringValue(),
		ClientID: claims["client_id"].GetStringValue(),
		AZP:      claims["azp"].GetStringValue(),
		Sub:      claims["sub"].GetStringValue(),
	}
}

func referenceAnswer(s *structpb.Struct, m *envoy.Metadata) {
	for name, value := range s.GetFields() {
		if k, ok := envoy.MetaByName(name); ok {
			m[k] = value.GetStringValue()
		}
	}
}

func referenceFlags(f *datav3.ResponseFlags, e *envoy.Entry) {
	if f == nil {
		return
	}
	f.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Message() != nil || v.Bool() {
			e.Flags |= 1 << (fd.Number() - 1)
		}
		return true
	})
}

// words are strings that the decoder looks for, or that may trouble it.
var words = []string{
	"", "-", "none", "a", "api", "operation", "version", "track", "environment", "product", "account", "app",
	"plan", "subscription", "credential", "key_id", "subject", "decision", "payload", "iss", "sub", "azp", "client_id",
	envoy.RateLimitNamespace, envoy.ExtAuthzNamespace, envoy.JWTNamespace, "grpc-status", "0", "14", "x",
	"203.0.113.77", "2001:db8:1:2::3", "not an address", "outbound|8080|v2|reviews.default.svc.cluster.local",
	"via_upstream", "request_rate_limited", "/v1/orders?secret=1", "curl/8.5.0", "spiffe://td/ns/a/sa/b",
}

// draw fills a message with random values, leaving many fields out.
func draw(t *rapid.T, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if rapid.IntRange(0, 2).Draw(t, "present") == 0 || depth > 7 {
			continue
		}
		switch {
		case fd.IsMap():
			mp := m.Mutable(fd).Map()
			for range rapid.IntRange(0, 3).Draw(t, "entries") {
				key := protoreflect.ValueOfString(rapid.SampledFrom(words).Draw(t, "key")).MapKey()
				if fd.MapValue().Message() != nil {
					v := mp.NewValue()
					draw(t, v.Message(), depth+1)
					mp.Set(key, v)
				} else {
					mp.Set(key, scalar(t, fd.MapValue()))
				}
			}
		case fd.IsList():
			l := m.Mutable(fd).List()
			for range rapid.IntRange(0, 2).Draw(t, "items") {
				if fd.Message() != nil {
					draw(t, l.AppendMutable().Message(), depth+1)
				} else {
					l.Append(scalar(t, fd))
				}
			}
		case fd.Message() != nil:
			draw(t, m.Mutable(fd).Message(), depth+1)
		default:
			m.Set(fd, scalar(t, fd))
		}
	}
}

func scalar(t *rapid.T, fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(rapid.SampledFrom(words).Draw(t, "string"))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "bytes"))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool"))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.Int32Range(-1, 15).Draw(t, "enum")))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32Range(-1, 999_999_999).Draw(t, "int32"))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.OneOf(rapid.Just(now.Unix()), rapid.Int64Range(-2, 100), rapid.Int64()).Draw(t, "int64"))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(rapid.OneOf(rapid.Uint32Range(0, 999), rapid.Uint32()).Draw(t, "uint32"))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(rapid.OneOf(rapid.Uint64Range(0, 1<<40), rapid.Uint64()).Draw(t, "uint64"))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(rapid.Float64().Draw(t, "double"))
	}
	panic(fmt.Sprintf("no generator for %v", fd.Kind()))
}

// junk is fields that no version of the entry has, of every wire type.
func junk(t *rapid.T) []byte {
	var b []byte
	for range rapid.IntRange(0, 2).Draw(t, "junk") {
		b = append(b, rapid.SampledFrom([][]byte{
			{0xf8, 0x7f, 0x01},                   // varint of field 2047
			{0xfa, 0x7f, 0x02, 'h', 'i'},         // bytes
			{0xfb, 0x7f, 0x08, 0x01, 0xfc, 0x7f}, // group
			{0xfd, 0x7f, 1, 2, 3, 4},             // 32 bits
			{0xf9, 0x7f, 1, 2, 3, 4, 5, 6, 7, 8}, // 64 bits
			{0x08, 0x01},                         // field 1 with a wrong wire type
			{0x12, 0x01, 'x'},                    // field 2 with a wrong wire type
			{0x1d, 0, 0, 0, 0},                   // field 3 with a wrong wire type
		}).Draw(t, "field")...)
	}
	return b
}

// drawWire is the bytes of an entry that may come in parts, out of order, and
// with fields nobody knows.
func drawWire(t *rapid.T, newMessage func() proto.Message) []byte {
	var b []byte
	for range rapid.IntRange(1, 2).Draw(t, "parts") {
		m := newMessage()
		draw(t, m.ProtoReflect(), 0)
		part, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		b = append(append(b, part...), junk(t)...)
	}
	return b
}

var now = time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC)

func newMapper(t testing.TB) *envoy.Mapper {
	t.Helper()
	m, err := envoy.NewMapper(envoy.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	return m
}
