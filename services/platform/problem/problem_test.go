package problem_test

import (
	"encoding/json"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tollway/tollway/services/platform/problem"
)

func TestWrite(t *testing.T) {
	for _, tc := range []struct {
		name          string
		status        int
		title, detail string
		extra         map[string]any
		want          map[string]any
	}{
		{"plain", 404, "", "", nil, map[string]any{"type": "about:blank", "status": 404.0, "title": "Not Found"}},
		{"full", 413, "Body too large", `limit is "1 MiB"`, map[string]any{"limit_bytes": 1048576},
			map[string]any{"type": "about:blank", "status": 413.0, "title": "Body too large", "detail": `limit is "1 MiB"`, "limit_bytes": 1048576.0}},
		{"standard members win", 400, "Bad", "", map[string]any{"status": 200, "detail": "x", "title": "y"},
			map[string]any{"type": "about:blank", "status": 400.0, "title": "Bad"}},
		{"unencodable extra", 500, "Broken", "why", map[string]any{"f": func() {}},
			map[string]any{"type": "about:blank", "status": 500.0, "title": "Broken", "detail": "why"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rec := httptest.NewRecorder()
			problem.Write(rec, tc.status, tc.title, tc.detail, tc.extra)
			var got map[string]any
			if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			if rec.Code != tc.status || rec.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("answered %d %q", rec.Code, rec.Header().Get("Content-Type"))
			}
		})
	}
}
