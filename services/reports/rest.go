package reports

import (
	"context"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tollway/tollway/services/platform/problem"
)

// JSON is how the REST gateway must write and read the messages of the API:
// with the names of the schema, every field present, and a request's unknown
// field an error.
func JSON() runtime.Marshaler {
	return &runtime.JSONPb{MarshalOptions: protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}}
}

// Problem is how the REST gateway must write errors: as problem details, with
// the gRPC code beside.
func Problem(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	s := status.Convert(err)
	if s.Code() == codes.Unauthenticated {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	problem.Write(w, runtime.HTTPStatusFromCode(s.Code()), "", s.Message(), map[string]any{"code": s.Code().String()})
}
