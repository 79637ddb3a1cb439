package als

import (
	"strings"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/envoy"
)

// findNode looks for the identifier of a message, which the first message of a
// stream has. A malformed one is left out: the calls still count, without a
// node.
func (st *stream) findNode(b []byte) {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return
		}
		b = b[n:]
		if f.key != 1<<3|bytes {
			continue
		}
		node, ok := identifier(f.b)
		if !ok {
			st.server.metrics.fields.WithLabelValues(envoy.ReasonMalformed, "identifier").Inc()
			continue
		}
		node.Source = st.server.mapper.Source(node.Cluster)
		st.node = node
		st.last = st.server.metrics.node(node.ID)
	}
}

// identifier reads a StreamAccessLogsMessage.Identifier: node and log name.
// Its strings outlive the message.
func identifier(b []byte) (*envoy.Node, bool) {
	node := &envoy.Node{}
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return nil, false
		}
		b = b[n:]
		switch f.key {
		case 1<<3 | bytes:
			if !nodeFields(f.b, node) {
				return nil, false
			}
		case 2<<3 | bytes:
			node.LogName = owned(f.b)
		}
	}
	return node, true
}

func nodeFields(b []byte, node *envoy.Node) bool {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch f.key {
		case 1<<3 | bytes:
			node.ID = owned(f.b)
		case 2<<3 | bytes:
			node.Cluster = owned(f.b)
		case 4<<3 | bytes:
			if !locality(f.b, node) {
				return false
			}
		}
	}
	return true
}

func locality(b []byte, node *envoy.Node) bool {
	for len(b) > 0 {
		f, n := next(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch f.key {
		case 1<<3 | bytes:
			node.Region = owned(f.b)
		case 2<<3 | bytes:
			node.Zone = owned(f.b)
		}
	}
	return true
}

// owned copies a string out of a message, cut to what a column holds.
func owned(b []byte) string { return strings.Clone(call.Clean(call.Alias(b), call.MaxString)) }
