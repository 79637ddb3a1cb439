package events

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/publish"
)

// reference decodes an event with encoding/json, slowly and plainly. ok is
// false if the event has to be rejected.
func reference(text []byte) (c call.Call, ok bool) {
	c.Reset()
	var event map[string]json.RawMessage
	if json.Unmarshal(text, &event) != nil || event == nil {
		return c, false
	}
	str := func(raw json.RawMessage, to *string) bool {
		if raw == nil {
			return true
		}
		return json.Unmarshal(raw, to) == nil
	}
	var version, id, source, kind, at, contentType string
	if !str(event["specversion"], &version) || !str(event["id"], &id) || !str(event["source"], &source) || !str(event["type"], &kind) ||
		!str(event["time"], &at) || !str(event["datacontenttype"], &contentType) {
		return c, false
	}
	if _, is := event["data_base64"]; is || version != "1.0" || id == "" || source == "" || kind != "tollway.call.v1" || contentType != "" && !isJSON(contentType) {
		return c, false
	}
	c.ID, c.Time = call.NewID(source, id), now.UnixMicro()
	c.Strings[call.Source] = source
	if at != "" {
		parsed, err := time.Parse(time.RFC3339Nano, strings.ToUpper(at))
		if err != nil || parsed.UnixMicro() > now.Add(5*time.Minute).UnixMicro() || parsed.UnixMicro() < now.Add(-35*24*time.Hour).UnixMicro() {
			return c, false
		}
		c.Time = parsed.UnixMicro()
	}
	var data map[string]json.RawMessage
	if json.Unmarshal(event["data"], &data) != nil || data == nil {
		return c, false
	}
	for name, raw := range data {
		if !referenceMember(&c, name, raw) {
			return c, false
		}
	}
	return c, true
}

func referenceMember(c *call.Call, name string, raw json.RawMessage) bool {
	null := string(raw) == "null"
	whole := func(min, max int64, missing int64) (int64, bool) {
		if null {
			return missing, true
		}
		var n int64
		if strings.ContainsAny(string(raw), `.eE"`) || json.Unmarshal(raw, &n) != nil || string(raw) == "-0" {
			return 0, false
		}
		return n, n >= min && n <= max
	}
	if column, is := call.StringColumnByName(name); is && column != call.Source {
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return false
		}
		c.Strings[column] = s
		return column != call.Fault && column != call.Denied || chosen(column, s)
	}
	for i := range call.LatencyColumns {
		if name == call.LatencyColumn(i).String() {
			n, ok := whole(0, 1<<53, call.NotMeasured)
			c.Latency[i] = n
			return ok
		}
	}
	switch name {
	case "path":
		ok := json.Unmarshal(raw, &c.Path) == nil
		c.Path, _, _ = strings.Cut(c.Path, "?")
		c.Path, _, _ = strings.Cut(c.Path, "#")
		return ok
	case "client_ip":
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return false
		}
		if s == "" {
			return true
		}
		kept, err := DefaultConfig().ClientIP.Append(nil, s)
		c.ClientIP = string(kept)
		return err == nil
	case "status":
		n, ok := whole(0, 599, 0)
		c.Status = uint16(n)
		return ok && (n == 0 || n >= 100)
	case "grpc_status":
		n, ok := whole(-1, 1<<15-1, -1)
		c.GRPCStatus = int16(n)
		return ok
	case "attempts":
		n, ok := whole(0, 1<<16-1, 0)
		c.Attempts = uint16(n)
		return ok
	case "request_bytes":
		n, ok := whole(0, 1<<53, 0)
		c.RequestBytes = n
		return ok
	case "response_bytes":
		n, ok := whole(0, 1<<53, 0)
		c.ResponseBytes = n
		return ok
	case "measures":
		var values map[string]json.RawMessage
		if json.Unmarshal(raw, &values) != nil || len(values) > call.MaxMapPairs {
			return false
		}
		for key, value := range values {
			s := string(value)
			if len(s) > 0 && s[0] == '"' {
				if json.Unmarshal(value, &s) != nil {
					return false
				}
			}
			n, err := call.ParseDecimal(s)
			if err != nil || strings.HasPrefix(s, "-") {
				return false
			}
			c.Measures = append(c.Measures, call.Measure{Name: key, Value: n})
		}
		return true
	case "attributes":
		var values map[string]*string
		if json.Unmarshal(raw, &values) != nil || len(values) > call.MaxMapPairs {
			return false
		}
		for key, value := range values {
			if value == nil {
				return false
			}
			c.Attributes = append(c.Attributes, call.Attribute{Name: key, Value: *value})
		}
		return true
	}
	return false
}

