package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/service/metrics/v3"
	"github.com/google/go-cmp/cmp"
	logsv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/grpc"

	"github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/schemas/proto/tollway/events/v1"
	"github.com/tollway/tollway/schemas/proto/tollway/reports/v1"
	"github.com/tollway/tollway/services/platform/auth"
)

// TestAccess holds who may call what in a whole process against a table that a
// person has read. A method that is not in the table fails here, one without a
// rule too. A consumer's calls are of its own account only, which the tests of
// auth and of the services show.
func TestAccess(t *testing.T) {
	server := grpc.NewServer()
	accesslogv3.RegisterAccessLogServiceServer(server, accesslogv3.UnimplementedAccessLogServiceServer{})
	authv3.RegisterAuthorizationServer(server, authv3.UnimplementedAuthorizationServer{})
	metricsv3.RegisterMetricsServiceServer(server, metricsv3.UnimplementedMetricsServiceServer{})
	logsv1.RegisterLogsServiceServer(server, logsv1.UnimplementedLogsServiceServer{})
	catalogv1.RegisterCatalogServer(server, catalogv1.UnimplementedCatalogServer{})
	eventsv1.RegisterEventsServer(server, eventsv1.UnimplementedEventsServer{})
	reportsv1.RegisterReportsServer(server, reportsv1.UnimplementedReportsServer{})

	guard, err := auth.NewGuard(auth.Static(nil), rules())
	if err != nil {
		t.Fatal(err)
	}
	if missing := guard.Missing(server); len(missing) > 0 {
		t.Errorf("no rule says who may call %v", missing)
	}
	calls := auth.Methods(server)
	for key := range maps.Keys(rules()) {
		if !strings.HasPrefix(key, "/") {
			calls = append(calls, key)
		}
	}
	slices.Sort(calls)
	roles := []auth.Role{auth.Admin, auth.ProductManager, auth.Finance, auth.Gateway, auth.Consumer}
	var table strings.Builder
	for _, name := range calls {
		var may []string
		for _, role := range roles {
			if guard.Allowed(name, auth.Principal{Name: "someone", Role: role, Account: "acme"}) {
				may = append(may, string(role))
			}
		}
		fmt.Fprintf(&table, "%s: %s\n", name, strings.Join(may, " "))
	}
	const file = "testdata/access.txt"
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(table.String(), "\n")); diff != "" {
		t.Errorf("who may call what has changed; if it is meant, change %s:\n%s", file, diff)
	}
}
