package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/tollway/tollway/services/platform/testenv"
)

// TestServeOnTwoShards: events that come in over HTTP, some of them twice and
// through a restart, are on the shard of their partition once, and in reports,
// traces and lists as if there were one.
func TestServeOnTwoShards(t *testing.T) {
	cluster := testenv.ClusterConfig(t)
	p := startPlant(t, []string{testenv.Log(t)}, &cluster)
	begin := time.Now()
	const events = 2000
	for round := range 2 { // the second with copies of a half of the first
		var lines []byte
		for i := range events {
			lines = fmt.Appendf(lines, `{"source":"shop","id":"%d","time":%q,"path":"/v1/orders/%d","status":%d,"total_us":1500}`+"\n",
				i+round*events/2, begin.UTC().Format(time.RFC3339Nano), i, 200+i%2)
		}
		if err := p.post(lines); err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			p.stop()
			p.start()
		}
	}
	p.awaitTotal(begin, "", events*3/2)
	for _, tier := range tiers {
		a, err := p.report(reportRequest{Metrics: []string{"calls"}, Dimensions: append([]string{"status"}, tier.dimensions...), TimeRange: tier.over(begin, time.Now())})
		if err != nil || a.SourceTable != tier.table {
			t.Fatalf("%s: answered from %s, error %v", tier.table, a.SourceTable, err)
		}
		sameCounts(t, tier.table, counts(a, "status"), map[string]int{"200": events * 3 / 4, "201": events * 3 / 4})
	}
	for i, shard := range testenv.OpenShards(t, cluster) {
		var calls, elsewhere uint64
		err := shard.QueryRow(t.Context(), "SELECT count(), countIf(partition % 2 != {shard:UInt8}) FROM calls", map[string]any{"shard": i}).Scan(&calls, &elsewhere)
		if err != nil || calls < events/3 || elsewhere != 0 {
			t.Errorf("shard %d has %d calls, %d of them of another's partitions, error %v", i+1, calls, elsewhere, err)
		}
	}

	var found findAnswer
	query := url.Values{"start_time": {begin.Add(-time.Minute).UTC().Format(time.RFC3339)}, "end_time": {begin.Add(time.Minute).UTC().Format(time.RFC3339)}, "path_prefix": {"/v1/orders/7"}, "status": {"201"}}
	text, err := p.ask(http.MethodGet, "/v1/calls:find?"+query.Encode(), nil)
	if err = errors.Join(err, json.Unmarshal(text, &found)); err != nil || len(found.Calls) == 0 {
		t.Fatalf("calls found: %s, %v", text, err)
	}
	out, err := run(t, newEventsCommand(), "trace", "--call", found.Calls[0].CallID, "-o", "json",
		"--server", "http://"+p.cfg.Listen.HTTP, "--token-file", filepath.Join(p.data, "admin.token"))
	var traced traceAnswer
	if err = errors.Join(err, json.Unmarshal([]byte(out), &traced)); err != nil || traced.Fate != "STORED" || strconv.Itoa(traced.Call.Status) != "201" {
		t.Errorf("tollway events trace --call: %s, %v", out, err)
	}
}
