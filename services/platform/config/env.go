package config

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Names lists the environment variables that set a key of cfg, in order.
func Names(cfg any) []string {
	names := map[string]reflect.Value{}
	collect(reflect.Indirect(reflect.ValueOf(cfg)), strings.TrimSuffix(EnvPrefix, "_"), names)
	return slices.Sorted(maps.Keys(names))
}

func applyEnv(v reflect.Value, environ, allow []string) error {
	names := map[string]reflect.Value{}
	collect(v, strings.TrimSuffix(EnvPrefix, "_"), names)
	var errs []error
	for _, entry := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, EnvPrefix) || slices.Contains(allow, name) {
			continue
		}
		if err := setVariable(names, name, value); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func setVariable(names map[string]reflect.Value, name, value string) error {
	if target, ok := names[name]; ok {
		if err := set(target, value); err != nil {
			return fmt.Errorf("environment variable %s: %w", name, err)
		}
		return nil
	}
	base, ok := strings.CutSuffix(name, "_FILE")
	if target, known := names[base]; ok && known && target.Type() == secretType {
		secret, err := readSecret(value)
		if err != nil {
			return fmt.Errorf("environment variable %s: %w", name, err)
		}
		target.Set(reflect.ValueOf(secret))
		return nil
	}
	return fmt.Errorf("unknown environment variable %s%s", name, suggest(name, names))
}

// collect maps variable names to the fields that they set.
func collect(v reflect.Value, name string, out map[string]reflect.Value) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	if isLeaf(v.Type()) || v.Kind() != reflect.Struct {
		if settable(v.Type()) {
			out[name] = v
		}
		return
	}
	for _, f := range structFields(v.Type()) {
		n := name
		if f.key != "" {
			n += "_" + strings.ToUpper(f.key)
		}
		collect(v.Field(f.index), n, out)
	}
}

func settable(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(textType) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	case reflect.Slice:
		return t.Elem().Kind() != reflect.Slice && settable(t.Elem())
	}
	return false
}

// set reads text into a value. Errors of secrets do not show the text.
func set(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	if v.Type() == durationType {
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration like 1m30s", text)
		}
		v.SetInt(int64(d))
		return nil
	}
	switch {
	case v.Kind() == reflect.String:
		v.SetString(text)
	case v.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is not true or false", text)
		}
		v.SetBool(b)
	case v.CanInt():
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a whole number in range", text)
		}
		v.SetInt(n)
	case v.CanUint():
		n, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a whole number in range", text)
		}
		v.SetUint(n)
	case v.CanFloat():
		n, err := strconv.ParseFloat(text, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a number", text)
		}
		v.SetFloat(n)
	case v.Kind() == reflect.Slice:
		return setList(v, text)
	}
	return nil
}

func setList(v reflect.Value, text string) error {
	list := reflect.MakeSlice(v.Type(), 0, 4)
	if strings.TrimSpace(text) != "" {
		for _, part := range strings.Split(text, ",") {
			item := reflect.New(v.Type().Elem()).Elem()
			if err := set(item, strings.TrimSpace(part)); err != nil {
				return err
			}
			list = reflect.Append(list, item)
		}
	}
	v.Set(list)
	return nil
}

// suggest names the known key that is nearest to a misspelt one.
func suggest[V any](got string, known map[string]V) string {
	best, bestDistance := "", len(strings.TrimPrefix(got, EnvPrefix))/3+1
	for _, k := range slices.Sorted(maps.Keys(known)) {
		if d := distance(got, k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %q?", best)
}

// distance is the number of single-byte edits between two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
