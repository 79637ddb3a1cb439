package main

import (
	"maps"
	"net/http"
	"slices"

	"github.com/tollway/tollway/schemas/proto/tollway/events/v1"
	"github.com/tollway/tollway/services/catalog"
	"github.com/tollway/tollway/services/events"
	"github.com/tollway/tollway/services/platform/auth"
	"github.com/tollway/tollway/services/quota/extauthz"
	"github.com/tollway/tollway/services/reports"
)

// rules is who may call what. What is not here is refused to everyone.
func rules() auth.Rules {
	ingest := auth.Rule{Roles: []auth.Role{auth.Gateway, auth.Admin}, Scope: "events.write"}
	all := auth.Rules{
		"/envoy.service.accesslog.v3.AccessLogService/*":       ingest,
		"/envoy.service.metrics.v3.MetricsService/*":           ingest,
		"/opentelemetry.proto.collector.logs.v1.LogsService/*": ingest,
		"POST /v1/events":                        ingest,
		"POST /v1/logs":                          ingest,
		"/envoy.service.auth.v3.Authorization/*": {Roles: ingest.Roles, Scope: "quota.check"},
	}
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions} {
		all[method+" "+extauthz.Path+"*"] = auth.Rule{Roles: ingest.Roles, Scope: "quota.check"}
	}
	maps.Copy(all, catalog.Rules)
	for scope, table := range map[string]map[string][]string{"reports.read": reports.Rules, "events.read": events.Rules} {
		for method, roles := range table {
			rule := auth.Rule{Scope: scope}
			for _, role := range roles {
				rule.Roles = append(rule.Roles, auth.Role(role))
			}
			// A report has no name: the reports service ties it to the account.
			rule.SelfScoped = slices.Contains(rule.Roles, auth.Consumer)
			if method == eventsv1.Events_RedriveDeadLetters_FullMethodName {
				rule.Scope = "events.write"
			}
			all[method] = rule
		}
	}
	return all
}
