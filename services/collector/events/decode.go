package events

import (
	"strings"
	"time"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/scan"
)

// decoder turns the items of one request into calls, one at a time. It is
// reused from request to request.
type decoder struct {
	cfg     *Config
	scan    scan.Scanner
	call    call.Call
	trusted bool

	now, oldest, latest int64 // µs

	// Of the item at hand; strings alias the body.
	id, source, time, kind string
	version, contentType   string
	hasData                bool
	field, reason, detail  string // of the first thing that is wrong with it
}

// start prepares for a request that arrived at now.
func (d *decoder) start(now time.Time, trusted bool) {
	d.trusted = trusted
	d.now = now.UnixMicro()
	d.latest = d.now + d.cfg.MaxFuture.Microseconds()
	d.oldest = d.now - d.cfg.MaxAge.Microseconds()
}

func (d *decoder) reset() {
	d.scan.Forget()
	d.call.Reset()
	d.id, d.source, d.time, d.kind, d.version, d.contentType = "", "", "", "", "", ""
	d.hasData = false
	d.field, d.reason, d.detail = "", "", ""
}

// reject notes what is wrong with the item; the first finding is reported.
func (d *decoder) reject(field, reason string) {
	if d.reason == "" {
		d.field, d.reason = strings.Clone(field), reason
	}
}

// cloudEvent reads one event in structured mode. An error is one of syntax:
// what follows cannot be read.
func (d *decoder) cloudEvent() error {
	d.reset()
	if err := d.object("the event"); err != nil || d.reason != "" {
		return err
	}
	for first := true; ; first = false {
		key, more, err := d.scan.Key(first)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if err := d.attribute(key); err != nil {
			return err
		}
	}
	d.envelope()
	return nil
}

// object enters an object, or rejects the item and reads over what is there.
func (d *decoder) object(name string) error {
	if d.scan.Kind() != '{' {
		d.reject(name, "must be an object")
		return d.scan.Skip()
	}
	return d.scan.EnterObject()
}

// attribute reads a member of a structured event. Extension attributes are
// allowed by CloudEvents and say nothing about a call.
func (d *decoder) attribute(key string) error {
	switch key {
	case "id":
		return d.text(key, &d.id)
	case "source":
		return d.text(key, &d.source)
	case "time":
		return d.text(key, &d.time)
	case "type":
		return d.text(key, &d.kind)
	case "specversion":
		return d.text(key, &d.version)
	case "datacontenttype":
		return d.text(key, &d.contentType)
	case "data":
		d.hasData = true
		return d.data(false)
	case "data_base64":
		d.reject(key, "must be sent as data")
	}
	return d.scan.Skip()
}

// envelope checks what CloudEvents asks of an event.
func (d *decoder) envelope() {
	if d.version != "1.0" {
		d.reject("specversion", "must be 1.0")
	}
	if !d.known(d.kind) {
		d.reject("type", "unknown type")
	}
	if d.contentType != "" && !isJSON(d.contentType) {
		d.reject("datacontenttype", "must be application/json")
	}
	if !d.hasData {
		d.reject("data", "missing")
	}
	d.finish()
}

func (d *decoder) known(kind string) bool {
	for _, t := range d.cfg.Types {
		if t == kind {
			return true
		}
	}
	return false
}

// finish makes the identity and checks the time.
func (d *decoder) finish() {
	if d.id == "" {
		d.reject("id", "missing")
	}
	if d.source == "" {
		d.reject("source", "missing")
	}
	c := &d.call
	c.ReceivedAt, c.Time = d.now, d.now
	if d.time != "" {
		at, err := scan.Time(d.time)
		switch {
		case err != nil:
			d.reject("time", err.Error())
		case at > d.latest:
			d.reject("time", "time in the future")
		case at < d.oldest:
			d.reject("time", "older than retention")
		}
		c.Time = at
	}
	c.Strings[call.Source] = d.source
	if d.reason == "" {
		c.ID = call.NewID(d.source, d.id)
	}
}

