package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// countingAPI answers queries about unattributed calls: 100 of them, of which 30
// brought no credential and 7 an unknown one.
func countingAPI(t *testing.T) (filters *[]string) {
	t.Helper()
	t.Chdir(t.TempDir()) // no token of a running Tollway is used
	t.Setenv("TOLLWAY_TOKEN", "")
	filters = new([]string)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q reportRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.URL.Path != "/v1/reports:query" {
			t.Errorf("asked %s: %v", r.URL, err)
		}
		*filters = append(*filters, q.Filter)
		answer := `{"rows":[{"calls":100}]}`
		switch by := strings.Join(q.Dimensions, ","); {
		case by == "api,host,method,path":
			answer = `{"rows":[
				{"api":"(not set)","host":"a","method":"GET","path":"/v1/orders/17","calls":8},
				{"api":"(not set)","host":"a","method":"GET","path":"/v1/carts","calls":10},
				{"api":"(not set)","host":"a","method":"GET","path":"/v1/orders/3f2504e0-4f89","calls":7}]}`
		case by == "credential":
			answer = `{"rows":[{"credential":"client:https://issuer#shop","calls":7}]}`
		case by != "":
			t.Errorf("asked by %s", by)
		case strings.HasPrefix(q.Filter, `account = "(not set)" AND credential = `):
			answer = `{"rows":[{"calls":30}]}`
		case strings.HasPrefix(q.Filter, `account = "(not set)" AND credential != `):
			answer = `{"rows":[{"calls":7}]}`
		case strings.HasPrefix(q.Filter, `account != `):
			answer = `{"rows":[]}`
		}
		_, _ = io.WriteString(w, answer) // the client tells what it got
	}))
	t.Cleanup(server.Close)
	t.Setenv("TOLLWAY_SERVER", server.URL)
	return filters
}

func TestUnattributed(t *testing.T) {
	filters := countingAPI(t)
	out, err := run(t, newReportCommand(), "unattributed", "--from", "2026-11-01", "--to", "2026-11-02", "--filter", "api = a OR api = b", "--top", "1")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"2026-11-01T00:00:00Z to 2026-11-02T00:00:00Z: 100 calls\n", "no credential          30  30.00 %",
		"unknown credential      7   7.00 %", "(not set)  a     GET     /v1/orders/{}     15\n", "client:https://issuer#shop      7\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if strings.Contains(out, "carts") {
		t.Errorf("more than asked for:\n%s", out)
	}
	for _, f := range (*filters)[1:] {
		if !strings.HasSuffix(f, ` AND (api = a OR api = b)`) {
			t.Errorf("asked for %s", f)
		}
	}
}

func TestUnattributedOutputs(t *testing.T) {
	countingAPI(t)
	csv, err := run(t, newReportCommand(), "unattributed", "-o", "csv")
	if want := "reason,calls,credential,host,method,path,account,app,api,operation\n" +
		"no credential,15,,a,GET,/v1/orders/{},,,(not set),\nno credential,10,,a,GET,/v1/carts,,,(not set),\n" +
		"unknown credential,7,client:https://issuer#shop,,,,,,,\n"; err != nil || csv != want {
		t.Errorf("csv is %s, %v; want %s", csv, err, want)
	}
	text, err := run(t, newReportCommand(), "unattributed", "-o", "json")
	var answer unattributed
	if err != nil || json.Unmarshal([]byte(text), &answer) != nil || answer.Calls != 100 || len(answer.Reasons) != 4 ||
		answer.Reasons[0].Share != 0.3 || answer.Reasons[1].Top[0].Values["credential"] != "client:https://issuer#shop" {
		t.Errorf("json is %s, %v", text, err)
	}
	if _, err := run(t, newReportCommand(), "unattributed", "-o", "xml"); err == nil {
		t.Error("xml was taken")
	}
}

func TestLikeness(t *testing.T) {
	for path, want := range map[string]string{
		"/v1/orders/17": "/v1/orders/{}", "/v1/orders": "/v1/orders", "/a/3f2504e0-4f89-11d3": "/a/{}", "(not set)": "(not set)",
		"/x/" + strings.Repeat("a", 41): "/x/{}", "/v2beta1/x": "/v2beta1/x", "/": "/",
	} {
		if got := likeness(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
