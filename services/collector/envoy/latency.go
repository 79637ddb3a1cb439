package envoy

import (
	"math"

	"github.com/tollway/tollway/pipelines/call"
)

// maxSeconds is the range of google.protobuf.Duration and Timestamp, about ten
// thousand years; what is outside is no time.
const maxSeconds = 315_576_000_000

// micros is the span in whole microseconds, NotMeasured when it is not set, and
// never less than zero: Envoy's clocks are monotonic, a negative span is noise.
func (s Span) micros() (int64, bool) {
	if !s.Set {
		return call.NotMeasured, true
	}
	if s.Seconds > maxSeconds || s.Seconds < -maxSeconds {
		return 0, false
	}
	return max(0, s.Seconds*1e6+int64(s.Nanos)/1000), true
}

// latency fills the durations of a call from Envoy's time points. A part is
// NotMeasured when a point it needs is missing, and never negative: parts
// overlap when a response starts before the request has ended. With retries,
// the upstream points are those of the last attempt.
func latency(e *Entry, l *[call.LatencyColumns]int64) *Reject {
	var at [points]int64
	for i := range e.Points {
		us, ok := e.Points[i].micros()
		if !ok {
			return &Reject{ReasonRange, pointFields[i]}
		}
		at[i] = us
	}
	l[call.Total] = at[Duration]
	if l[call.Total] == call.NotMeasured {
		l[call.Total] = at[LastDownstreamTx]
	}
	l[call.ClientIn] = at[LastRx]
	l[call.GatewayIn] = between(at[LastRx], at[FirstUpstreamTx])
	l[call.UpstreamTime] = between(at[LastUpstreamTx], at[FirstUpstreamRx])
	l[call.UpstreamTransfer] = between(at[FirstUpstreamRx], at[LastUpstreamRx])
	l[call.GatewayOut] = between(at[FirstUpstreamRx], at[FirstDownstreamTx])
	l[call.ClientOut] = call.NotMeasured
	if at[FirstDownstreamTx] != call.NotMeasured {
		// A response that Envoy made itself has no last byte from upstream.
		l[call.ClientOut] = between(max(at[LastUpstreamRx], at[FirstDownstreamTx]), at[LastDownstreamTx])
	}
	l[call.TTFB] = at[FirstDownstreamTx]
	return nil
}

func between(from, to int64) int64 {
	if from == call.NotMeasured || to == call.NotMeasured {
		return call.NotMeasured
	}
	return max(0, to-from)
}

var pointFields = [points]string{
	"time_to_last_rx_byte", "time_to_first_upstream_tx_byte",
	"time_to_last_upstream_tx_byte", "time_to_first_upstream_rx_byte",
	"time_to_last_upstream_rx_byte", "time_to_first_downstream_tx_byte",
	"time_to_last_downstream_tx_byte", "duration",
}

// sum adds two byte counts; false when no call can have that many.
func sum(a, b uint64) (int64, bool) {
	const most = math.MaxInt64 / 2
	if a > most || b > most {
		return 0, false
	}
	return int64(a + b), true
}
