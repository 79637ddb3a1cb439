package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func configOf(t *testing.T, text string) (Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tollway.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return (&processFlags{config: file, data: t.TempDir()}).load(false)
}

func TestSourcesAcceptWhatIsKept(t *testing.T) {
	cfg, err := configOf(t, "retention: {calls_days: 90}\nals: {max_age: 48h}\n")
	if err != nil {
		t.Fatal(err)
	}
	const days = 24 * time.Hour
	for name, got := range map[string]time.Duration{
		"load": cfg.Load.Retention, "otlp": cfg.OTLP.MaxAge, "events": cfg.Collector.Events.MaxAge, "files": cfg.Collector.Files.Envoy.MaxAge,
	} {
		if got != 90*days {
			t.Errorf("%s accepts calls of the last %s", name, got)
		}
	}
	if cfg.ALS.MaxAge != 2*days {
		t.Errorf("als accepts calls of the last %s, and was told 48h", cfg.ALS.MaxAge)
	}
}

func TestRetentionOfTopics(t *testing.T) {
	cfg, err := configOf(t, "kafka: {retention_days: 3}\n")
	if err != nil || cfg.Kafka.RetentionDays != 3 || cfg.Kafka.DeadLetterRetentionDays != 28 {
		t.Errorf("%d and %d days, error %v", cfg.Kafka.RetentionDays, cfg.Kafka.DeadLetterRetentionDays, err)
	}
	if got := retention(cfg.Kafka.RetentionDays); got != "259200000" {
		t.Errorf("three days are %s ms", got)
	}
	if _, err := configOf(t, "kafka: {dead_letter_retention_days: 0}\n"); err == nil || !strings.Contains(err.Error(), "dead_letter_retention_days") {
		t.Errorf("letters are kept for no time: %v", err)
	}
}
