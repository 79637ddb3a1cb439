package als

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that ours falls back to
	"google.golang.org/grpc/mem"
)

// Raw is a message as it came. It holds a reference on grpc's buffer: call Free
// when nothing aliases its bytes any more.
type Raw struct{ buffer mem.Buffer }

// Bytes is the message.
func (r *Raw) Bytes() []byte {
	if r.buffer == nil {
		return nil
	}
	return r.buffer.ReadOnlyData()
}

// Free gives the buffer back.
func (r *Raw) Free() {
	if r.buffer != nil {
		r.buffer.Free()
		r.buffer = nil
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
	// One buffer is shared, several are joined in one from the pool.
	raw.buffer = data.MaterializeToBuffer(mem.DefaultBufferPool())
	return nil
}
