package logging_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/tollway/tollway/services/platform/logging"
)

func TestFormats(t *testing.T) {
	var buf bytes.Buffer
	log, err := logging.NewTo(&buf, logging.Config{Level: "info", Format: "json"})
	if err != nil {
		t.Fatal(err)
	}
	log.Debug().Msg("hidden")
	log.Info().Str("topic", "calls").Msg("created")
	var line map[string]any
	if err := json.Unmarshal(buf.Bytes(), &line); err != nil {
		t.Fatalf("not one JSON line: %v in %q", err, buf.String())
	}
	if line["message"] != "created" || line["topic"] != "calls" || line["time"] == nil || line["level"] != "info" {
		t.Errorf("unexpected line %v", line)
	}

	buf.Reset()
	log, err = logging.NewTo(&buf, logging.Config{Level: "debug", Format: "console"})
	if err != nil {
		t.Fatal(err)
	}
	log.Debug().Str("topic", "calls").Msg("shown")
	if got := buf.String(); !strings.Contains(got, "DBG shown topic=calls") || strings.Contains(got, "\x1b[") {
		t.Errorf("console line %q must be plain text when it does not go to a terminal", got)
	}
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  logging.Config
		want string
	}{
		{"default", logging.DefaultConfig(), ""},
		{"level", logging.Config{Level: "loud", Format: "json"}, `level is "loud", must be trace, debug, info, warn or error`},
		{"empty level", logging.Config{Format: "json"}, `level is "", must be trace, debug, info, warn or error`},
		{"format", logging.Config{Level: "info", Format: "xml"}, `format is "xml", must be json or console`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := ""
			if err := tc.cfg.Validate(); err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if _, err := logging.New(tc.cfg); (err != nil) != (tc.want != "") {
				t.Errorf("New answered %v", err)
			}
		})
	}
}

func TestSampled(t *testing.T) {
	var buf bytes.Buffer
	log := logging.Sampled(zerolog.New(&buf), 3, time.Hour)
	for range 100 {
		log.Error().Msg("broken")
	}
	if n := strings.Count(buf.String(), "broken"); n != 3 {
		t.Errorf("%d lines passed, want 3", n)
	}
}

func TestHTTPComplaints(t *testing.T) {
	var out bytes.Buffer
	l := logging.HTTP(zerolog.New(&out))
	for range 100 {
		l.Printf("http: TLS handshake error from %s: EOF", "192.0.2.1:1")
	}
	if want := `{"level":"warn","complaint":"http: TLS handshake error from 192.0.2.1:1: EOF","message":"HTTP connection"}` + "\n"; !strings.HasPrefix(out.String(), want) {
		t.Errorf("logged %s", out.String())
	}
	if n := strings.Count(out.String(), "\n"); n > 5 {
		t.Errorf("%d of 100 complaints are logged", n)
	}
}
