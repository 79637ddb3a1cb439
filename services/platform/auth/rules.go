package auth

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/grpc"
)

// Rule says who may make a call.
type Rule struct {
	Roles []Role
	// Scope is the group that the call is in, such as reports.read. A token that
	// is limited to scopes needs this one; without a scope, no such token may
	// make the call.
	Scope string
	// Where Consumer is among the roles, one of these says what keeps a consumer
	// to its own account. OwnAccount: the guard does. The request's name, parent
	// or RESOURCE.name must be in accounts/ID. SelfScoped: the handler does, by
	// the principal's account, because the request has no such field or is about
	// what all accounts share. In either case the guard refuses a request in
	// which any field names another account.
	OwnAccount bool
	SelfScoped bool
}

// Rules says who may call what. A key is a gRPC method ("/pkg.Service/Method"), an
// HTTP method and path ("POST /v1/events"), or the beginning of one, ending in
// "*". An exact key wins over a beginning, a longer beginning over a shorter one.
// What no key matches is refused to everyone. Consumers' gRPC methods are named
// one by one, so that a new method is closed to them until somebody thinks of it.
type Rules map[string]Rule

// ruleSet is rules made ready for lookups.
type ruleSet struct {
	exact    map[string]Rule
	prefixes []prefixRule // the longest first
}

type prefixRule struct {
	prefix string
	rule   Rule
}

func newRuleSet(rules Rules) (ruleSet, error) {
	s := ruleSet{exact: map[string]Rule{}}
	for key, rule := range rules {
		if err := rule.check(key); err != nil {
			return s, fmt.Errorf("rule %q: %w", key, err)
		}
		if prefix, ok := strings.CutSuffix(key, "*"); ok {
			s.prefixes = append(s.prefixes, prefixRule{prefix, rule})
		} else {
			s.exact[key] = rule
		}
	}
	slices.SortFunc(s.prefixes, func(a, b prefixRule) int { return len(b.prefix) - len(a.prefix) })
	return s, nil
}

func (s *ruleSet) find(call string) (Rule, bool) {
	if rule, ok := s.exact[call]; ok {
		return rule, true
	}
	for _, r := range s.prefixes {
		if strings.HasPrefix(call, r.prefix) {
			return r.rule, true
		}
	}
	return Rule{}, false
}

var scopeName = regexp.MustCompile(`^[a-z_]+\.[a-z_]+$`)

func (r Rule) check(key string) error {
	method, p, isHTTP := strings.Cut(key, " ")
	if !isHTTP {
		p = key
	} else if method == "" || strings.ToUpper(method) != method {
		return errors.New("an HTTP rule begins with the method in capitals")
	}
	if !strings.HasPrefix(p, "/") || strings.Contains(strings.TrimSuffix(p, "*"), "*") {
		return errors.New("a path begins with / and has * at its end only")
	}
	if len(r.Roles) == 0 {
		return errors.New("no role is given")
	}
	for _, role := range r.Roles {
		if _, ok := prefixes[role]; !ok && role != Anyone {
			return fmt.Errorf("role %q is not known", role)
		}
	}
	if r.Scope != "" && !scopeName.MatchString(r.Scope) {
		return fmt.Errorf("scope is %q, must be like reports.read", r.Scope)
	}
	if !slices.Contains(r.Roles, Consumer) {
		return nil
	}
	switch {
	case r.OwnAccount == r.SelfScoped:
		return errors.New("a consumer's call is either OwnAccount or SelfScoped")
	case isHTTP && r.OwnAccount:
		return errors.New("the account in an HTTP request is not known to the guard, so a consumer's call must be SelfScoped")
	case !isHTTP && strings.HasSuffix(key, "*"):
		return errors.New("a consumer's methods are named one by one")
	}
	return nil
}

// allows tells whether a rule lets a principal make a call, apart from what the
// call is about.
func (r Rule) allows(p Principal, call string) error {
	switch {
	case len(r.Roles) == 0:
		return fmt.Errorf("%w: no rule allows %s", errForbidden, call)
	case !slices.Contains(r.Roles, p.Role):
		return fmt.Errorf("%w: role %s may not call %s", errForbidden, p.Role, call)
	case len(p.Scopes) > 0 && !slices.Contains(p.Scopes, r.Scope):
		return fmt.Errorf("%w: the token's scopes do not allow %s", errForbidden, call)
	}
	return nil
}

// Scopes lists the scopes that the rules know, in order.
func (r Rules) Scopes() []string {
	var out []string
	for _, rule := range r {
		if rule.Scope != "" && !slices.Contains(out, rule.Scope) {
			out = append(out, rule.Scope)
		}
	}
	slices.Sort(out)
	return out
}

// Methods lists all methods of a server, as rules name them, in order.
func Methods(srv *grpc.Server) []string {
	var out []string
	for service, info := range srv.GetServiceInfo() {
		for _, m := range info.Methods {
			out = append(out, "/"+service+"/"+m.Name)
		}
	}
	slices.Sort(out)
	return out
}
