package testenv

import (
	"context"
	"testing"

	"github.com/tollway/tollway/services/platform/embedded"
)

// Log starts a Kafka-protocol log for this test alone and returns its address,
// host:port. It asks for no password, has no topics and makes none by itself.
func Log(t testing.TB) string {
	t.Helper()
	return NewLog(t, nil).Addr()
}

// NewLog is Log for a test that stops it or changes its configuration.
func NewLog(t testing.TB, change func(*embedded.LogConfig)) *embedded.Log {
	t.Helper()
	cfg := embedded.DefaultLogConfig()
	cfg.DataDir, cfg.Open = t.TempDir(), true
	if change != nil {
		change(&cfg)
	}
	log, err := embedded.StartLog(context.Background(), cfg)
	if err != nil {
		t.Fatalf("start a log: %v", err)
	}
	t.Cleanup(func() { _ = log.Close() })
	return log
}
