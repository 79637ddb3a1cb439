package gen

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// ALS is a load of Envoy access logs over gRPC streams. Entries are encoded
// once and changed in place, so that the generator takes little of the machine
// that it measures.
type ALS struct {
	Address string
	Token   string
	Node    string // the Envoy's node id, with a number for each stream
	Streams int
	Entries int     // in a message
	Rate    float64 // entries per second over all streams
	Account string  // of all calls; different ones when empty
	Seed    uint64
	// Sent is called with what each message held, after it was handed to the
	// stream; nil when nobody wants to know.
	Sent func(entries int, at time.Time)
}

// Run sends until ctx ends, then closes the streams and waits for the answer.
func (a ALS) Run(ctx context.Context) (entries int64, err error) {
	// A connection for each stream, as from as many Envoys.
	var wg sync.WaitGroup
	errs := make([]error, a.Streams)
	var sent atomic.Int64
	for i := range a.Streams {
		wg.Go(func() {
			n, err := a.stream(ctx, i)
			sent.Add(n)
			errs[i] = err
		})
	}
	wg.Wait()
	return sent.Load(), errors.Join(errs...)
}

// verbatim sends bytes as they are.
type verbatim struct{}

func (verbatim) Name() string { return "proto" }

func (verbatim) Marshal(v any) ([]byte, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("cannot send a %T", v)
	}
	return *b, nil
}

func (verbatim) Unmarshal([]byte, any) error { return nil } // the answer is empty

const alsMethod = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"

func (a ALS) stream(ctx context.Context, number int) (sent int64, err error) {
	conn, err := grpc.NewClient(a.Address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(1<<20), grpc.WithDefaultCallOptions(grpc.ForceCodec(verbatim{})))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	whole, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	// A stream that does not take what it is given is given up at some time.
	defer context.AfterFunc(ctx, func() { time.AfterFunc(20*time.Second, cancel) })()
	stream, err := conn.NewStream(metadata.AppendToOutgoingContext(whole, "authorization", "Bearer "+a.Token),
		&grpc.StreamDesc{ClientStreams: true}, alsMethod)
	if err != nil {
		return 0, err
	}
	m, err := a.message(number)
	if err != nil {
		return 0, err
	}
	pause := time.Duration(float64(a.Entries*a.Streams) / a.Rate * float64(time.Second))
	for next := time.Now(); ctx.Err() == nil; next = next.Add(pause) {
		if wait := time.Until(next); wait > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
			if ctx.Err() != nil {
				break
			}
		} else if wait < -time.Second {
			next = time.Now() // what could not be sent in time is not made up for
		}
		now := time.Now()
		m.change(now, uint64(number)<<48|uint64(sent))
		message := bytes.Clone(m.bytes) // the transport may still hold the last one
		if sent == 0 {
			message = append(message, m.identifier...)
		}
		if err := stream.SendMsg(&message); err != nil {
			if errors.Is(err, io.EOF) {
				err = stream.RecvMsg(nil)
			}
			return sent, fmt.Errorf("send entries: %w", err)
		}
		sent += int64(a.Entries)
		if a.Sent != nil {
			a.Sent(a.Entries, now)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return sent, err
	}
	if err := stream.RecvMsg(nil); err != nil && !errors.Is(err, io.EOF) {
		return sent, fmt.Errorf("end of the stream: %w", err)
	}
	return sent, nil
}

// template is an encoded message and where its entries have their start and
// their stream id.
type template struct {
	bytes      []byte
	identifier []byte // for the first message
	starts     []int  // of a Timestamp: 08 sssss 10 nnnnn
	ids        []int  // of sixteen digits
}

// placeholder has a value of five bytes in both fields, as every time has that
// comes in question; see writeVarint5.
var placeholder = &timestamppb.Timestamp{Seconds: 1_799_999_999, Nanos: 999_999_999}

const idPlaceholder = "0123456789abcdef"

func (a ALS) message(number int) (*template, error) {
	r := rand.New(rand.NewPCG(a.Seed, uint64(number)))
	m := &template{}
	stamp, err := proto.Marshal(placeholder)
	if err != nil {
		return nil, err
	}
	var list []byte
	var entries []int // where each entry ends in list
	for range a.Entries {
		entry, err := proto.Marshal(a.entry(r))
		if err != nil {
			return nil, err
		}
		list = protowire.AppendTag(list, 1, protowire.BytesType)
		list = protowire.AppendBytes(list, entry)
		entries = append(entries, len(list))
	}
	m.bytes = protowire.AppendTag(m.bytes, 2, protowire.BytesType)
	m.bytes = protowire.AppendBytes(m.bytes, list)
	begin := len(m.bytes) - len(list)
	from := begin
	for _, end := range entries {
		one := m.bytes[from : begin+end]
		at, id := bytes.Index(one, stamp), bytes.Index(one, []byte(idPlaceholder))
		if at < 0 || id < 0 {
			return nil, errors.New("an entry lost its placeholders")
		}
		m.starts, m.ids = append(m.starts, from+at), append(m.ids, from+id)
		from = begin + end
	}
	identifier, err := proto.Marshal(&alsv3.StreamAccessLogsMessage_Identifier{
		Node:    &corev3.Node{Id: fmt.Sprintf("%s-%d", a.Node, number), Cluster: "loadtest"},
		LogName: "loadtest",
	})
	if err != nil {
		return nil, err
	}
	m.identifier = protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), identifier)
	return m, nil
}

// change gives every entry a start and an id of its own.
func (m *template) change(now time.Time, first uint64) {
	const digits = "0123456789abcdef"
	seconds, nanos := uint64(now.Unix()), uint64(now.Nanosecond())
	for i, at := range m.starts {
		writeVarint5(m.bytes[at+1:], seconds)
		writeVarint5(m.bytes[at+7:], nanos)
		id := m.bytes[m.ids[i]:]
		for d, v := 15, first+uint64(i); d >= 0; d-- {
			id[d] = digits[v&15]
			v >>= 4
		}
	}
}

