package catalog_test

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"pgregory.net/rapid"

	"github.com/tollway/tollway/pipelines/attribute/operation"
	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/services/platform/testenv"
)

func op(name, method, path string) *catalogv1.Operation {
	return &catalogv1.Operation{Name: "apis/" + name, Method: method, PathTemplate: path}
}

func (e *env) apply(messages ...proto.Message) (*catalogv1.ApplyResponse, error) {
	r := &catalogv1.ApplyRequest{}
	for _, m := range messages {
		r.Resources = append(r.Resources, res(m))
	}
	return e.Apply(manager, r)
}

// Operations can exchange their paths, and issuers their prefixes, in one request.
func TestRealExchange(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		e := newEnv(t, db)
		ok := must[*catalogv1.ApplyResponse](t)
		ok(e.apply(&catalogv1.Api{Name: "apis/a"}, op("a/operations/x", "GET", "/x"), op("a/operations/y", "GET", "/y"), op("a/operations/z", "GET", "/z")))
		ok(e.apply(op("a/operations/x", "GET", "/y"), op("a/operations/y", "GET", "/z"), op("a/operations/z", "GET", "/x")))
		for id, want := range map[string]string{"x": "/y", "y": "/z", "z": "/x"} {
			if got := must[*catalogv1.Operation](t)(e.GetOperation(manager, &catalogv1.GetOperationRequest{Name: "apis/a/operations/" + id})); got.GetPathTemplate() != want {
				t.Errorf("%s is at %s, want %s", id, got.GetPathTemplate(), want)
			}
		}
		// Every place is taken again, by the one that has it now.
		_, err := e.apply(op("a/operations/new", "GET", "/x"))
		refused(t, err, codes.AlreadyExists, "is that of apis/a/operations/z already")
		_, err = e.apply(op("a/operations/x", "GET", "/z"))
		refused(t, err, codes.AlreadyExists, "is that of apis/a/operations/y already")
		// A place that is given up in a request that is refused is not given up.
		_, err = e.apply(op("a/operations/x", "GET", "/x"), op("a/operations/z", "GET", "/free"), op("a/operations/w", "GET", "/z"))
		refused(t, err, codes.AlreadyExists, "resources[2].path_template")
		_, err = e.apply(op("a/operations/new", "GET", "/x"))
		refused(t, err, codes.AlreadyExists, "is that of apis/a/operations/z already")

		entity := func(id, prefix string) *catalogv1.LegalEntity {
			return &catalogv1.LegalEntity{Name: "legalEntities/" + id, LegalName: id, InvoicePrefix: prefix}
		}
		for _, prefixes := range [][2]string{{"A", "B"}, {"B", "A"}} {
			_, err := e.Apply(admin, &catalogv1.ApplyRequest{Resources: []*catalogv1.Resource{res(entity("one", prefixes[0])), res(entity("two", prefixes[1]))}})
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// One call is never of two operations, also of different APIs.
func TestRealMatching(t *testing.T) {
	testenv.EachLedger(t, func(t *testing.T, db *ledger.DB) {
		e := newEnv(t, db)
		ok := must[*catalogv1.ApplyResponse](t)
		host := []string{"api.example.com"}
		ok(e.apply(&catalogv1.Api{Name: "apis/a", Hosts: host, BasePaths: []string{"/v1"}}, op("a/operations/get", "GET", "/orders/{id}")))
		ok(e.apply(
			&catalogv1.Api{Name: "apis/root", Hosts: host}, op("root/operations/get", "GET", "/v1/orders/list"), op("root/operations/put", "PUT", "/v1/orders/{id}"),
			&catalogv1.Api{Name: "apis/other", Hosts: []string{"other.example.com"}, BasePaths: []string{"/v1"}}, op("other/operations/get", "GET", "/orders/{id}"),
			&catalogv1.Api{Name: "apis/wide", Hosts: []string{"*.example.com"}, BasePaths: []string{"/v1"}}, op("wide/operations/get", "GET", "/orders/{id}"),
		))
		_, err := e.apply(op("root/operations/new", "", "/v1/other"), op("root/operations/same", "GET", "/%761/orders/{number}"))
		refused(t, err, codes.AlreadyExists, "resources[1].path_template: apis/root/operations/same would match the same calls as apis/a/operations/get: GET /v1/orders/{} on api.example.com")
		if got := fields(err); !slices.Equal(got, []string{"resources[1].path_template"}) {
			t.Errorf("names %v", got)
		}
		_, err = e.UpdateOperation(manager, &catalogv1.UpdateOperationRequest{Operation: op("root/operations/put", "GET", ""), UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"method"}}})
		refused(t, err, codes.AlreadyExists, "apis/root/operations/put would match the same calls as apis/a/operations/get")
		_, err = e.UpdateApi(manager, &catalogv1.UpdateApiRequest{Api: &catalogv1.Api{Name: "apis/other", Hosts: host}})
		refused(t, err, codes.AlreadyExists, "base_paths: apis/other/operations/get would match the same calls as apis/a/operations/get")
		_, err = e.CreateOperation(manager, &catalogv1.CreateOperationRequest{Parent: "apis/root", Operation: op("", "GET", "/v1/orders/{x}"), ValidateOnly: true, OperationId: "n"})
		if status.Code(err) == codes.OK {
			t.Error("a dry run allows it")
		}
		// Base paths that begin with one another, within one API.
		_, err = e.apply(&catalogv1.Api{Name: "apis/both", BasePaths: []string{"/", "/v2"}}, op("both/operations/x", "GET", "/v2/x"), op("both/operations/y", "GET", "/x"))
		refused(t, err, codes.AlreadyExists, "GET /v2/x on any host")
		// APIs can exchange their places.
		ok(e.apply(
			&catalogv1.Api{Name: "apis/a", Hosts: []string{"other.example.com"}, BasePaths: []string{"/v1"}},
			&catalogv1.Api{Name: "apis/other", Hosts: host, BasePaths: []string{"/v1"}},
		))
	})
}

