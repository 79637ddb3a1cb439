package envoy

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// ErrNumber says that a value should have been a number, and is not or is one
// that does not fit.
var ErrNumber = errors.New("is not a number in range")

// Set fills a field of the entry by its name in a text log, from a value in
// text: Istio sends numbers as text too. known is false for a name that is no
// field. A value that is empty or "-", Envoy's way to print that there is none,
// leaves the field as it is. The names are those of deploy/envoy/otlp.yaml.
func (e *Entry) Set(name, value string) (known bool, err error) {
	set, ok := named[name]
	if !ok || value == "" || value == "-" {
		return ok, nil
	}
	return true, set(e, value)
}

type setter func(e *Entry, value string) error

var named = setters()

func setters() map[string]setter {
	m := map[string]setter{
		"start_time":      setStart,
		"access_log_type": setType,
		"flags":           func(e *Entry, v string) error { e.Flags = ParseFlags(v); return nil },

		"status":   number(func(e *Entry) *uint32 { return &e.Status }),
		"attempts": number(func(e *Entry) *uint32 { return &e.Attempts }),

		"request_header_bytes":  size(func(e *Entry) *uint64 { return &e.RequestHeader }),
		"request_body_bytes":    size(func(e *Entry) *uint64 { return &e.RequestBody }),
		"response_header_bytes": size(func(e *Entry) *uint64 { return &e.ResponseHeader }),
		"response_body_bytes":   size(func(e *Entry) *uint64 { return &e.ResponseBody }),
	}
	for name, at := range map[string]func(e *Entry) *string{
		"stream_id":        func(e *Entry) *string { return &e.StreamID },
		"request_id":       func(e *Entry) *string { return &e.RequestID },
		"client_address":   func(e *Entry) *string { return &e.ClientAddress },
		"peer_address":     func(e *Entry) *string { return &e.PeerAddress },
		"peer_uri":         func(e *Entry) *string { return &e.PeerURI },
		"protocol":         func(e *Entry) *string { return &e.Protocol },
		"method":           func(e *Entry) *string { return &e.Method },
		"authority":        func(e *Entry) *string { return &e.Authority },
		"path":             func(e *Entry) *string { return &e.Path },
		"original_path":    func(e *Entry) *string { return &e.OriginalPath },
		"user_agent":       func(e *Entry) *string { return &e.UserAgent },
		"route":            func(e *Entry) *string { return &e.Route },
		"upstream_cluster": func(e *Entry) *string { return &e.Cluster },
		"upstream_host":    func(e *Entry) *string { return &e.UpstreamAddress },
		"details":          func(e *Entry) *string { return &e.Details },
		"grpc_status":      func(e *Entry) *string { return &e.TrailerGRPC },
		"jwt_iss":          func(e *Entry) *string { return &e.JWT.Issuer },
		"jwt_client_id":    func(e *Entry) *string { return &e.JWT.ClientID },
		"jwt_azp":          func(e *Entry) *string { return &e.JWT.AZP },
		"jwt_sub":          func(e *Entry) *string { return &e.JWT.Sub },
	} {
		m[name] = func(e *Entry, v string) error { *at(e) = v; return nil }
	}
	for p, name := range pointFields {
		m[name+"_us"] = point(Point(p), time.Microsecond)
		m[name+"_ms"] = point(Point(p), time.Millisecond)
	}
	for tag, name := range tagNames {
		m[name] = func(e *Entry, v string) error { e.Tags[tag] = v; return nil }
	}
	for key, name := range metaNames {
		m["ratelimit_"+name] = func(e *Entry, v string) error { e.RateLimit[key] = v; return nil }
		m["ext_authz_"+name] = func(e *Entry, v string) error { e.ExtAuthz[key] = v; return nil }
	}
	return m
}

// setStart reads seconds with a fraction, %START_TIME(%s.%6f)%, or the date of
// %START_TIME% without a format.
func setStart(e *Entry, v string) error {
	if t, err := time.Parse(time.RFC3339Nano, v); err == nil {
		e.Start = Span{Seconds: t.Unix(), Nanos: int32(t.Nanosecond()), Set: true}
		return nil
	}
	whole, fraction, _ := strings.Cut(v, ".")
	seconds, err := strconv.ParseUint(whole, 10, 40)
	if err != nil || len(fraction) > 9 {
		return ErrNumber
	}
	nanos, err := strconv.ParseUint((fraction + "000000000")[:9], 10, 32)
	if err != nil {
		return ErrNumber
	}
	e.Start = Span{Seconds: int64(seconds), Nanos: int32(nanos), Set: true}
	return nil
}

// setType reads %ACCESS_LOG_TYPE%.
func setType(e *Entry, v string) error {
	switch v {
	case "NotSet":
	case "DownstreamEnd":
		e.Type = TypeDownstreamEnd
	case "TcpConnectionEnd":
		e.Type, e.TCP = TypeTCPConnectionEnd, true
	case "UdpSessionEnd":
		e.Type, e.TCP = TypeUDPSessionEnd, true
	default:
		e.Type, e.Intermediate = TypeNotSet, true
	}
	return nil
}

func number(at func(e *Entry) *uint32) setter {
	return func(e *Entry, v string) error {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return ErrNumber
		}
		*at(e) = uint32(n)
		return nil
	}
}

func size(at func(e *Entry) *uint64) setter {
	return func(e *Entry, v string) error {
		n, err := strconv.ParseUint(v, 10, 62)
		if err != nil {
			return ErrNumber
		}
		*at(e) = n
		return nil
	}
}

// point reads a duration. A negative one is how some formats say that there
// was none.
func point(p Point, unit time.Duration) setter {
	return func(e *Entry, v string) error {
		n, err := strconv.ParseFloat(v, 64)
		if err != nil || !(n < 1e15) {
			return ErrNumber
		}
		if n < 0 {
			return nil
		}
		us := int64(n * float64(unit/time.Microsecond))
		e.Points[p] = Span{Seconds: us / 1e6, Nanos: int32(us%1e6) * 1000, Set: true}
		return nil
	}
}
