package main

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tollway/tollway/cmd/tollway/manifest"
	"github.com/tollway/tollway/pipelines/attribute"
	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

// demoSnapshot is the demo's catalog as pipelines know it.
func demoSnapshot(t *testing.T) *attribute.Snapshot {
	t.Helper()
	documents, err := demoDocuments()
	if err != nil {
		t.Fatal(err)
	}
	b := attribute.NewBuilder()
	for i, d := range documents {
		if s := d.Resource.GetSubscription(); s != nil { // as the service fills in
			if s.GetState() == catalogv1.SubscriptionState_SUBSCRIPTION_STATE_UNSPECIFIED {
				s.State = catalogv1.SubscriptionState_ACTIVE
			}
			s.Phases = []*catalogv1.SubscriptionPhase{{StartTime: s.GetStartTime(), PlanVersion: s.GetPlan() + "/versions/1"}}
		}
		if _, err := b.Apply(manifest.Name(d.Resource), &catalogv1.Record{Resource: d.Resource, Sequence: int64(i + 1)}, 0); err != nil {
			t.Fatal(err)
		}
	}
	s := b.Snapshot()
	if problems := s.Problems(); len(problems) > 0 {
		t.Fatal(problems)
	}
	return s
}

// Every call of the demo finds its operation and its caller in the sample
// company, and a plan wherever one is meant.
func TestDemoIsAttributed(t *testing.T) {
	s := demoSnapshot(t)
	d := &demo{rnd: rand.New(rand.NewPCG(1, 2))}
	now := time.Now().UnixMicro()
	without := map[string]bool{}
	for _, caller := range demoCallers {
		var who *attribute.Credential
		if caller.credential != "" {
			var ok bool
			if who, ok = s.Credential([]byte(caller.credential)); !ok {
				t.Errorf("%s is not a credential of the company", caller.credential)
				continue
			}
		}
		for _, o := range demoOperations {
			g := s.Grant(who, o.method, o.host, d.path(o.path), "production", now)
			if g.API != o.api || g.Operation == "" {
				t.Errorf("%s %s%s is operation %q of %q, want one of %s", o.method, o.host, o.path, g.Operation, g.API, o.api)
			}
			for _, api := range caller.apis {
				if api == o.api && g.Subscription == nil {
					without[caller.credential] = true
				}
			}
		}
	}
	if len(without) != 2 || !without[""] || !without[demoClient("acme-trial")] {
		t.Errorf("calls without a subscription are those of %v", without)
	}
}

func TestDemoSaysOnlyWhatAGatewayKnows(t *testing.T) {
	d := &demo{rnd: rand.New(rand.NewPCG(1, 2))}
	for range 1000 {
		var event map[string]any
		if err := json.Unmarshal(d.append(nil, time.Now()), &event); err != nil {
			t.Fatal(err)
		}
		for _, field := range []string{"account", "app", "product", "plan", "subscription", "api", "operation"} {
			if _, ok := event[field]; ok {
				t.Fatalf("a call says its %s", field)
			}
		}
	}
}