// TestMatchingFollowsTheMatcher: a write is refused exactly when the catalog after
// it could not be compiled for attribution.
func TestMatchingFollowsTheMatcher(t *testing.T) {
	e := newEnv(t, testenv.Ledger(t))
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		host := fmt.Sprintf("h%d.example", run) // a place of its own for every run
		apis := map[string]*catalogv1.Api{}
		operations := map[string]*catalogv1.Operation{}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			api := fmt.Sprintf("apis/r%d-%s", run, rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "api"))
			var m proto.Message
			if _, there := apis[api]; !there || rapid.IntRange(0, 3).Draw(t, "what") == 0 {
				m = &catalogv1.Api{
					Name: api, Hosts: rapid.SampledFrom([][]string{{host}, {"*." + host}, {host, "x." + host}}).Draw(t, "hosts"),
					BasePaths: rapid.SampledFrom([][]string{nil, {"/"}, {"/v"}, {"/%76"}, {"/v", "/v/w"}, {"/vw"}}).Draw(t, "base"),
				}
			} else {
				m = &catalogv1.Operation{
					Name:         api + "/operations/" + rapid.SampledFrom([]string{"x", "y"}).Draw(t, "operation"),
					Method:       rapid.SampledFrom([]string{"", "GET", "PUT"}).Draw(t, "method"),
					PathTemplate: rapid.SampledFrom([]string{"/", "/v", "/v/x", "/x", "/%78", "/{y}", "/{z}", "/w/x", "/**", "/x/"}).Draw(t, "path"),
				}
			}
			after, afterOperations := clone(apis), clone(operations)
			switch m := m.(type) {
			case *catalogv1.Api:
				after[m.GetName()] = m
			case *catalogv1.Operation:
				afterOperations[m.GetName()] = m
			}
			var rules []operation.Rule
			for name, o := range afterOperations {
				a := after[name[:len(name)-len("/operations/x")]]
				bases := a.GetBasePaths()
				if len(bases) == 0 {
					bases = []string{""}
				}
				for _, base := range bases {
					rules = append(rules, operation.Rule{API: a.GetName(), Operation: name, Hosts: a.GetHosts(), BasePath: base, Method: o.GetMethod(), Template: o.GetPathTemplate()})
				}
			}
			_, want := operation.New(rules)
			_, err := e.apply(m)
			if (err == nil) != (want == nil) || err != nil && status.Code(err) != codes.AlreadyExists {
				t.Fatalf("%v: %v, the matcher says %v", m, err, want)
			}
			if err == nil {
				apis, operations = after, afterOperations
			}
		}
	})
}

func clone[M any](from map[string]M) map[string]M {
	out := make(map[string]M, len(from)+1)
	for k, v := range from {
		out[k] = v
	}
	return out
}