// flat reads a call whose identity is among its own fields.
func (d *decoder) flat() error {
	d.reset()
	if err := d.data(true); err != nil {
		return err
	}
	d.finish()
	return nil
}

// data reads the members of a call.
func (d *decoder) data(flat bool) error {
	if d.scan.Kind() != '{' {
		d.reject("data", "must be an object")
		return d.scan.Skip()
	}
	if err := d.scan.EnterObject(); err != nil {
		return err
	}
	for first := true; ; first = false {
		key, more, err := d.scan.Key(first)
		if !more {
			return err
		}
		if err := d.member(key, fields.find(key), flat); err != nil {
			return err
		}
	}
}

func (d *decoder) member(key string, f *field, flat bool) error {
	c := &d.call
	switch f.kind {
	case text:
		return d.text(f.name, &c.Strings[f.col])
	case assigned:
		if !d.trusted {
			return d.scan.Skip()
		}
		return d.text(f.name, &c.Strings[f.col])
	case choice:
		return d.choice(f)
	case latency:
		return d.number(f.name, maxWhole, call.NotMeasured, &c.Latency[f.col])
	case requestBytes:
		return d.number(f.name, maxWhole, 0, &c.RequestBytes)
	case responseBytes:
		return d.number(f.name, maxWhole, 0, &c.ResponseBytes)
	case path:
		return d.path()
	case clientIP:
		return d.clientIP()
	case status, grpcStatus, attempts:
		return d.small(f)
	case measures:
		return d.measures()
	case attributes:
		return d.attributes()
	}
	if flat {
		switch f.kind {
		case flatID:
			return d.text(f.name, &d.id)
		case flatSource:
			return d.text(f.name, &d.source)
		case flatTime:
			return d.text(f.name, &d.time)
		}
		d.reject(key, "unknown field")
		return d.scan.Skip()
	}
	d.reject("data."+key, "unknown field")
	return d.scan.Skip()
}

// maxWhole bounds sizes and durations to what a JSON number holds exactly.
const maxWhole = 1 << 53

// text reads a string; null is none.
func (d *decoder) text(name string, to *string) error {
	if d.scan.Kind() != '"' {
		*to = ""
		if !d.scan.Null() {
			d.reject(name, "must be a string")
			return d.scan.Skip()
		}
		return nil
	}
	s, err := d.scan.String()
	*to = s
	return err
}

// path reads a path. Its query is not kept: queries often hold secrets.
func (d *decoder) path() error {
	to := &d.call.Path
	err := d.text("path", to)
	if i := strings.IndexAny(*to, "?#"); i >= 0 {
		*to = (*to)[:i]
	}
	return err
}

func (d *decoder) choice(f *field) error {
	to := &d.call.Strings[f.col]
	err := d.text(f.name, to)
	if err == nil && !chosen(call.StringColumn(f.col), *to) {
		d.reject(f.name, "not one of the known values")
	}
	return err
}

// number reads a whole number from 0 to max; null is missing.
func (d *decoder) number(name string, max, missing int64, to *int64) error {
	if d.scan.Kind() != '0' {
		*to = missing
		if !d.scan.Null() {
			d.reject(name, "must be a number")
			return d.scan.Skip()
		}
		return nil
	}
	s, err := d.scan.Number()
	if err != nil {
		return err
	}
	n, bad := scan.Unsigned(s, max)
	if bad != nil {
		d.reject(name, bad.Error())
	}
	*to = n
	return nil
}

// small reads the numbers of narrow columns.
func (d *decoder) small(f *field) error {
	c := &d.call
	var n int64
	switch f.kind {
	case status:
		if err := d.number(f.name, 599, 0, &n); err != nil {
			return err
		}
		if n > 0 && n < 100 {
			d.reject(f.name, "must be 0 or from 100 to 599")
		}
		c.Status = uint16(n)
	case attempts:
		if err := d.number(f.name, 1<<16-1, 0, &n); err != nil {
			return err
		}
		c.Attempts = uint16(n)
	default:
		return d.grpcStatus(f.name)
	}
	return nil
}

