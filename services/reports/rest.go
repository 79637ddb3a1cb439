package reports

import (
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/encoding/protojson"
)

// JSON is how the REST gateway must write and read the messages of the API:
// with the names of the schema, every field present, and a request's unknown
// field an error.
func JSON() runtime.Marshaler {
	return &runtime.JSONPb{MarshalOptions: protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}}
}
