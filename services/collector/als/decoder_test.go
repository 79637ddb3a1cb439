package als

import (
	"errors"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/envoy"
)

var testNode = &envoy.Node{ID: "edge-1", Cluster: "edge", Region: "eu", Zone: "eu-1a", Source: "envoy/edge"}

// typical is an entry as a real Envoy with our configuration sends it.
func typical() *datav3.HTTPAccessLogEntry {
	socket := func(a string, p uint32) *corev3.Address {
		return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: a, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: p}}}}
	}
	us := func(n int64) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Microsecond) }
	answer, _ := structpb.NewStruct(map[string]any{
		"key_id": "key_01HF", "account": "acme", "app": "mobile", "plan": "gold", "product": "orders"})
	return &datav3.HTTPAccessLogEntry{
		ProtocolVersion: datav3.HTTPAccessLogEntry_HTTP11,
		CommonProperties: &datav3.AccessLogCommon{
			DownstreamRemoteAddress:       socket("203.0.113.77", 51022),
			DownstreamLocalAddress:        socket("10.0.0.5", 8080),
			DownstreamDirectRemoteAddress: socket("10.0.0.9", 51022),
			UpstreamRemoteAddress:         socket("10.0.3.4", 8080),
			UpstreamLocalAddress:          socket("10.0.0.5", 41234),
			StartTime:                     timestamppb.New(now.Add(-time.Second)),
			TimeToLastRxByte:              us(210), TimeToFirstUpstreamTxByte: us(950), TimeToLastUpstreamTxByte: us(970),
			TimeToFirstUpstreamRxByte: us(15_970), TimeToLastUpstreamRxByte: us(16_400),
			TimeToFirstDownstreamTxByte: us(16_020), TimeToLastDownstreamTxByte: us(16_460), Duration: us(16_470),
			UpstreamCluster: "orders-canary", RouteName: "orders-v1", ResponseFlags: &datav3.ResponseFlags{},
			UpstreamRequestAttemptCount: 1, StreamId: "6f1c3a52-5bb1-4f5b-9d5c-0d2f6a3b9c11",
			AccessLogType: datav3.AccessLogType_DownstreamEnd,
			CustomTags:    map[string]string{"api": "orders", "track": "canary", "version": "v2", "pod": "edge-1-x7k2"},
			Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
				envoy.RateLimitNamespace: answer}},
			DownstreamWireBytesSent: 2300, DownstreamWireBytesReceived: 700,
			UpstreamWireBytesSent: 800, UpstreamWireBytesReceived: 2100,
		},
		Request: &datav3.HTTPRequestProperties{
			RequestMethod: corev3.RequestMethod_POST, Scheme: "https", Authority: "api.example.com",
			Path: "/v1/orders?expand=items", RequestId: "6f1c3a52-5bb1-4f5b-9d5c-0d2f6a3b9c11",
			UserAgent:           "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0 Safari/537.36",
			RequestHeadersBytes: 412, RequestBodyBytes: 96,
		},
		Response: &datav3.HTTPResponseProperties{
			ResponseCode: wrapperspb.UInt32(201), ResponseHeadersBytes: 210, ResponseBodyBytes: 1834,
			ResponseCodeDetails: "via_upstream",
			ResponseHeaders:     map[string]string{"x-usage-units": "12"},
		},
	}
}

