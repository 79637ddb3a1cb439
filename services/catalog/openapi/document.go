package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// document is what is read of a document, of any version.
type document struct {
	OpenAPI string `yaml:"openapi"`
	Swagger string `yaml:"swagger"`
	Info    struct {
		Title   string `yaml:"title"`
		Version string `yaml:"version"`
	} `yaml:"info"`
	Servers  []server  `yaml:"servers"`
	Host     string    `yaml:"host"`
	BasePath string    `yaml:"basePath"`
	Paths    yaml.Node `yaml:"paths"`

	root *yaml.Node
}

var version3 = regexp.MustCompile(`^3\.[01](\.|$)`)

func parse(text []byte) (*document, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(asYAML(text)))
	d := &document{root: &yaml.Node{}}
	switch err := decoder.Decode(d.root); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("document is empty")
	case err != nil:
		return nil, plain(err)
	}
	if err := decoder.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("file holds more than one document")
	}
	if len(d.root.Content) == 0 || d.root.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("document is no mapping")
	}
	if err := checkKeys(d.root); err != nil {
		return nil, err
	}
	if err := decode(d.root, d); err != nil {
		return nil, err
	}
	switch {
	case d.Swagger == "" && d.OpenAPI == "":
		return nil, errors.New("document is no OpenAPI: it has neither openapi nor swagger")
	case d.Swagger != "" && d.OpenAPI != "":
		return nil, errors.New("document has both openapi and swagger")
	case d.Swagger != "" && d.Swagger != "2.0":
		return nil, fmt.Errorf("swagger: version %q is not read; 2.0 is", d.Swagger)
	case d.Swagger == "" && !version3.MatchString(d.OpenAPI):
		return nil, fmt.Errorf("openapi: version %q is not read; 3.0 and 3.1 are", d.OpenAPI)
	}
	return d, nil
}

// jsonOnly are texts in strings of JSON that are errors in YAML, or mean something
// else: \/, halves of characters, and characters that YAML wants escaped. A
// backslash that is itself escaped is found first, and left.
var jsonOnly = regexp.MustCompile(`\\\\|\\/|\\u[dD][89a-fA-F][0-9a-fA-F]{2}(\\u[dD][c-fC-F][0-9a-fA-F]{2})?|[\x7f-\x{9f}\x{2028}\x{2029}\x{feff}\x{fffe}\x{ffff}]`)

// asYAML makes JSON readable as YAML, whose reader knows lines and refuses keys
// that stand twice.
func asYAML(text []byte) []byte {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	if !json.Valid(text) {
		return text
	}
	return jsonOnly.ReplaceAllFunc(text, func(found []byte) []byte {
		switch {
		case string(found) == `\\`:
			return found
		case string(found) == `\/`:
			return []byte("/")
		case found[0] != '\\':
			r, _ := utf8.DecodeRune(found)
			return fmt.Appendf(nil, `\u%04x`, r)
		case len(found) < 12:
			return []byte("\ufffd") // half a character
		}
		return utf8.AppendRune(nil, utf16.DecodeRune(unit(found[2:6]), unit(found[8:12])))
	})
}

func unit(digits []byte) rune {
	n, err := strconv.ParseUint(string(digits), 16, 16)
	if err != nil {
		return utf8.RuneError // the pattern holds only what can be parsed
	}
	return rune(n)
}

// maxKeys bounds a mapping: the YAML reader compares every key with every other.
const maxKeys = 10_000

// checkKeys refuses keys that stand twice, before the YAML reader does: it makes
// an error of every pair, which a small file can turn into gigabytes. Aliases
// are not followed, so every mapping is looked at once.
func checkKeys(n *yaml.Node) error {
	if n.Kind == yaml.MappingNode {
		if len(n.Content)/2 > maxKeys {
			return fmt.Errorf("line %d: mapping has %d keys; at most %d are read", n.Line, len(n.Content)/2, maxKeys)
		}
		type key struct {
			kind  yaml.Kind
			value string
		}
		lines := make(map[key]int, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if line, twice := lines[key{k.Kind, k.Value}]; twice {
				return fmt.Errorf("line %d: mapping key %q already defined at line %d", k.Line, k.Value, line)
			}
			lines[key{k.Kind, k.Value}] = k.Line
		}
	}
	for _, child := range n.Content {
		if err := checkKeys(child); err != nil {
			return err
		}
	}
	return nil
}

