package filetail

import (
	"errors"
	"strconv"
	"time"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/envoy"
	"github.com/tollway/tollway/services/collector/scan"
)

// parser makes calls of the lines of one File.
type parser struct {
	mapper  *envoy.Mapper
	file    File
	node    envoy.Node
	setters map[string]setter // by JSON key

	scan    scan.Scanner
	line    line
	scratch envoy.Scratch
	key     []byte
}

func newParser(mapper *envoy.Mapper, f File) *parser {
	p := &parser{mapper: mapper, file: f, setters: map[string]setter{}}
	for name, set := range setters {
		p.setters[name] = set
	}
	for key, name := range f.Fields {
		p.setters[key] = setters[name]
	}
	p.node = envoy.Node{ID: f.Node, Cluster: f.Cluster, Region: f.Region, Zone: f.Zone, Source: mapper.Source(f.Cluster)}
	return p
}

// errIntermediate is no failure: the call has not ended and will be logged again.
var errIntermediate = errors.New("intermediate")

// badField is a value that cannot be read.
type badField struct {
	field string
	err   error
}

func (e *badField) Error() string { return e.field + ": " + e.err.Error() }

// reason is the label under which a line is counted.
func reason(err error) string {
	if r := (*envoy.Reject)(nil); errors.As(err, &r) {
		return r.Reason
	}
	if e := (*badField)(nil); errors.As(err, &e) {
		return "field"
	}
	return envoy.ReasonMalformed
}

// parse fills c from a line. fingerprint and offset identify the line if it
// does not do so itself.
func (p *parser) parse(text []byte, fingerprint string, offset int64, now time.Time, c *call.Call) error {
	p.line = line{}
	p.scan.Reset(text)
	if err := p.members(); err != nil {
		return err
	}
	if !p.line.Ended() {
		return errIntermediate
	}
	node := p.node
	if p.line.node != "" {
		node.ID = p.line.node
	}
	p.key = append(p.key[:0], fingerprint...)
	p.key = append(p.key, ':')
	p.key = strconv.AppendInt(p.key, offset, 10)
	return p.mapper.Map(&node, &p.line.Entry, p.key, p.file.Trusted, now.UnixMicro(), &p.scratch, c)
}

func (p *parser) members() error {
	if err := p.scan.EnterObject(); err != nil {
		return err
	}
	for first := true; ; first = false {
		key, more, err := p.scan.Key(first)
		if err != nil {
			return err
		}
		if !more {
			return p.scan.End()
		}
		if err := p.member(key); err != nil {
			return err
		}
	}
}

func (p *parser) member(key string) error {
	set, ok := p.setters[key]
	if !ok {
		return p.scan.Skip()
	}
	var value string
	var err error
	switch p.scan.Kind() {
	case '"':
		value, err = p.scan.String()
	case '0':
		value, err = p.scan.Number()
	default:
		return p.scan.Skip() // null, and what no field takes
	}
	if err != nil || value == "" || value == "-" {
		return err
	}
	if err := set(&p.line, value); err != nil {
		return &badField{key, err}
	}
	return nil
}
