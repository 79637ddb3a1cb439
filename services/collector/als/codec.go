package als

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that ours falls back to
	"google.golang.org/grpc/mem"
)

// Raw is a message as it came. It may hold a reference on grpc's buffer: call
// Free when nothing aliases its bytes any more.
type Raw struct {
	buffer mem.Buffer // of a message that came in one piece
	joined []byte     // the pieces of another; its memory is used again
}

// keptBytes bounds the memory that a stream keeps between messages.
const keptBytes = 2 << 20

// Bytes is the message.
func (r *Raw) Bytes() []byte {
	if r.buffer == nil {
		return r.joined
	}
	return r.buffer.ReadOnlyData()
}

// Free gives the buffer back.
func (r *Raw) Free() {
	if r.buffer != nil {
		r.buffer.Free()
		r.buffer = nil
	}
	if r.joined = r.joined[:0]; cap(r.joined) > keptBytes {
		r.joined = nil
	}
}

// Codec is grpc's codec for protocol buffers, except that a *Raw takes the
// bytes as they are. Install it with grpc.ForceServerCodecV2 on the server that
// the service is registered with.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2("proto")} }

type codec struct{ encoding.CodecV2 }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	raw, ok := v.(*Raw)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	raw.Free()
	if len(data) == 1 {
		data[0].Ref()
		raw.buffer = data[0]
		return nil
	}
	// Not in one from the pool, which would be cleared first.
	for _, piece := range data {
		raw.joined = append(raw.joined, piece.ReadOnlyData()...)
	}
	return nil
}