// entry is a value of a mapping and the line of its key.
type entry struct {
	value *yaml.Node
	line  int
}

// entries reads a mapping, in which a key that stands twice is an error.
func entries(n *yaml.Node) (map[string]entry, error) {
	n = target(n)
	if n.IsZero() {
		return nil, nil
	}
	var values map[string]yaml.Node
	if err := decode(n, &values); err != nil {
		return nil, err
	}
	all := make(map[string]entry, len(values))
	for key, value := range values {
		all[key] = entry{target(&value), value.Line}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if e, ok := all[n.Content[i].Value]; ok {
			e.line = n.Content[i].Line
			all[n.Content[i].Value] = e
		}
	}
	return all, nil
}

// target follows an alias.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func decode(n *yaml.Node, into any) error {
	if err := n.Decode(into); err != nil {
		return plain(err)
	}
	return nil
}

// goType is how the YAML reader says what it wanted.
var goType = regexp.MustCompile(` into (.*)$`)

// plain is an error of the YAML reader in one line and without types of Go.
func plain(err error) error {
	wrong := (*yaml.TypeError)(nil)
	if !errors.As(err, &wrong) {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	first := strings.Replace(wrong.Errors[0], "cannot unmarshal", "found", 1)
	return errors.New(goType.ReplaceAllStringFunc(first, func(into string) string {
		switch wanted := strings.TrimPrefix(into, " into "); {
		case wanted == "string":
			return ", want text"
		case wanted == "bool":
			return ", want true or false"
		case strings.HasPrefix(wanted, "[]"):
			return ", want a list"
		}
		return ", want a mapping"
	}))
}

var methods = []string{"delete", "get", "head", "options", "patch", "post", "put", "trace"}

// maxReferences is how often one path may refer to another that refers on.
const maxReferences = 10

// item reads the operations of a path, by method in capitals. Those beside a
// reference win over those it leads to.
func (d *document) item(api *API, n *yaml.Node, depth int) (map[string]entry, error) {
	fields, err := entries(n)
	if err != nil {
		return nil, err
	}
	if own, ok := fields["servers"]; ok {
		var servers []server
		if err := decode(own.value, &servers); err != nil {
			return nil, err
		}
		if err := api.addOwn(servers); err != nil {
			return nil, err
		}
	}
	found := map[string]entry{}
	if reference, ok := fields["$ref"]; ok {
		if depth == maxReferences {
			return nil, errors.New("$ref: refers to itself")
		}
		referred, err := d.resolve(reference.value.Value)
		if err != nil {
			return nil, err
		}
		if found, err = d.item(api, referred, depth+1); err != nil {
			return nil, fmt.Errorf("$ref %q: %w", reference.value.Value, err)
		}
	}
	for name, e := range fields {
		if slices.Contains(methods, name) && e.value.Tag != "!!null" {
			found[strings.ToUpper(name)] = e
		}
	}
	return found, nil
}

var pointer = strings.NewReplacer("~1", "/", "~0", "~", "%7B", "{", "%7b", "{", "%7D", "}", "%7d", "}")

// resolve returns what a reference within the document points at.
func (d *document) resolve(reference string) (*yaml.Node, error) {
	path, ok := strings.CutPrefix(reference, "#/")
	if !ok {
		return nil, fmt.Errorf("$ref %q: only references within the document are followed; bundle the documents into one first", reference)
	}
	n := d.root.Content[0]
	for _, part := range strings.Split(path, "/") {
		fields, err := entries(n)
		if err != nil {
			return nil, fmt.Errorf("$ref %q: %w", reference, err)
		}
		next, ok := fields[pointer.Replace(part)]
		if !ok {
			return nil, fmt.Errorf("$ref %q: there is no %q", reference, part)
		}
		n = next.value
	}
	return n, nil
}
