package kind

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	match "github.com/tollway/tollway/pipelines/attribute/operation"
	"github.com/tollway/tollway/pipelines/call"
	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/platform/filter"
)

var environment = spec{
	validate: checks(func(e *catalogv1.Environment, v *Violations) {
		length(v, "display_name", e.GetDisplayName(), maxDisplayName)
	}),
}

var (
	hostPattern   = regexp.MustCompile(`^(\*\.)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
	methodPattern = regexp.MustCompile(`^[A-Z][A-Z-]{0,31}$`)
)

var api = spec{
	validate: checks(func(a *catalogv1.Api, v *Violations) {
		length(v, "display_name", a.GetDisplayName(), maxDisplayName)
		length(v, "description", a.GetDescription(), maxDescription)
		distinct(v, "hosts", a.GetHosts(), maxHosts)
		for i, h := range a.GetHosts() {
			if len(h) > 255 || !hostPattern.MatchString(h) {
				v.Add(index("hosts", i), "%q is no host in lower case, without a port", h)
			}
		}
		distinct(v, "base_paths", a.GetBasePaths(), maxHosts)
		for i, p := range a.GetBasePaths() {
			if wrong := wrongBasePath(p); wrong != "" {
				v.Add(index("base_paths", i), "%q %s", p, wrong)
			}
		}
	}),
}

func wrongBasePath(p string) string {
	switch {
	case len(p) > maxPath:
		return fmt.Sprintf("is longer than %d characters", maxPath)
	case !strings.HasPrefix(p, "/"):
		return "must begin with /"
	case p != "/" && strings.HasSuffix(p, "/"):
		return "must not end with /"
	case strings.ContainsAny(p, "{}*?# "):
		return "has characters that a base path cannot have"
	case strings.Contains(p, "//"):
		return "has an empty segment"
	}
	return ""
}

var operation = spec{
	validate: checks(func(o *catalogv1.Operation, v *Violations) {
		length(v, "display_name", o.GetDisplayName(), maxDisplayName)
		if m := o.GetMethod(); m != "" && !methodPattern.MatchString(m) {
			v.Add("method", "%q is no HTTP method in capitals", m)
		}
		if wrong := wrongTemplate(o.GetPathTemplate()); wrong != "" {
			v.Add("path_template", "%q %s", o.GetPathTemplate(), wrong)
		}
	}),
	uniqueKeys: with(func(o *catalogv1.Operation) []UniqueKey {
		parent, _ := Split(o.GetName())
		return []UniqueKey{{"path_template", "operation:" + parent + " " + o.GetMethod() + " " + shape(o.GetPathTemplate()), "the method and path"}}
	}),
}

func wrongTemplate(t string) string {
	switch {
	case t == "":
		return "is required"
	case len(t) > maxPath:
		return fmt.Sprintf("is longer than %d characters", maxPath)
	case strings.Contains(t, " "):
		return "has a space, which a path cannot have"
	}
	if _, err := match.Shape(t); err != nil {
		return err.Error()
	}
	return ""
}

// shape is what no two operations of one method and API may have in common: they
// could not be told apart.
func shape(t string) string {
	s, err := match.Shape(t)
	if err != nil {
		return t // it was refused before
	}
	return s
}

var meter = spec{
	immutable: []string{"aggregation", "field", "filter"},
	validate: checks(func(m *catalogv1.Meter, v *Violations) {
		length(v, "display_name", m.GetDisplayName(), maxDisplayName)
		required(v, "unit", m.GetUnit(), 32)
		if wrong := wrongField(m.GetAggregation(), m.GetField()); wrong != "" {
			v.Add("field", "%s", wrong)
		}
		if m.GetAggregation() == catalogv1.Aggregation_AGGREGATION_UNSPECIFIED {
			v.Add("aggregation", "is required")
		}
		if err := checkCallFilter(m.GetFilter()); err != nil {
			v.Add("filter", "%v", err)
		}
	}),
}

var (
	memberName  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	callNumbers = []string{"request_bytes", "response_bytes", "status", "grpc_status", "attempts"}
	callTexts   = []string{"client_ip", "path", "status_class"}
)

func latencies() []string {
	out := make([]string, call.LatencyColumns)
	for i := range out {
		out[i] = call.LatencyColumn(i).String()
	}
	return out
}

func isNumber(field string) bool {
	name, ok := strings.CutPrefix(field, "measures.")
	return ok && memberName.MatchString(name) || slices.Contains(callNumbers, field) || slices.Contains(latencies(), field)
}

func isText(field string) bool {
	if name, ok := strings.CutPrefix(field, "attributes."); ok {
		return memberName.MatchString(name)
	}
	_, ok := call.StringColumnByName(field)
	return ok || slices.Contains(callTexts, field)
}

func wrongField(how catalogv1.Aggregation, field string) string {
	switch how {
	case catalogv1.Aggregation_COUNT:
		if field != "" {
			return "must be empty: COUNT counts calls"
		}
	case catalogv1.Aggregation_SUM, catalogv1.Aggregation_MAX:
		if !isNumber(field) {
			return fmt.Sprintf("%q is no number of a call: request_bytes, response_bytes, a latency such as total_us, or measures.NAME", field)
		}
	case catalogv1.Aggregation_UNIQUE:
		if !isText(field) {
			return fmt.Sprintf("%q is no dimension of a call, such as client_ip or attributes.NAME", field)
		}
	}
	return ""
}

// checkCallFilter reads a filter on calls.
func checkCallFilter(text string) error {
	if len(text) > maxFilter {
		return fmt.Errorf("is longer than %d characters", maxFilter)
	}
	e, err := filter.Parse(text)
	if err != nil {
		return err
	}
	if e == nil {
		return nil
	}
	return filter.Walk(e, func(c *filter.Comparison) error {
		if !isNumber(c.Field) && !isText(c.Field) {
			return fmt.Errorf("column %d: %q is no field of a call", c.Pos+1, c.Field)
		}
		if isText(c.Field) && c.Op != filter.Equal && c.Op != filter.NotEqual && c.Op != filter.Has {
			return errors.New("column " + fmt.Sprint(c.Pos+1) + ": " + c.Field + " is a text, which knows =, != and : only")
		}
		return nil
	})
}