func TestTypicalEntry(t *testing.T) {
	b, err := proto.Marshal(typical())
	if err != nil {
		t.Fatal(err)
	}
	var got call.Call
	stored, err := NewDecoder(newMapper(t)).HTTP(b, testNode, true, now.UnixMicro(), &got)
	if err != nil || !stored {
		t.Fatalf("stored %v, error %v", stored, err)
	}
	var want call.Call
	want.Reset()
	want.Time, want.ReceivedAt = now.Add(-time.Second).UnixMicro(), now.UnixMicro()
	want.ID = call.NewID("edge-1", "6f1c3a52-5bb1-4f5b-9d5c-0d2f6a3b9c11", "1795499999000000")
	for column, value := range map[call.StringColumn]string{
		call.Source: "envoy/edge", call.Gateway: "edge-1", call.Region: "eu", call.Zone: "eu-1a",
		call.Protocol: "HTTP/1.1", call.API: "orders", call.Method: "POST", call.Host: "api.example.com",
		call.Route: "orders-v1", call.Credential: "key_01HF", call.App: "mobile", call.Account: "acme",
		call.Product: "orders", call.Plan: "gold", call.UserAgent: "Chrome", call.OS: "Linux", call.Device: "desktop",
		call.Fault: call.FaultNone, call.Upstream: "orders-canary", call.UpstreamHost: "10.0.3.4:8080", call.Version: "v2",
	} {
		want.Strings[column] = value
	}
	want.ClientIP, want.Path, want.Status, want.Attempts = "203.0.113.0", "/v1/orders", 201, 1
	want.Latency = [call.LatencyColumns]int64{16_470, 210, 740, 15_000, 430, 50, 60, 16_020}
	want.RequestBytes, want.ResponseBytes = 508, 2044
	want.Attributes = []call.Attribute{{Name: "track", Value: "canary"}}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

func TestHTTPAgreesWithReference(t *testing.T) {
	decoder, mapper := NewDecoder(newMapper(t)), newMapper(t)
	stored := 0
	rapid.Check(t, func(t *rapid.T) {
		b := drawWire(t, func() proto.Message { return &datav3.HTTPAccessLogEntry{} })
		if rapid.Bool().Draw(t, "usual") {
			// Most random entries start at no time and did not end.
			b = append(b, usual(t)...)
		}
		if compareHTTP(t, decoder, mapper, b) {
			stored++
		}
	})
	if stored == 0 {
		t.Error("no random entry was stored")
	}
}

// usual is bytes that, merged into any entry, make it one that is stored.
func usual(t *rapid.T) []byte {
	socket := &datav3.HTTPAccessLogEntry{
		CommonProperties: &datav3.AccessLogCommon{
			StartTime: timestamppb.New(now), AccessLogType: datav3.AccessLogType_DownstreamEnd},
		Response: &datav3.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(rapid.SampledFrom([]uint32{200, 404, 429, 503}).Draw(t, "status"))},
	}
	b, err := proto.Marshal(socket)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTCPAgreesWithReference(t *testing.T) {
	decoder, mapper := NewDecoder(newMapper(t)), newMapper(t)
	rapid.Check(t, func(t *rapid.T) {
		b := drawWire(t, func() proto.Message { return &datav3.TCPAccessLogEntry{} })
		compareTCP(t, decoder, mapper, b)
	})
}

type failer interface {
	Helper()
	Fatalf(string, ...any)
}

// compareHTTP holds our decoder against the general one. What the general one
// refuses ours may take; what it takes, ours must read the same.
func compareHTTP(t failer, d *Decoder, m *envoy.Mapper, b []byte) bool {
	t.Helper()
	var got call.Call
	stored, err := d.HTTP(b, testNode, true, now.UnixMicro(), &got)
	var message datav3.HTTPAccessLogEntry
	if proto.Unmarshal(b, &message) != nil {
		return stored
	}
	compare(t, referenceHTTP(&message), d, m, b, stored, err, &got)
	return stored
}

func compareTCP(t failer, d *Decoder, m *envoy.Mapper, b []byte) {
	t.Helper()
	var got call.Call
	stored, err := d.TCP(b, testNode, true, now.UnixMicro(), &got)
	var message datav3.TCPAccessLogEntry
	if proto.Unmarshal(b, &message) != nil {
		return
	}
	compare(t, referenceTCP(&message), d, m, b, stored, err, &got)
}

func compare(t failer, want *envoy.Entry, d *Decoder, m *envoy.Mapper, b []byte, stored bool, err error, got *call.Call) {
	t.Helper()
	if diff := cmp.Diff(want, &d.entry); diff != "" {
		t.Fatalf("entry %x\n%s", b, diff)
	}
	if !want.Ended() {
		if stored || err != nil {
			t.Fatalf("an entry that did not end: stored %v, error %v", stored, err)
		}
		return
	}
	var wantCall call.Call
	var scratch envoy.Scratch
	wantErr := m.Map(testNode, want, b, true, now.UnixMicro(), &scratch, &wantCall)
	if (err == nil) != (wantErr == nil) || stored != (wantErr == nil) {
		t.Fatalf("error %v, want %v, stored %v", err, wantErr, stored)
	}
	if err != nil {
		if diff := cmp.Diff(wantErr, err); diff != "" {
			t.Fatalf("%s", diff)
		}
		return
	}
	if diff := cmp.Diff(&wantCall, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("entry %x\n%s", b, diff)
	}
}

func TestMalformedEntryNamesTheField(t *testing.T) {
	tests := []struct {
		name, field string
		bytes       []byte
	}{
		{"key without value", "entry", []byte{0x0a}},
		{"length past the end", "entry", []byte{0x0a, 5, 1}},
		{"field number zero", "entry", []byte{0x02, 0}},
		{"end of a group that did not begin", "entry", []byte{0x0c}},
		{"group without end", "entry", []byte{0x0b}},
		{"endless varint", "entry", []byte{0x10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1}},
		{"common", "common_properties", []byte{0x0a, 1, 0x2a}},
		{"start", "start_time", []byte{0x0a, 3, 0x2a, 1, 0x08}},
		{"duration", "duration", []byte{0x0a, 4, 0xba, 0x01, 1, 0x08}},
		{"flags", "response_flags", []byte{0x0a, 4, 0x82, 0x01, 1, 0x08}},
		{"metadata", "metadata", []byte{0x0a, 4, 0x8a, 0x01, 1, 0x0a}},
		{"tags", "custom_tags", []byte{0x0a, 4, 0xb2, 0x01, 1, 0x0a}},
		{"address", "upstream_remote_address", []byte{0x0a, 3, 0x6a, 1, 0x0a}},
		{"request", "request", []byte{0x1a, 1, 0x0a}},
		{"response", "response", []byte{0x22, 1, 0x0a}},
		{"status", "response_code", []byte{0x22, 3, 0x0a, 1, 0x08}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var c call.Call
			stored, err := NewDecoder(newMapper(t)).HTTP(tt.bytes, testNode, true, now.UnixMicro(), &c)
			var reject *envoy.Reject
			if stored || !errors.As(err, &reject) || reject.Reason != envoy.ReasonMalformed || reject.Field != tt.field {
				t.Errorf("stored %v, error %v; want malformed %s", stored, err, tt.field)
			}
		})
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	b, err := proto.Marshal(typical())
	if err != nil {
		t.Fatal(err)
	}
	d := NewDecoder(newMapper(t))
	var c call.Call
	if n := testing.AllocsPerRun(100, func() {
		if _, err := d.HTTP(b, testNode, true, now.UnixMicro(), &c); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per entry", n)
	}
}

func FuzzHTTPEntry(f *testing.F) {
	b, err := proto.Marshal(typical())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Add([]byte{0x0a, 5, 1})
	d, m := NewDecoder(newMapper(f)), newMapper(f)
	f.Fuzz(func(t *testing.T, b []byte) { compareHTTP(t, d, m, b) })
}

func FuzzTCPEntry(f *testing.F) {
	b, err := proto.Marshal(&datav3.TCPAccessLogEntry{
		CommonProperties:     typical().CommonProperties,
		ConnectionProperties: &datav3.ConnectionProperties{ReceivedBytes: 10, SentBytes: 20},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	d, m := NewDecoder(newMapper(f)), newMapper(f)
	f.Fuzz(func(t *testing.T, b []byte) { compareTCP(t, d, m, b) })
}

// BenchmarkEntry compares one entry's way to a call with what the general
// decoder takes for its message alone. The ratio is taken in one run.
func BenchmarkEntry(b *testing.B) {
	wire, err := proto.Marshal(typical())
	if err != nil {
		b.Fatal(err)
	}
	d := NewDecoder(newMapper(b))
	var c call.Call
	var ours, general time.Duration
	const round = 1000
	for b.Loop() {
		start := time.Now()
		for range round {
			if _, err := d.HTTP(wire, testNode, true, now.UnixMicro(), &c); err != nil {
				b.Fatal(err)
			}
		}
		middle := time.Now()
		for range round {
			var m datav3.HTTPAccessLogEntry
			if err := proto.Unmarshal(wire, &m); err != nil {
				b.Fatal(err)
			}
		}
		ours += middle.Sub(start)
		general += time.Since(middle)
	}
	n := float64(b.N) * round
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(ours.Nanoseconds())/n, "ns/entry")
	b.ReportMetric(float64(general.Nanoseconds())/n, "ns/proto.Unmarshal")
	b.ReportMetric(float64(general)/float64(ours), "ratio")
	b.ReportMetric(float64(len(wire)), "B/entry")
}