// writeVarint5 writes v in five bytes, padded if it needs fewer.
func writeVarint5(b []byte, v uint64) {
	for i := range 4 {
		b[i] = byte(v) | 0x80
		v >>= 7
	}
	b[4] = byte(v)
}

func (a ALS) entry(r *rand.Rand) *datav3.HTTPAccessLogEntry {
	micros := func(us int) *durationpb.Duration { return durationpb.New(time.Duration(us) * time.Microsecond) }
	address := func(host string, port uint32) *corev3.Address {
		return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}}
	}
	total := 2000 + int(r.ExpFloat64()*10_000)
	api := r.IntN(3)
	account := a.Account
	if account == "" {
		account = fmt.Sprintf("account-%03d", r.IntN(200))
	}
	version := "v1"
	if r.IntN(10) == 0 {
		version = "v2"
	}
	return &datav3.HTTPAccessLogEntry{
		ProtocolVersion: datav3.HTTPAccessLogEntry_HTTP11,
		CommonProperties: &datav3.AccessLogCommon{
			DownstreamDirectRemoteAddress: address(fmt.Sprintf("10.1.%d.%d", r.IntN(4), r.IntN(250)), uint32(1024+r.IntN(60000))),
			DownstreamRemoteAddress:       address(fmt.Sprintf("203.0.113.%d", r.IntN(250)), uint32(1024+r.IntN(60000))),
			StartTime:                     placeholder,
			TimeToLastRxByte:              micros(total / 40),
			TimeToFirstUpstreamTxByte:     micros(total / 20),
			TimeToLastUpstreamTxByte:      micros(total / 18),
			TimeToFirstUpstreamRxByte:     micros(total * 8 / 10),
			TimeToLastUpstreamRxByte:      micros(total * 9 / 10),
			TimeToFirstDownstreamTxByte:   micros(total * 85 / 100),
			TimeToLastDownstreamTxByte:    micros(total),
			Duration:                      micros(total),
			UpstreamRemoteAddress:         address(fmt.Sprintf("10.2.0.%d", r.IntN(8)), 8080),
			UpstreamCluster:               fmt.Sprintf("things%d", api),
			RouteName:                     fmt.Sprintf("things%d", api),
			StreamId:                      idPlaceholder,
			UpstreamRequestAttemptCount:   1,
			CustomTags: map[string]string{
				"account": account, "product": fmt.Sprintf("product-%d", r.IntN(4)),
				"api": fmt.Sprintf("api%d", api), "operation": fmt.Sprintf("/v1/things%d/{id}", r.IntN(5)), "version": version,
			},
		},
		Request: &datav3.HTTPRequestProperties{
			RequestMethod: []corev3.RequestMethod{corev3.RequestMethod_GET, corev3.RequestMethod_GET, corev3.RequestMethod_POST}[r.IntN(3)],
			Scheme:        "https", Authority: fmt.Sprintf("api%d.example.com", api),
			Path:                fmt.Sprintf("/v1/things%d/%d", r.IntN(5), r.IntN(100_000)),
			UserAgent:           "example-client/2.1 (Linux; go1.26)",
			RequestHeadersBytes: uint64(200 + r.IntN(600)), RequestBodyBytes: uint64(r.IntN(2000)),
		},
		Response: &datav3.HTTPResponseProperties{
			ResponseCode:         wrapperspb.UInt32(uint32(statuses[r.IntN(len(statuses))])),
			ResponseHeadersBytes: uint64(100 + r.IntN(300)), ResponseBodyBytes: uint64(r.IntN(50_000)),
			ResponseCodeDetails: "via_upstream",
		},
	}
}

// Bodies are CloudEvents batches of about 220 bytes an event, made once; ids
// and times are changed in place.
type Bodies struct {
	body  []byte
	ids   []int // of sixteen digits
	times []int
	next  uint64
}

const timeLayout = "2006-01-02T15:04:05.000000Z"

// NewBodies makes a batch of events; prefix tells the ids of several apart.
func NewBodies(prefix string, events int, seed uint64) *Bodies {
	r := rand.New(rand.NewPCG(seed, 5))
	b := &Bodies{body: []byte{'['}}
	for i := range events {
		if i > 0 {
			b.body = append(b.body, ',')
		}
		b.body = append(b.body, `{"specversion":"1.0","type":"tollway.call.v1","source":"loadtest","id":"`+prefix...)
		b.ids = append(b.ids, len(b.body))
		b.body = append(b.body, idPlaceholder+`","time":"`...)
		b.times = append(b.times, len(b.body))
		b.body = append(b.body, timeLayout...)
		b.body = fmt.Appendf(b.body, `","data":{"method":"GET","status":%d,"total_us":%d,"api":"api%d","account":"account-%03d"}}`,
			statuses[r.IntN(len(statuses))], 2000+r.IntN(50_000), r.IntN(3), r.IntN(200))
	}
	b.body = append(b.body, ']')
	return b
}

// Next is the next batch, of calls that started at now. It is valid until the
// next call.
func (b *Bodies) Next(now time.Time) []byte {
	at := now.UTC().Format(timeLayout)
	for i, p := range b.ids {
		var id [8]byte
		binary.BigEndian.PutUint64(id[:], b.next)
		const digits = "0123456789abcdef"
		for d, v := range id {
			b.body[p+2*d], b.body[p+2*d+1] = digits[v>>4], digits[v&15]
		}
		copy(b.body[b.times[i]:], at)
		b.next++
	}
	return b.body
}
