package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"gopkg.in/yaml.v3"

	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog"
	"github.com/tollway/tollway/services/catalog/feed"
	"github.com/tollway/tollway/services/catalog/outbox"
	"github.com/tollway/tollway/services/platform/auth"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/testenv"
	"github.com/tollway/tollway/sql"
)

// The command has everything published again by the service that runs.
func TestRepublish(t *testing.T) {
	dir, cfg := t.TempDir(), testenv.LedgerConfig(t)
	db := testenv.OpenLedger(t, cfg)
	if _, err := db.Migrate(t.Context(), sql.LedgerMigrations); err != nil {
		t.Fatal(err)
	}
	broker := testenv.Log(t)
	kafkaConfig := kafkaio.DefaultConfig()
	kafkaConfig.Brokers = []string{broker}
	client, err := kafkaio.Open(kafkaConfig, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if err := client.EnsureTopic(t.Context(), kafkaio.TopicSpec{Name: feed.Topic, Partitions: 1, ReplicationFactor: 1, Config: map[string]string{"cleanup.policy": "compact"}}); err != nil {
		t.Fatal(err)
	}
	producer, err := kafkaio.NewProducer(client, kafkaio.DefaultProducerConfig())
	if err != nil {
		t.Fatal(err)
	}
	publisher, err := outbox.New(outbox.DefaultConfig(), outbox.Deps{Ledger: db, Producer: producer, Topics: client, Log: zerolog.Nop(), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	serviceConfig := catalog.DefaultConfig()
	serviceConfig.HashKeyFile = filepath.Join(dir, "hash.key")
	service, err := catalog.New(serviceConfig, catalog.Deps{Ledger: db, Changed: publisher.Wake, Log: zerolog.Nop(), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if err := service.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- publisher.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	published := func(want int64) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			offsets, err := client.Offsets(t.Context(), feed.Topic)
			if err == nil && offsets[0].Last == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("the topic ends at %v, %v; want %d", offsets[0], err, want)
			}
		}
	}
	admin := auth.WithPrincipal(t.Context(), auth.Principal{Name: "admin", Role: auth.Admin})
	for _, name := range []string{"A", "B", "C"} {
		if _, err := service.CreateAccount(admin, &catalogv1.CreateAccountRequest{Account: &catalogv1.Account{DisplayName: name}}); err != nil {
			t.Fatal(err)
		}
	}
	published(3)

	text, err := yaml.Marshal(map[string]any{"kafka": map[string]any{"brokers": []string{broker}}, "ledger": map[string]any{"path": cfg.Path}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "tollway.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for end := int64(6); end <= 9; end += 3 {
		if out, err := run(t, newRepublishCommand(), "--config", file, "--data", dir); err != nil || out != "3 resources will be published again.\n" {
			t.Fatalf("%q, %v", out, err)
		}
		published(end)
	}
}
