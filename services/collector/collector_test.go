package collector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"
	"gopkg.in/yaml.v3"

	"github.com/tollway/tollway/pipelines/call"
	"github.com/tollway/tollway/services/collector/filetail"
	"github.com/tollway/tollway/services/collector/publish"
	"github.com/tollway/tollway/services/platform/kafkaio"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Events, files and an added source, through a listener that speaks Kafka.
func TestSourcesToTheLog(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "tollway.calls.v1"))
	require.NoError(t, err)
	defer cluster.Close()
	kc := kafkaio.DefaultConfig()
	kc.Brokers = cluster.ListenAddrs()
	client, err := kafkaio.Open(kc, zerolog.Nop())
	require.NoError(t, err)
	defer func() { require.NoError(t, client.Close()) }()
	producer, err := kafkaio.NewProducer(client, kafkaio.DefaultProducerConfig())
	require.NoError(t, err)

	dir := t.TempDir()
	path := filepath.Join(dir, "access.log")
	line := fmt.Sprintf(`{"start_time":%q,"stream_id":"f","method":"GET","path":"/f","status":200}`+"\n", time.Now().UTC().Format(time.RFC3339Nano))
	require.NoError(t, os.WriteFile(path, []byte(line), 0o600))
	cfg := DefaultConfig()
	cfg.HTTP.Address = "127.0.0.1:0"
	cfg.Files.Checkpoint = filepath.Join(dir, "checkpoint")
	cfg.Files.Files = []filetail.File{{Path: path, Node: "edge"}}
	c, err := New(cfg, Deps{
		Log: producer, Partitions: 3, Clock: time.Now, Registry: prometheus.NewRegistry(), Logger: zerolog.Nop(),
		Guard: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "Bearer t" {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				next.ServeHTTP(w, r)
			})
		},
	})
	require.NoError(t, err)
	added := call.NewID("added", "1")
	c.Add("added", func(ctx context.Context) error {
		one := call.Call{}
		one.Reset()
		one.ID, one.Time = added, time.Now().UnixMicro()
		d := publish.NewDelivery()
		if err := c.Publisher().AppendWait(ctx, d, &one); err != nil {
			return err
		}
		return d.Wait(ctx)
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	addr, err := c.Addr(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.Ready())

	post := func(token string) int {
		req, err := http.NewRequest(http.MethodPost, "http://"+addr.String()+"/v1/events", strings.NewReader(`{"id":"1","source":"app","method":"GET"}`))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/x-ndjson")
		req.Header.Set("Authorization", token)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		return res.StatusCode
	}
	require.Equal(t, http.StatusUnauthorized, post(""))
	require.Equal(t, http.StatusAccepted, post("Bearer t"))
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(cfg.Files.Checkpoint)
		return err == nil && strings.Contains(string(text), fmt.Sprintf(`"offset": %d`, len(line)))
	}, 10*time.Second, 5*time.Millisecond)
	http.DefaultClient.CloseIdleConnections()
	cancel()
	require.NoError(t, <-done)

	offsets, err := client.Offsets(t.Context(), "tollway.calls.v1")
	require.NoError(t, err)
	rows := call.NewBatch()
	for partition, o := range offsets {
		fetcher := kafkaio.NewFetcher(client, "tollway.calls.v1", partition, 0, kafkaio.FetchConfig{})
		for fetcher.Offset() < o.Last {
			result, err := fetcher.Next(t.Context())
			require.NoError(t, err)
			for _, m := range result.Messages {
				_, err := rows.AppendMessage(m.Value, m.Offset)
				require.NoError(t, err)
			}
		}
	}
	require.Len(t, rows.ID, 3)
	require.Contains(t, rows.ID, added)
	require.Contains(t, rows.ID, call.NewID("app", "1"))
}

type failingLog struct{}

func (failingLog) Produce(context.Context, string, int, []publish.Message) error { return nil }

func TestASourceThatFailsStopsTheOthers(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c, err := New(DefaultConfig(), Deps{Log: failingLog{}, Partitions: 1, Listener: listener, Clock: time.Now, Registry: prometheus.NewRegistry(), Logger: zerolog.Nop()})
	require.NoError(t, err)
	var stopped sync.WaitGroup
	stopped.Add(1)
	c.Add("healthy", func(ctx context.Context) error { defer stopped.Done(); <-ctx.Done(); return nil })
	c.Add("broken", func(context.Context) error { return errors.New("cannot bind") })
	require.ErrorContains(t, c.Run(t.Context()), "broken: cannot bind")
	stopped.Wait()
}

func TestConfig(t *testing.T) {
	cfg := DefaultConfig()
	require.NoError(t, cfg.Validate())
	text, err := yaml.Marshal(cfg)
	require.NoError(t, err)
	var back Config
	require.NoError(t, yaml.Unmarshal(text, &back))
	again, err := yaml.Marshal(back)
	require.NoError(t, err)
	require.Equal(t, string(text), string(again))
	for field, change := range map[string]func(*Config){
		"http.address":          func(c *Config) { c.HTTP.Address = "" },
		"http: read_timeout":    func(c *Config) { c.HTTP.ReadTimeout = 0 },
		"max_unacknowledged":    func(c *Config) { c.MaxUnacknowledged = 0 },
		"publish.topic":         func(c *Config) { c.Publish.Topic = "" },
		"events.max_items":      func(c *Config) { c.Events.MaxItems = 0 },
		"files.files[0]: path:": func(c *Config) { c.Files.Files = []filetail.File{{}}; c.Files.Checkpoint = "x" },
	} {
		cfg := DefaultConfig()
		change(&cfg)
		require.ErrorContains(t, cfg.Validate(), field)
	}
	_, err = New(DefaultConfig(), Deps{})
	require.ErrorContains(t, err, "0 partitions")
}
