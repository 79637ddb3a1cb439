package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"time"
)

// welcome says where everything is, once the process is ready.
func welcome(ctx context.Context, cfg Config, data string, demo bool) error {
	client, err := ownClient()
	if err != nil {
		return err
	}
	if err := waitReady(ctx, client, baseURL(cfg.Listen.AdminTLS, cfg.Listen.Admin)+"/readyz"); err != nil {
		return err
	}
	token := filepath.Join(data, "admin.token")
	fmt.Printf(`
Tollway is ready.

  Events and APIs   %s    POST /v1/events, POST /v1/reports:query
  Envoy (gRPC)      %s           access logs, metrics, OTLP logs
  Metrics, health   %s    /metrics, /readyz
  Admin token       %s
  Gateway token     %s

  Ask:   tollway report traffic --by api --since 1h
  Stop:  Ctrl-C

`, baseURL(cfg.Listen.TLS, cfg.Listen.HTTP), cfg.Listen.GRPC, baseURL(cfg.Listen.AdminTLS, cfg.Listen.Admin), token, filepath.Join(data, "gateway.token"))
	if !demo {
		return nil
	}
	return runDemo(ctx, client, cfg, data)
}

func waitReady(ctx context.Context, client *http.Client, url string) error {
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if answer, err := client.Do(request); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		} else if explained := explainTLS(url, err); explained != nil {
			return explained
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
