package schemas_test

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/reflect/protoreflect"
)

var fieldPattern = regexp.MustCompile(`(?m)^\s+(repeated )?(\w+) (\w+) = (\d+);`)

// TestThirdParty holds the declarations that generation reads against those
// that the generated code is linked with.
func TestThirdParty(t *testing.T) {
	text, err := os.ReadFile("third_party/google/api/http.proto")
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]string{} // field names in the file are unique
	for _, m := range fieldPattern.FindAllStringSubmatch(string(text), -1) {
		declared[m[3]] = m[1] + m[2] + " " + m[4]
	}
	messages := annotations.File_google_api_http_proto.Messages()
	for i := range messages.Len() {
		fields := messages.Get(i).Fields()
		for j := range fields.Len() {
			f := fields.Get(j)
			if got, want := declared[string(f.Name())], describe(f); got != want {
				t.Errorf("%s is declared as %q in third_party and is %q", f.FullName(), got, want)
			}
		}
	}
	text, err = os.ReadFile("third_party/google/api/annotations.proto")
	if err != nil {
		t.Fatal(err)
	}
	m := fieldPattern.FindStringSubmatch(string(text))
	if m == nil || m[4] != strconv.Itoa(int(annotations.E_Http.TypeDescriptor().Number())) {
		t.Errorf("the number of the http option is not %d in third_party: %q", annotations.E_Http.TypeDescriptor().Number(), m)
	}
}

func describe(f protoreflect.FieldDescriptor) string {
	kind := f.Kind().String()
	if f.Message() != nil {
		kind = string(f.Message().Name())
	}
	if f.IsList() {
		kind = "repeated " + kind
	}
	return kind + " " + strconv.Itoa(int(f.Number()))
}