// flatten prints what a call is, with invalid UTF-8 and the order of maps out
// of the way.
func flatten(c *call.Call) string {
	values := map[string]any{
		"time": c.Time, "strings": c.Strings, "path": c.Path, "ip": c.ClientIP, "status": c.Status, "grpc": c.GRPCStatus,
		"attempts": c.Attempts, "latency": c.Latency, "in": c.RequestBytes, "out": c.ResponseBytes,
	}
	if !strings.Contains(fmt.Sprint(c.Strings[call.Source]), "\uFFFD") {
		values["id"] = c.ID.String()
	}
	maps := map[string]string{}
	for _, m := range c.Measures {
		maps["m"+m.Name] = call.FormatDecimal(m.Value)
	}
	for _, a := range c.Attributes {
		maps["a"+a.Name] = a.Value
	}
	values["maps"] = maps
	text, _ := json.Marshal(values)
	for bytes.Contains(text, []byte("\uFFFD\uFFFD")) {
		text = bytes.ReplaceAll(text, []byte("\uFFFD\uFFFD"), []byte("\uFFFD"))
	}
	text = bytes.ReplaceAll(text, []byte(`\ufffd`), []byte("\uFFFD"))
	return string(text)
}

func newDecoder() *decoder {
	cfg := DefaultConfig()
	d := &decoder{cfg: &cfg}
	d.start(now, true)
	return d
}

func decodeOne(d *decoder, text []byte) (ok, syntax bool) {
	d.scan.Reset(text)
	err := d.cloudEvent()
	if err == nil {
		err = d.scan.End()
	}
	return err == nil && d.reason == "", err == nil
}

// Any event made of plausible and implausible members is judged, and read, as
// by the reference.
func TestDecoderAgreesWithTheReference(t *testing.T) {
	d := newDecoder()
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		text := generate(t)
		want, ok := reference(text)
		got, syntax := decodeOne(d, text)
		require.True(t, syntax, "%s", text)
		require.Equal(t, ok, got, "%s: %s %s", text, d.field, d.reason)
		if ok {
			accepted++
			d.call.ReceivedAt = 0
			require.Equal(t, flatten(&want), flatten(&d.call), "%s", text)
		}
	})
	require.NotZero(t, accepted)
}

var plausible = map[string][]string{
	"text":       {`"GET"`, `"caf\u00e9 \n\"x\""`, `""`, `null`, `"ünï"`},
	"number":     {`0`, `1`, `200`, `599`, `600`, `99`, `-1`, `1.5`, `1e2`, `"1"`, `null`, `9007199254740992`, `9007199254740993`, `99999999999999999999`, `-0`, `true`},
	"fault":      {`"none"`, `"upstream"`, `"quota"`, `""`, `"me"`},
	"client_ip":  {`"203.0.113.9"`, `"2001:db8::1"`, `"[2001:db8::1]:80"`, `"x"`, `""`},
	"measures":   {`{}`, `{"a":1}`, `{"a":"1.000000001","b":2.5}`, `{"a":-1}`, `{"a":"x"}`, `{"a":null}`, `null`, `[]`, `{"a":1e3,"b":123456789012345678901234567890}`},
	"attributes": {`{}`, `{"a":"b","c":"\u0000"}`, `{"a":1}`, `{"a":null}`, `null`, `"x"`},
}