// grpcStatus reads a status where -1 is none.
func (d *decoder) grpcStatus(name string) error {
	d.call.GRPCStatus = -1
	if d.scan.Kind() != '0' {
		return d.number(name, 0, 0, new(int64))
	}
	s, err := d.scan.Number()
	if err != nil || s == "-1" {
		return err
	}
	n, bad := scan.Unsigned(s, 1<<15-1)
	if bad != nil {
		d.reject(name, bad.Error())
		return nil
	}
	d.call.GRPCStatus = int16(n)
	return nil
}

func (d *decoder) clientIP() error {
	var address string
	if err := d.text("client_ip", &address); err != nil {
		return err
	}
	d.call.ClientIP = ""
	if address == "" {
		return nil
	}
	kept, err := d.scan.ClientIP(d.cfg.ClientIP, address)
	if err != nil {
		d.reject("client_ip", err.Error())
	}
	d.call.ClientIP = kept
	return nil
}

// pairs reads an object, member by member.
func (d *decoder) pairs(name string, one func(d *decoder, key string) error) error {
	if d.scan.Null() {
		return nil
	}
	if d.scan.Kind() != '{' {
		d.reject(name, "must be an object")
		return d.scan.Skip()
	}
	if err := d.scan.EnterObject(); err != nil {
		return err
	}
	for first := true; ; first = false {
		key, more, err := d.scan.Key(first)
		if !more {
			return err
		}
		if err := one(d, key); err != nil {
			return err
		}
	}
}

func (d *decoder) measures() error {
	d.call.Measures = d.call.Measures[:0]
	return d.pairs("measures", (*decoder).measure)
}

func (d *decoder) measure(key string) error {
	var s string
	var err error
	switch d.scan.Kind() {
	case '"':
		s, err = d.scan.String()
	case '0':
		s, err = d.scan.Number()
	default:
		d.reject("measures."+key, "must be a number or a decimal in quotes")
		return d.scan.Skip()
	}
	if err != nil {
		return err
	}
	value, bad := scan.Decimal(s)
	if bad != nil {
		d.reject("measures."+key, bad.Error())
		return nil
	}
	m := call.Measure{Name: key, Value: value}
	for i := range d.call.Measures {
		if d.call.Measures[i].Name == key {
			d.call.Measures[i] = m
			return nil
		}
	}
	if len(d.call.Measures) == call.MaxMapPairs {
		d.reject("measures", "more than 32 entries")
		return nil
	}
	d.call.Measures = append(d.call.Measures, m)
	return nil
}

func (d *decoder) attributes() error {
	d.call.Attributes = d.call.Attributes[:0]
	return d.pairs("attributes", (*decoder).one)
}

func (d *decoder) one(key string) error {
	a := call.Attribute{Name: key}
	if d.scan.Kind() != '"' {
		d.reject("attributes."+key, "must be a string")
		return d.scan.Skip()
	}
	var err error
	if a.Value, err = d.scan.String(); err != nil {
		return err
	}
	for i := range d.call.Attributes {
		if d.call.Attributes[i].Name == key {
			d.call.Attributes[i] = a
			return nil
		}
	}
	if len(d.call.Attributes) == call.MaxMapPairs {
		d.reject("attributes", "more than 32 entries")
		return nil
	}
	d.call.Attributes = append(d.call.Attributes, a)
	return nil
}

// isCloudEvent tells an event from a flat call by its member specversion.
func (d *decoder) isCloudEvent(line []byte) bool {
	if !strings.Contains(call.Alias(line), `"specversion"`) {
		return false
	}
	d.scan.Reset(line)
	if d.scan.EnterObject() != nil {
		return false
	}
	for first := true; ; first = false {
		key, more, err := d.scan.Key(first)
		if err != nil || !more {
			return false
		}
		if key == "specversion" {
			return true
		}
		if d.scan.Skip() != nil {
			return false
		}
	}
}
