package envoy

import "strings"

// Flags is Envoy's response flags, bit n-1 for field n of
// envoy.data.accesslog.v3.ResponseFlags.
type Flags uint32

// The flags, in Envoy's order.
const (
	FailedLocalHealthCheck Flags = 1 << iota
	NoHealthyUpstream
	UpstreamRequestTimeout
	LocalReset
	UpstreamRemoteReset
	UpstreamConnectionFailure
	UpstreamConnectionTermination
	UpstreamOverflow
	NoRouteFound
	DelayInjected
	FaultInjected
	RateLimited
	Unauthorized
	RateLimitServiceError
	DownstreamConnectionTermination
	UpstreamRetryLimitExceeded
	StreamIdleTimeout
	InvalidRequestHeaders
	DownstreamProtocolError
	UpstreamMaxStreamDuration
	ResponseFromCache
	NoFilterConfigFound
	DurationTimeout
	UpstreamProtocolError
	NoClusterFound
	OverloadManager
	DNSResolutionFailed
	DownstreamRemoteReset

	flagCount = iota
)

// flagCodes are the short codes of Envoy's text logs.
var flagCodes = [flagCount]string{
	"LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL",
	"UAEX", "RLSE", "DC", "URX", "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF",
	"DT", "UPE", "NC", "OM", "DF", "DR",
}

// Append writes the short codes joined by commas, in Envoy's order.
func (f Flags) Append(b []byte) []byte {
	first := true
	for i := range flagCount {
		if f&(1<<i) == 0 {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, flagCodes[i]...)
	}
	return b
}

func (f Flags) String() string { return string(f.Append(nil)) }

// ParseFlags reads short codes joined by commas. Codes of extensions that this
// list does not have are left out; "-" is how Envoy prints none.
func ParseFlags(s string) (f Flags) {
	for code := range strings.SplitSeq(s, ",") {
		for i, c := range flagCodes {
			if c == code {
				f |= 1 << i
				break
			}
		}
	}
	return f
}
