package operation

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// compiled is a rule in the form that calls are compared with.
type compiled struct {
	target Target
	hosts  []string
	base   template
	method string
	path   template // base path and template
}

// Conflict is two rules of different targets that match the same calls.
type Conflict struct {
	First, Second      Target
	Method, Host, Path string
}

func (c *Conflict) Error() string {
	return fmt.Sprintf("rules %s and %s match the same calls: method %s, host %s, path %s", c.First, c.Second, c.Method, c.Host, c.Path)
}

// New makes a matcher. The error names the rule and the field that is malformed,
// or is a Conflict.
func New(rules []Rule) (*Matcher, error) {
	all := make([]compiled, len(rules))
	byHost := map[string][]int{"*": nil}
	for i, r := range rules {
		c, err := compile(r)
		if err != nil {
			return nil, fmt.Errorf("rule %d (%s): %w", i+1, Target{r.API, r.Operation}, err)
		}
		all[i] = c
		for _, host := range c.hosts {
			byHost[host] = append(byHost[host], i)
		}
	}
	m := &Matcher{names: map[string]*site{}, suffixes: map[string]*site{}}
	trees := map[string]*node{}
	// Sites that are less specific come first, because others lead to them: those
	// of suffixes are sorted by length, and names follow.
	for _, host := range slices.SortedFunc(maps.Keys(byHost), compareHosts) {
		// Hosts with the same rules share one tree.
		key := fmt.Sprint(byHost[host])
		if host == "*" {
			key = host // where claims without a base path do not count
		}
		tree := trees[key]
		if tree == nil {
			var err error
			if tree, err = build(host, all, byHost[host]); err != nil {
				return nil, err
			}
			trees[key] = tree
		}
		m.add(host, tree)
	}
	return m, nil
}

// String is how errors name a rule.
func (t Target) String() string { return t.API + "/" + t.Operation }

func compareHosts(a, b string) int {
	rank := func(host string) int {
		switch {
		case host == "*":
			return 0
		case strings.HasPrefix(host, "*."):
			return len(host)
		}
		return maxHost + 1
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a, b))
}

func (m *Matcher) add(host string, tree *node) {
	suffix, wild := strings.CutPrefix(host, "*")
	switch {
	case host == "*":
		m.any = &site{paths: tree}
	case wild:
		m.suffixes[suffix] = &site{paths: tree, less: m.suffixSite(suffix)}
	default:
		m.names[host] = &site{paths: tree, less: m.suffixSite(host)}
	}
}

func build(host string, all []compiled, indexes []int) (*node, error) {
	root := &node{}
	for _, i := range indexes {
		c := &all[i]
		if len(c.base.segments) > 0 || host != "*" {
			root.at(c.base.segments).claimFor(c.target.API)
		}
		if c.target.Operation == "" {
			continue
		}
		end := root.at(c.path.segments)
		leaf := &end.end
		if c.path.rest {
			leaf = &end.rest
		}
		if other := leaf.add(c.method, &c.target); *other != c.target {
			return nil, &Conflict{*other, c.target, cmp.Or(c.method, "*"), host, c.path.String()}
		}
	}
	return root, nil
}

func (n *node) claimFor(api string) {
	if n.claim == nil {
		n.claim = &claim{api: api}
	}
	n.claim.shared = n.claim.shared || n.claim.api != api
}

func compile(r Rule) (compiled, error) {
	c := compiled{target: Target{r.API, r.Operation}}
	if r.API == "" {
		return c, errors.New("api: must be given")
	}
	for i, text := range r.Hosts {
		host, err := parseHost(text)
		if err != nil {
			return c, fmt.Errorf("hosts[%d]: %q %w", i, text, err)
		}
		c.hosts = append(c.hosts, host)
	}
	if len(c.hosts) == 0 {
		c.hosts = []string{"*"}
	}
	slices.Sort(c.hosts)
	c.hosts = slices.Compact(c.hosts)

	var err error
	if c.base, err = parseBasePath(r.BasePath); err != nil {
		return c, fmt.Errorf("base_path: %q %w", r.BasePath, err)
	}
	if c.method, err = parseMethod(r.Method); err != nil {
		return c, fmt.Errorf("method: %q %w", r.Method, err)
	}
	if r.Operation == "" {
		if r.Template != "" {
			return c, errors.New("operation: must be given with a template")
		}
		return c, nil
	}
	t, err := parseTemplate(r.Template)
	if err != nil {
		return c, fmt.Errorf("template: %q %w", r.Template, err)
	}
	c.path = template{segments: slices.Concat(c.base.segments, t.segments), rest: t.rest}
	return c, nil
}

// parseMethod returns a method as calls have it, and nothing for any.
func parseMethod(text string) (string, error) {
	if text == "*" {
		return "", nil
	}
	for i := range len(text) {
		if c := text[i]; !unreserved(c) && !strings.ContainsRune("!#$%&'*+^`|", rune(c)) {
			return "", errors.New("has a character that cannot be in a method")
		}
	}
	return strings.ToUpper(text), nil
}
