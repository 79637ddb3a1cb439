package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"github.com/tollway/tollway/services/platform/config"
)

type kafka struct {
	Brokers  []string      `yaml:"brokers"`
	ClientID string        `yaml:"client_id"`
	Timeout  time.Duration `yaml:"timeout"`
	Password config.Secret `yaml:"password"`
}

func (k kafka) Validate() error {
	var errs []error
	if len(k.Brokers) == 0 {
		errs = append(errs, errors.New("brokers is empty"))
	}
	if k.Timeout <= 0 {
		errs = append(errs, fmt.Errorf("timeout is %s, must be above zero", k.Timeout))
	}
	return errors.Join(errs...)
}

type listener struct {
	Address string `yaml:"address"`
}

func (l *listener) Validate() error {
	if l.Address == "" {
		return errors.New("address is empty")
	}
	return nil
}

type settings struct {
	Kafka     kafka             `yaml:"kafka"`
	MaxRows   int               `yaml:"max_rows"`
	Sample    float64           `yaml:"sample"`
	Debug     bool              `yaml:"debug"`
	Listeners []listener        `yaml:"listeners"`
	Labels    map[string]string `yaml:"labels"`
}

func defaults() settings {
	return settings{Kafka: kafka{Brokers: []string{"127.0.0.1:9092"}, ClientID: "tollway", Timeout: 10 * time.Second}, MaxRows: 1000}
}

// TestGolden loads every file in testdata: a good one must dump to its .golden
// file, a bad one must fail with the exact text in its .golden file.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			cfg := defaults()
			err := config.Load(&cfg, config.Source{File: file})
			var got bytes.Buffer
			if bad := strings.HasSuffix(file, ".bad.yaml"); bad != (err != nil) {
				t.Fatalf("loading answered %v", err)
			} else if bad {
				fmt.Fprintln(&got, err)
			} else if err := config.Dump(&got, cfg); err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(strings.TrimSuffix(file, ".yaml") + ".golden")
			if err != nil {
				t.Fatalf("%v; got:\n%s", err, got.String())
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(got.String(), "hunter2") {
				t.Error("the secret is shown")
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		env  []string
		want func(*settings)
		err  string
	}{
		{env: []string{"HOME=/root", "PATH=/bin"}, want: func(*settings) {}},
		{env: []string{"TOLLWAY_KAFKA_BROKERS=a:1, b:2"}, want: func(s *settings) { s.Kafka.Brokers = []string{"a:1", "b:2"} }},
		{env: []string{"TOLLWAY_KAFKA_TIMEOUT=1m30s", "TOLLWAY_MAX_ROWS=7"}, want: func(s *settings) { s.Kafka.Timeout, s.MaxRows = 90*time.Second, 7 }},
		{env: []string{"TOLLWAY_DEBUG=true", "TOLLWAY_SAMPLE=0.5"}, want: func(s *settings) { s.Debug, s.Sample = true, 0.5 }},
		{env: []string{"TOLLWAY_KAFKA_PASSWORD=plain"}, want: func(s *settings) { s.Kafka.Password = "plain" }},
		{env: []string{"TOLLWAY_KAFKA_PASSWORD_FILE=" + secret}, want: func(s *settings) { s.Kafka.Password = "from-file" }},
		{env: []string{"TOLLWAY_KAFKA_PASSWORD=${file:" + secret + "}"}, want: func(s *settings) { s.Kafka.Password = "from-file" }},
		{env: []string{"TOLLWAY_CACHE=/x"}, want: func(*settings) {}},
		{env: []string{"TOLLWAY_KAFKA_BROKRES=a:1"}, err: `unknown environment variable TOLLWAY_KAFKA_BROKRES, did you mean "TOLLWAY_KAFKA_BROKERS"?`},
		{env: []string{"TOLLWAY_LABELS=x"}, err: `unknown environment variable TOLLWAY_LABELS`},
		{env: []string{"TOLLWAY_MAX_ROWS=many", "TOLLWAY_DEBUG=perhaps"}, err: "environment variable TOLLWAY_DEBUG: \"perhaps\" is not true or false\nenvironment variable TOLLWAY_MAX_ROWS: \"many\" is not a whole number in range"},
		{env: []string{"TOLLWAY_KAFKA_TIMEOUT=10"}, err: `environment variable TOLLWAY_KAFKA_TIMEOUT: "10" is not a duration like 1m30s`},
		{env: []string{"TOLLWAY_KAFKA_TIMEOUT=0s"}, err: "kafka: timeout is 0s, must be above zero"},
	} {
		t.Run(strings.Join(tc.env, " "), func(t *testing.T) {
			got, want := defaults(), defaults()
			err := config.Load(&got, config.Source{Environ: tc.env, Allow: []string{"TOLLWAY_CACHE"}})
			if tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Errorf("got %v, want %s", err, tc.err)
				}
				return
			}
			tc.want(&want)
			if err != nil || !cmp.Equal(got, want) {
				t.Errorf("%v %s", err, cmp.Diff(want, got))
			}
		})
	}
}

func TestNames(t *testing.T) {
	cfg := defaults()
	want := []string{"TOLLWAY_DEBUG", "TOLLWAY_KAFKA_BROKERS", "TOLLWAY_KAFKA_CLIENT_ID", "TOLLWAY_KAFKA_PASSWORD", "TOLLWAY_KAFKA_TIMEOUT", "TOLLWAY_MAX_ROWS", "TOLLWAY_SAMPLE"}
	if diff := cmp.Diff(want, config.Names(&cfg)); diff != "" {
		t.Error(diff)
	}
}

// No way of printing shows a secret, whatever it is made of.
func TestSecretIsNeverShown(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := "S3CR3T" + rapid.StringMatching(`[a-z0-9"\\\n%]{0,20}`).Draw(t, "text")
		s := config.Secret(text)
		holder := kafka{Password: s}
		var out bytes.Buffer
		log := zerolog.New(&out)
		log.Info().Interface("i", holder).Any("a", s).Stringer("s", s).Msgf("%v", holder)
		if err := config.Dump(&out, holder); err != nil {
			t.Fatal(err)
		}
		if err := json.NewEncoder(&out).Encode(holder); err != nil {
			t.Fatal(err)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb+"\n", s)
			fmt.Fprintf(&out, verb+"\n", holder)
			fmt.Fprintf(&out, verb+"\n", &holder)
		}
		shown := strings.ToLower(out.String())
		for _, form := range []string{text, "S3CR3T", fmt.Sprintf("%x", text)} {
			if strings.Contains(shown, strings.ToLower(form)) {
				t.Fatalf("%q is in %s", form, out.String())
			}
		}
		if s.Reveal() != text {
			t.Fatal("the secret itself is gone")
		}
	})
}
