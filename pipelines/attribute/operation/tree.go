package operation

import (
	"cmp"
	"slices"
	"strings"
)

// node is a place in the paths of a site: what begins with the segments on the
// way to it. Each node is reached on one way only, so a search that has to go
// back visits no node twice.
type node struct {
	literals children
	partials []partial // the most specific one first
	param    *node
	end      leaf // templates that end here
	rest     leaf // templates that go on with /**
	claim    *claim
}

// children are found by their literal: comparing a few is faster than hashing.
type children struct {
	list   []child
	lookup map[string]*node // once there are many
}

type child struct {
	literal string
	next    *node
}

// manyChildren is from where on hashing is faster.
const manyChildren = 8

func (c *children) get(literal string) *node {
	if c.lookup != nil {
		return c.lookup[literal]
	}
	for i := range c.list {
		if c.list[i].literal == literal {
			return c.list[i].next
		}
	}
	return nil
}

func (c *children) add(literal string) *node {
	next := &node{}
	if c.lookup != nil {
		c.lookup[literal] = next
		return next
	}
	c.list = append(c.list, child{literal, next})
	if len(c.list) == manyChildren {
		c.lookup = make(map[string]*node, 2*manyChildren)
		for _, known := range c.list {
			c.lookup[known.literal] = known.next
		}
		c.list = nil
	}
	return next
}

type partial struct {
	segment segment
	next    *node
}

// claim says whose calls begin here if they are none of its operations.
type claim struct {
	api    string
	shared bool
}

// leaf is what the templates of a place lead to, by method.
type leaf struct {
	any     *Target
	methods []methodTarget
}

type methodTarget struct {
	method string
	target *Target
}

func (l *leaf) pick(method string) *Target {
	for i := range l.methods {
		if l.methods[i].method == method {
			return l.methods[i].target
		}
	}
	return l.any
}

// add returns the target that is already there.
func (l *leaf) add(method string, target *Target) *Target {
	if method == "" {
		if l.any == nil {
			l.any = target
		}
		return l.any
	}
	for _, m := range l.methods {
		if m.method == method {
			return m.target
		}
	}
	l.methods = append(l.methods, methodTarget{method, target})
	return target
}

// find returns the most specific target of what is left of a path: nothing, or a
// slash and what follows it. The order of its steps is the order of specificity.
func (n *node) find(path, method string) *Target {
	if path == "" {
		if t := n.end.pick(method); t != nil {
			return t
		}
		return n.rest.pick(method)
	}
	segment, tail := path[1:], ""
	if i := strings.IndexByte(segment, '/'); i >= 0 {
		segment, tail = segment[:i], segment[i:]
	}
	if segment == "" {
		if tail == "" {
			if t := n.findSlash(method); t != nil {
				return t
			}
		}
		return n.rest.pick(method)
	}
	if next := n.literals.get(segment); next != nil {
		if t := next.find(tail, method); t != nil {
			return t
		}
	}
	if t := n.findParam(segment, tail, method); t != nil {
		return t
	}
	return n.rest.pick(method)
}

// findSlash returns the target of a slash at the end of a path: of a template
// with it, or else of one without.
func (n *node) findSlash(method string) *Target {
	if next := n.literals.get(""); next != nil {
		if t := next.end.pick(method); t != nil {
			return t
		}
	}
	return n.end.pick(method)
}

func (n *node) findParam(segment, tail, method string) *Target {
	for i := range n.partials {
		if p := &n.partials[i]; p.segment.match(segment) {
			if t := p.next.find(tail, method); t != nil {
				return t
			}
		}
	}
	if n.param == nil {
		return nil
	}
	return n.param.find(tail, method)
}

// place returns the claim furthest down a path.
func (n *node) place(path string) *claim {
	found := n.claim
	for path != "" {
		segment := path[1:]
		path = ""
		if i := strings.IndexByte(segment, '/'); i >= 0 {
			segment, path = segment[:i], segment[i:]
		}
		if n = n.literals.get(segment); n == nil {
			break
		}
		if n.claim != nil {
			found = n.claim
		}
	}
	return found
}

// at returns the node at the end of a way, which is made if it is not there.
func (n *node) at(way []segment) *node {
	for _, s := range way {
		n = n.child(s)
	}
	return n
}

func (n *node) child(s segment) *node {
	switch {
	case s.literal():
		if next := n.literals.get(s[0]); next != nil {
			return next
		}
		return n.literals.add(s[0])
	case s.param():
		if n.param == nil {
			n.param = &node{}
		}
		return n.param
	}
	at, found := slices.BinarySearchFunc(n.partials, s, func(p partial, s segment) int {
		return comparePartial(p.segment, s)
	})
	if !found {
		n.partials = slices.Insert(n.partials, at, partial{s, &node{}})
	}
	return n.partials[at].next
}

// comparePartial orders the more specific segment first.
func comparePartial(a, b segment) int {
	return cmp.Or(
		cmp.Compare(b.letters(), a.letters()),
		cmp.Compare(len(b[0]), len(a[0])),
		strings.Compare(a.text(), b.text()),
	)
}
