package main

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestTraceByCall(t *testing.T) {
	a := newAPI(t, 200, `{"fate":"STORED","explanation":"The event is stored.","call_id":"ab"}`)
	if out, err := run(t, newEventsCommand(), "trace", "--call", "ab"); err != nil || !strings.Contains(out, "call  ab") {
		t.Errorf("printed %q, %v", out, err)
	}
	if a.path != "/v1/events:trace?call_id=ab" {
		t.Errorf("asked %s", a.path)
	}
	for _, args := range [][]string{{"trace", "edge"}, {"trace", "--call", "ab", "edge", "1"}, {"trace"}} {
		if _, err := run(t, newEventsCommand(), args...); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
}

func TestFind(t *testing.T) {
	a := newAPI(t, 200, `{"calls":[
		{"call_id":"8f14","event_time":"2026-11-24T12:00:00.000001Z","source":"envoy/edge","gateway":"edge-1","path":"/v1/orders/1\u001b","call":{"method":"GET","status":503,"total_us":"34000"}},
		{"call_id":"ab","event_time":"2026-11-24T11:59:00Z","source":"checkout","gateway":"","path":"","call":{"method":"","status":0,"total_us":"-1"}}]}`)
	out, err := run(t, newEventsCommand(), "find", "--since", "24h", "--path", "/v1/orders", "--status", "503", "--source", "envoy/edge")
	want := `start                        call  source      gateway    method     path           status    total
2026-11-24T12:00:00.000001Z  8f14  envoy/edge  edge-1     GET        /v1/orders/1�     503  34.0 ms
2026-11-24T11:59:00.000000Z  ab    checkout    (not set)  (not set)  (not set)           0        -
`
	want = strings.ReplaceAll(want, `\ufffd`, "\ufffd")
	if err != nil || out != want {
		t.Errorf("printed\n%s%v\nwant\n%s", out, err, want)
	}
	asked, err := url.Parse(a.path)
	if err != nil {
		t.Fatal(err)
	}
	q := asked.Query()
	from, err1 := time.Parse(time.RFC3339Nano, q.Get("start_time"))
	to, err2 := time.Parse(time.RFC3339Nano, q.Get("end_time"))
	if err1 != nil || err2 != nil || to.Sub(from) != 24*time.Hour {
		t.Errorf("asked for %s to %s", from, to)
	}
	q.Del("start_time")
	q.Del("end_time")
	if asked.Path != "/v1/calls:find" || q.Encode() != "limit=20&path_prefix=%2Fv1%2Forders&source=envoy%2Fedge&status=503" {
		t.Errorf("asked %s", a.path)
	}
	a.answer = `{"calls":[]}`
	if out, err := run(t, newEventsCommand(), "find"); err != nil || out != "no calls\n" {
		t.Errorf("nothing: %q, %v", out, err)
	}
}
