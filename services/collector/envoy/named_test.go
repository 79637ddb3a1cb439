package envoy

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSet(t *testing.T) {
	var got Entry
	for name, value := range map[string]string{
		"start_time": "1795500000.123456", "access_log_type": "TcpConnectionEnd", "status": "503", "flags": "UH,UF",
		"attempts": "2", "request_header_bytes": "10", "request_body_bytes": "20", "response_header_bytes": "30", "response_body_bytes": "40",
		"duration_us": "1500", "time_to_last_rx_byte_ms": "1.5", "time_to_first_upstream_tx_byte_us": "-", "time_to_last_upstream_tx_byte_us": "-1",
		"method": "GET", "path": "/", "details": "via_upstream", "grpc_status": "14",
		"api": "orders", "ratelimit_key_id": "k", "ext_authz_decision": "quota", "jwt_sub": "s", "user_agent": "",
	} {
		if known, err := got.Set(name, value); !known || err != nil {
			t.Errorf("%s: known %v, error %v", name, known, err)
		}
	}
	want := Entry{
		TCP: true, Type: TypeTCPConnectionEnd, Start: Span{Seconds: 1795500000, Nanos: 123_456_000, Set: true},
		Status: 503, Flags: NoHealthyUpstream | UpstreamConnectionFailure, Attempts: 2,
		RequestHeader: 10, RequestBody: 20, ResponseHeader: 30, ResponseBody: 40,
		Method: "GET", Path: "/", Details: "via_upstream", TrailerGRPC: "14", JWT: JWT{Sub: "s"},
	}
	want.Points[Duration] = spanOf(1500)
	want.Points[LastRx] = spanOf(1500)
	want.Tags[TagAPI], want.RateLimit[MetaKeyID], want.ExtAuthz[MetaDecision] = "orders", "k", "quota"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSetRefuses(t *testing.T) {
	var e Entry
	if known, err := e.Set("no_such_field", "1"); known || err != nil {
		t.Errorf("known %v, error %v", known, err)
	}
	for name, value := range map[string]string{
		"status": "two hundred", "request_body_bytes": "-1", "response_body_bytes": "99999999999999999999",
		"start_time": "yesterday", "duration_us": "NaN", "duration_ms": "1e300", "attempts": "1.5",
	} {
		if _, err := e.Set(name, value); !errors.Is(err, ErrNumber) {
			t.Errorf("%s %q: %v", name, value, err)
		}
	}
	if diff := cmp.Diff(Entry{}, e); diff != "" {
		t.Error(diff)
	}
	for _, value := range []string{"2026-11-24T06:00:00.123Z", "1795500000.123"} {
		if _, err := e.Set("start_time", value); err != nil || e.Start != (Span{1795500000, 123_000_000, true}) {
			t.Errorf("%q: %v, %v", value, e.Start, err)
		}
	}
}
