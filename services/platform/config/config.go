// Package config loads configuration into a struct. In come a YAML file, the
// environment and a struct that already holds the defaults; out comes the struct
// filled and checked, or one error that lists everything that is wrong with its
// place. It keeps nothing, so a crash loses nothing.
//
// The struct's yaml tags are the only description: keys, environment names and
// the dump all follow from them. An unknown key or variable is always an error,
// because a setting that is silently ignored is worse than a program that does
// not start.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// EnvPrefix begins the name of every variable that sets a key.
const EnvPrefix = "TOLLWAY_"

// Source says where configuration comes from.
type Source struct {
	// File is a YAML file; empty means that there is none.
	File string
	// Environ is os.Environ or the like. TOLLWAY_KAFKA_CLIENT_ID sets the key
	// client_id of the section kafka.
	Environ []string
	// Allow are variables with the prefix that are not keys.
	Allow []string
}

// Load fills cfg, a pointer to a struct with its defaults set, from the file,
// then from the environment, and validates the result.
func Load(cfg any, src Source) error {
	var data []byte
	if src.File != "" {
		b, err := os.ReadFile(src.File)
		if err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
		data = b
	}
	return Parse(cfg, src.File, data, src.Environ, src.Allow)
}

// Parse is Load for text that was read already; name is used in errors.
func Parse(cfg any, name string, data []byte, environ, allow []string) error {
	v := reflect.ValueOf(cfg)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("configuration must be a pointer to a struct, not %T", cfg)
	}
	if err := parseYAML(v, name, data); err != nil {
		return err
	}
	if err := applyEnv(v.Elem(), environ, allow); err != nil {
		return err
	}
	return Validate(cfg)
}

func parseYAML(v reflect.Value, name string, data []byte) error {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: more than one YAML document", name)
	}
	k := keyChecker{file: name}
	k.check(doc.Content[0], v.Type(), "")
	if err := errors.Join(k.errs...); err != nil {
		return err
	}
	if err := doc.Decode(v.Interface()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// keyChecker compares the keys of a file with the fields of a type.
type keyChecker struct {
	file string
	errs []error
}

func (k *keyChecker) fail(n *yaml.Node, format string, args ...any) {
	k.errs = append(k.errs, fmt.Errorf("%s:%d: %s", k.file, n.Line, fmt.Sprintf(format, args...)))
}

func (k *keyChecker) check(n *yaml.Node, t reflect.Type, path string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if isLeaf(t) {
		return
	}
	switch {
	case t.Kind() == reflect.Struct && n.Kind == yaml.MappingNode:
		k.mapping(n, t, path)
	case t.Kind() == reflect.Struct && n.Tag != "!!null":
		k.fail(n, "%s must be a section with keys", pathOrRoot(path))
	case t.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		for i, item := range n.Content {
			k.check(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i))
		}
	case t.Kind() == reflect.Map && n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			k.check(n.Content[i+1], t.Elem(), join(path, n.Content[i].Value))
		}
	}
}

func (k *keyChecker) mapping(n *yaml.Node, t reflect.Type, path string) {
	fields := fieldsOf(t)
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		ft, ok := fields[key.Value]
		if !ok {
			if ok = k.secretFile(key, value, fields, path); !ok {
				continue
			}
			ft = secretType
		}
		if seen[key.Value] {
			k.fail(key, "key %q is given twice", join(path, key.Value))
			continue
		}
		seen[key.Value] = true
		k.check(value, ft, join(path, key.Value))
	}
}

// secretFile turns password_file: PATH into password: its content.
func (k *keyChecker) secretFile(key, value *yaml.Node, fields map[string]reflect.Type, path string) bool {
	base, ok := strings.CutSuffix(key.Value, "_file")
	if !ok || fields[base] != secretType {
		k.fail(key, "unknown key %q%s", join(path, key.Value), suggest(key.Value, fields))
		return false
	}
	secret, err := readSecret(value.Value)
	if err != nil {
		k.fail(key, "%s: %v", join(path, key.Value), err)
		return false
	}
	key.Value = base
	value.SetString(secret.Reveal())
	return true
}

var (
	secretType   = reflect.TypeFor[Secret]()
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[interface{ UnmarshalText([]byte) error }]()
	yamlType     = reflect.TypeFor[yaml.Unmarshaler]()
)

// isLeaf tells whether a type reads its value itself.
func isLeaf(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(yamlType) || p.Implements(textType)
}

// field is one exported field with its key; an empty key means inline.
type field struct {
	key   string
	index int
}

func structFields(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case !f.IsExported() || name == "-":
		case strings.Contains(opts, "inline"):
			out = append(out, field{index: i})
		case name == "":
			out = append(out, field{key: strings.ToLower(f.Name), index: i})
		default:
			out = append(out, field{key: name, index: i})
		}
	}
	return out
}

func fieldsOf(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for _, f := range structFields(t) {
		ft := t.Field(f.index).Type
		if f.key != "" {
			out[f.key] = ft
			continue
		}
		for k, v := range fieldsOf(ft) {
			out[k] = v
		}
	}
	return out
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func pathOrRoot(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

// Validate calls Validate on every part of cfg that has it, the innermost first,
// and joins the errors, each with the path of its part.
func Validate(cfg any) error {
	var errs []error
	validate(reflect.ValueOf(cfg), "", &errs)
	return errors.Join(errs...)
}

func validate(v reflect.Value, path string, errs *[]error) {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	validateParts(v, path, errs)
	callValidate(v, path, errs)
}

// validateParts descends. An inline part is judged by what it stands in, whose
// Validate is the part's own unless it says otherwise.
func validateParts(v reflect.Value, path string, errs *[]error) {
	switch v.Kind() {
	case reflect.Struct:
		judged := reflect.PointerTo(v.Type()).Implements(validator)
		for _, f := range structFields(v.Type()) {
			switch {
			case f.key != "":
				validate(v.Field(f.index), join(path, f.key), errs)
			case judged:
				validateParts(v.Field(f.index), path, errs)
			default:
				validate(v.Field(f.index), path, errs)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			validate(v.Index(i), fmt.Sprintf("%s[%d]", path, i), errs)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			validate(it.Value(), join(path, fmt.Sprint(it.Key())), errs)
		}
	}
}

var validator = reflect.TypeFor[interface{ Validate() error }]()

func callValidate(v reflect.Value, path string, errs *[]error) {
	check, ok := v.Interface().(interface{ Validate() error })
	if !ok && v.CanAddr() {
		check, ok = v.Addr().Interface().(interface{ Validate() error })
	}
	if !ok {
		return
	}
	err := check.Validate()
	if err == nil {
		return
	}
	parts := []error{err}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		parts = many.Unwrap()
	}
	for _, e := range parts {
		if path != "" {
			e = fmt.Errorf("%s: %w", path, e)
		}
		*errs = append(*errs, e)
	}
}

// Dump writes the effective configuration as YAML. Secrets are redacted.
func Dump(w io.Writer, cfg any) error {
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(cfg); err != nil {
		return fmt.Errorf("dump configuration: %w", err)
	}
	return enc.Close()
}
