// Package openapi reads the API and the operations that an OpenAPI document
// describes.
//
// In: a document of OpenAPI 3.0 or 3.1 or Swagger 2.0, in YAML or JSON. Out:
// where the API is and what its operations are, or an error that says at which
// line and path the document is wrong. Schemas, examples and security are not
// read, so what is wrong with them does not matter. Nothing is ever fetched:
// references between paths are followed within the document, and those to other
// documents are refused. The package is pure; a crash loses nothing here.
package openapi

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tollway/tollway/pipelines/attribute/operation"
)

// maxDocument is far above the largest documents that are published.
const maxDocument = 16 << 20

// API is what a document says about the API as a whole. Where it names several
// servers, every host is taken to serve every base path.
type API struct {
	Title   string
	Version string
	// Hosts have no port; none is any host, as in a document whose servers are
	// relative to where it is found. Those of a path or operation are among them.
	Hosts []string
	// BasePaths begin with / and end without it, but for the root, which is /.
	BasePaths []string
}

// Operation is one method of one path.
type Operation struct {
	// ID is the operationId as a resource id (getOrder is get-order), or made of
	// method and path.
	ID string
	// DisplayName is the summary, or else the operationId, or else method and path.
	DisplayName string
	Method      string
	Template    string
	Deprecated  bool
	Tags        []string

	line int
	made bool // the ID is made of method and path
}

// Import reads a document. Operations are sorted by path and method; the ids of
// those that stay the same stay the same when others come and go, except for
// ids made of paths that differ in nothing but punctuation.
func Import(text []byte) (API, []Operation, error) {
	if len(text) > maxDocument {
		return API{}, nil, fmt.Errorf("document has %d bytes; at most %d are read", len(text), maxDocument)
	}
	d, err := parse(text)
	if err != nil {
		return API{}, nil, err
	}
	api, err := d.api()
	if err != nil {
		return API{}, nil, err
	}
	operations, err := d.operations(&api)
	if err != nil {
		return API{}, nil, err
	}
	if len(operations) == 0 {
		return API{}, nil, errors.New("paths: there is no operation")
	}
	if err := identify(operations); err != nil {
		return API{}, nil, err
	}
	return api, operations, check(api, operations)
}

// operations reads the paths, and adds their own hosts to the API.
func (d *document) operations(api *API) ([]Operation, error) {
	paths, err := entries(&d.Paths)
	if err != nil {
		return nil, fmt.Errorf("paths: %w", err)
	}
	var all []Operation
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		if strings.HasPrefix(path, "x-") {
			continue
		}
		item := paths[path]
		methods, err := d.item(api, item.value, 0)
		if err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", item.line, path, err)
		}
		for _, method := range slices.Sorted(maps.Keys(methods)) {
			o, err := read(api, method, path, methods[method])
			if err != nil {
				return nil, fmt.Errorf("line %d: %s %s: %w", methods[method].line, method, path, err)
			}
			all = append(all, o)
		}
	}
	return all, nil
}

// read makes an operation of what is written under a method.
func read(api *API, method, path string, e entry) (Operation, error) {
	var text struct {
		OperationID string   `yaml:"operationId"`
		Summary     string   `yaml:"summary"`
		Deprecated  bool     `yaml:"deprecated"`
		Tags        []string `yaml:"tags"`
		Servers     []server `yaml:"servers"`
	}
	if err := decode(e.value, &text); err != nil {
		return Operation{}, err
	}
	if err := api.addOwn(text.Servers); err != nil {
		return Operation{}, err
	}
	o := Operation{
		ID: resourceID(text.OperationID), Method: method, Template: path, Deprecated: text.Deprecated, Tags: text.Tags, line: e.line,
		DisplayName: cmp.Or(oneLine(text.Summary), oneLine(text.OperationID), method+" "+path),
	}
	if o.ID == "" {
		o.ID, o.made = resourceID(strings.ToLower(method)+" "+path), true
	}
	// Said here, where the line is known.
	if _, err := operation.New([]operation.Rule{o.rule()}); err != nil {
		return Operation{}, errors.Unwrap(err)
	}
	return o, nil
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// identify makes ids unique or says which are not.
func identify(operations []Operation) error {
	byID := map[string][]*Operation{}
	for i := range operations {
		o := &operations[i]
		byID[o.ID] = append(byID[o.ID], o)
	}
	for i := range operations {
		o := &operations[i]
		same := byID[o.ID]
		if len(same) == 1 {
			continue
		}
		if o.made {
			o.ID = withHash(o.ID, o.Method+" "+o.Template)
			continue
		}
		for _, other := range same {
			if other != o && !other.made {
				return fmt.Errorf("line %d: %s %s: operationId: makes the id %q, as %s %s in line %d does",
					max(o.line, other.line), other.Method, other.Template, o.ID, o.Method, o.Template, min(o.line, other.line))
			}
		}
	}
	return nil
}

// check refuses operations that no call could be told apart by, as the matcher
// of calls does.
func check(api API, operations []Operation) error {
	var rules []operation.Rule
	for _, base := range api.BasePaths {
		for _, o := range operations {
			r := o.rule()
			r.Hosts, r.BasePath = api.Hosts, base
			rules = append(rules, r)
		}
	}
	_, err := operation.New(rules)
	return err
}

// rule is the operation as the matcher of calls knows it, named for an error.
func (o Operation) rule() operation.Rule {
	name := fmt.Sprintf("%s %s (line %d)", o.Method, o.Template, o.line)
	return operation.Rule{API: "paths", Operation: name, Method: o.Method, Template: o.Template}
}

// maxID is the length of a resource id.
const maxID = 63

// resourceID makes an id of lower-case letters, digits and hyphens, beginning
// with a letter: getOrder and GET_ORDER are get-order. It is empty if nothing in
// the text can be in an id.
func resourceID(text string) string {
	var id []byte
	for i := range len(text) {
		c := text[i]
		switch {
		case 'A' <= c && c <= 'Z':
			if wordBegins(text, i) {
				id = hyphen(id)
			}
			id = append(id, c+'a'-'A')
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			id = append(id, c)
		default:
			id = hyphen(id)
		}
	}
	short := strings.TrimRight(string(id), "-")
	if short != "" && short[0] <= '9' {
		short = "op-" + short
	}
	if len(short) > maxID {
		return withHash(short, text)
	}
	return short
}

// wordBegins tells whether a capital letter begins a word: after a letter that is
// none or a digit, or before one that is none (HTTPServer is http-server).
func wordBegins(text string, i int) bool {
	upper := func(i int) bool { return 'A' <= text[i] && text[i] <= 'Z' }
	lower := func(i int) bool { return 'a' <= text[i] && text[i] <= 'z' }
	return i > 0 && (!upper(i-1) || i+1 < len(text) && lower(i+1))
}

func hyphen(id []byte) []byte {
	if len(id) == 0 || id[len(id)-1] == '-' {
		return id
	}
	return append(id, '-')
}

// withHash gives an id that alone is not unique an end that is.
func withHash(id, text string) string {
	sum := sha256.Sum256([]byte(text))
	end := "-" + hex.EncodeToString(sum[:4])
	return strings.TrimRight(id[:min(len(id), maxID-len(end))], "-") + end
}