func generate(t *rapid.T) []byte {
	pick := func(kind string) string { return rapid.SampledFrom(plausible[kind]).Draw(t, kind) }
	usual := func(value string, others ...string) string {
		if rapid.IntRange(0, 9).Draw(t, "odd") > 0 {
			return value
		}
		return rapid.SampledFrom(others).Draw(t, "other")
	}
	var members []string
	names := []string{"method", "account", "total_us", "ttfb_us", "status", "grpc_status", "attempts", "request_bytes", "response_bytes", "fault", "denied", "client_ip", "path", "measures", "attributes", "nonsense"}
	chosen := rapid.SliceOfNDistinct(rapid.SampledFrom(names[:len(names)-1]), 0, 5, rapid.ID[string]).Draw(t, "members")
	if rapid.IntRange(0, 30).Draw(t, "unknown") == 0 {
		chosen = append(chosen, "nonsense")
	}
	for _, name := range chosen {
		kind := "number"
		switch name {
		case "method", "account", "path":
			kind = "text"
		case "fault", "denied":
			kind = "fault"
		case "client_ip", "measures", "attributes":
			kind = name
		}
		members = append(members, fmt.Sprintf("%q: %s", name, pick(kind)))
	}
	event := []string{
		`"specversion":` + usual(`"1.0"`, `"1.1"`, `null`, `1`),
		`"id":` + usual(`"e\u0031"`, `""`, `7`),
		`"source":` + usual(`"gw"`, `""`, `null`),
		`"type":` + usual(`"tollway.call.v1"`, `"x"`),
		`"time":` + usual(`"2026-11-24T05:00:00.123456789+01:00"`, `"2026-11-24"`, `"2030-01-01T00:00:00Z"`, `"2020-01-01T00:00:00Z"`, `""`, `null`),
		`"traceparent":` + usual(`"00-x"`, `{"a":[1,2,{}]}`),
		`"data":` + usual("{"+strings.Join(members, " ,\n")+"}", `[]`, `null`, `"x"`),
	}
	if rapid.IntRange(0, 20).Draw(t, "base64") == 0 {
		event = append(event, `"data_base64":"e30="`)
	}
	return []byte("{" + strings.Join(rapid.Permutation(event).Draw(t, "order"), ",") + "}")
}

// Whatever comes, the decoder does not crash, agrees about what is JSON, and
// accepts nothing that the reference would not, nor reads it otherwise.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte(event("1", `{"method":"GET","status":200,"measures":{"a":"1.5"},"attributes":{"x":"y"}}`)))
	f.Add([]byte(`{"specversion":"1.0","id":"\ud800","source":"gw","type":"tollway.call.v1","data":{"client_ip":"::1","fault":"none","grpc_status":-1}}`))
	f.Add([]byte(typical(1)))
	d := newDecoder()
	f.Fuzz(func(t *testing.T, text []byte) {
		if bytes.Count(text, []byte("{")) > 50 || bytes.Count(text, []byte("[")) > 50 {
			return
		}
		got, syntax := decodeOne(d, text)
		require.Equal(t, json.Valid(text), syntax)
		if !got {
			return
		}
		want, ok := reference(bytes.ToValidUTF8(text, []byte("\uFFFD")))
		require.True(t, ok, "%s", text)
		d.call.ReceivedAt = 0
		if bytes.Contains(text, []byte("\uFFFD")) || !bytes.Equal(text, bytes.ToValidUTF8(text, nil)) {
			return // identity and keys are of the bytes sent; the rest is repaired later
		}
		require.Equal(t, flatten(&want), flatten(&d.call), "%s", text)
	})
}

// No body in any format makes a request crash, or accept without saying so.
func FuzzRequest(f *testing.F) {
	for i := range 4 {
		f.Add(byte(i), []byte(typical(i)+"\n["+typical(i)+","))
	}
	h := New(DefaultConfig(), Deps{Publisher: discard{}, Clock: func() time.Time { return now }, Registry: prometheus.NewRegistry(), Logger: zerolog.Nop()})
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		q := h.requests.Get().(*request)
		defer h.release(q)
		q.ids.reset()
		q.delivery, q.results = publish.NewDelivery(), q.results[:0]
		q.index, q.accepted, q.duplicates, q.rejected = 0, 0, 0, 0
		q.decoder.start(now, false)
		q.all, q.body = true, append(q.body[:0], body...)
		switch kind % 4 {
		case 0:
			q.structured()
		case 1:
			q.batch()
		case 2:
			q.lines()
		default:
			q.binary(map[string][]string{"Ce-Id": {"1"}, "Ce-Source": {"%zz"}, "Ce-Type": {"tollway.call.v1"}, "Ce-Specversion": {"1.0"}})
		}
		require.Equal(t, q.index, q.accepted+q.duplicates+q.rejected)
		require.True(t, json.Valid([]byte("["+string(q.results)+"]")), "%s", q.results)
	})
}
