package config

import (
	"fmt"
	"os"
	"strings"

	"gopkg.in/yaml.v3"
)

const redacted = "[redacted]"

// Secret is a configuration value that must not be shown: a password, a token,
// a private key. Every usual way of printing it gives "[redacted]"; only Reveal
// returns the text. In YAML and in the environment a secret is either the text
// itself or "${file:/path}", which reads the file (one trailing newline is
// dropped).
type Secret string

// Reveal returns the secret text, for the one place that needs it.
func (s Secret) Reveal() string { return string(s) }

// String hides the secret; an empty one stays visibly empty.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// Format hides the secret from every other verb, %x and %q among them.
func (s Secret) Format(f fmt.State, verb rune) {
	switch verb {
	case 'q':
		fmt.Fprintf(f, "%q", s.String())
	default:
		fmt.Fprint(f, s.String())
	}
}

// MarshalYAML hides the secret in dumps.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// MarshalJSON hides the secret in JSON and in zerolog's Interface and Any.
func (s Secret) MarshalJSON() ([]byte, error) {
	return []byte(fmt.Sprintf("%q", s.String())), nil
}

// MarshalText hides the secret from encoders of text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the secret text or the file it refers to.
func (s *Secret) UnmarshalText(text []byte) error {
	v, err := resolveSecret(string(text))
	if err != nil {
		return err
	}
	*s = v
	return nil
}

// UnmarshalYAML reads the secret text or the file it refers to.
func (s *Secret) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: a secret must be a single value", n.Line)
	}
	if n.Tag == "!!null" {
		*s = ""
		return nil
	}
	v, err := resolveSecret(n.Value)
	if err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	*s = v
	return nil
}

func resolveSecret(text string) (Secret, error) {
	path, ok := strings.CutPrefix(text, "${file:")
	if !ok {
		return Secret(text), nil
	}
	path, ok = strings.CutSuffix(path, "}")
	if !ok {
		return "", fmt.Errorf("a file reference must look like ${file:/path}")
	}
	return readSecret(path)
}

// readSecret reads a secret from a file. The error names the file and never
// its content.
func readSecret(path string) (Secret, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if text == "" {
		return "", fmt.Errorf("secret file %s is empty", path)
	}
	return Secret(text), nil
}
