package otlp

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"

	logsv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tollway/tollway/pipelines/call"
)

// Path is where the handler belongs.
const Path = "/v1/logs"

// encoding is one of the two ways in which a request and its answer may be
// written.
type encoding struct {
	contentType string
	unmarshal   func([]byte, proto.Message) error
	marshal     func(proto.Message) ([]byte, error)
}

var (
	protobuf  = encoding{"application/x-protobuf", proto.Unmarshal, proto.Marshal}
	jsonProto = encoding{"application/json", protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal, protojson.Marshal}
)

// ServeHTTP is Export over HTTP, as OTLP/HTTP has it: errors are a
// google.rpc.Status in the encoding of the request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		jsonProto.fail(w, http.StatusMethodNotAllowed, codes.Unimplemented, "only POST is understood")
		return
	}
	enc, err := encodingOf(r.Header.Get("Content-Type"))
	if err != nil {
		jsonProto.fail(w, http.StatusUnsupportedMediaType, codes.InvalidArgument, err.Error())
		return
	}
	body, code, err := s.body(w, r)
	if err != nil {
		enc.fail(w, code, codes.InvalidArgument, err.Error())
		return
	}
	var request logsv1.ExportLogsServiceRequest
	if err := enc.unmarshal(body, &request); err != nil {
		enc.fail(w, http.StatusBadRequest, codes.InvalidArgument, fmt.Sprintf("read the request: %v", err))
		return
	}
	response, err := s.Export(r.Context(), &request)
	if err != nil {
		w.Header().Set("Retry-After", "1")
		enc.fail(w, http.StatusServiceUnavailable, status.Code(err), status.Convert(err).Message())
		return
	}
	enc.write(w, http.StatusOK, response)
}

func encodingOf(contentType string) (encoding, error) {
	media, _, err := mime.ParseMediaType(contentType)
	switch {
	case err == nil && media == protobuf.contentType:
		return protobuf, nil
	case err == nil && media == jsonProto.contentType:
		return jsonProto, nil
	}
	return encoding{}, fmt.Errorf("content type %q is not %s or %s", contentType, protobuf.contentType, jsonProto.contentType)
}

// body reads the request, unpacked, within the limit.
func (s *Server) body(w http.ResponseWriter, r *http.Request) ([]byte, int, error) {
	var in io.Reader = http.MaxBytesReader(w, r.Body, s.cfg.MaxBody)
	switch e := r.Header.Get("Content-Encoding"); e {
	case "", "identity":
	case "gzip":
		unpacked, err := gzip.NewReader(in)
		if err != nil {
			return nil, http.StatusBadRequest, fmt.Errorf("unpack the body: %w", err)
		}
		in = unpacked
	default:
		return nil, http.StatusUnsupportedMediaType, fmt.Errorf("content encoding %q is not gzip or identity", e)
	}
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(in, s.cfg.MaxBody+1))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) || n > s.cfg.MaxBody {
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("the body has more than %d bytes", s.cfg.MaxBody)
	}
	if err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("read the body: %w", err)
	}
	return b.Bytes(), 0, nil
}

// maxMessage bounds the text of an error, in bytes.
const maxMessage = 512

func (e encoding) fail(w http.ResponseWriter, code int, grpcCode codes.Code, message string) {
	// A parser's message quotes what it could not read, which may be no text.
	e.write(w, code, status.New(grpcCode, call.Clean(message, maxMessage)).Proto())
}

func (e encoding) write(w http.ResponseWriter, code int, m proto.Message) {
	b, err := e.marshal(m)
	if err != nil {
		http.Error(w, "write the answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", e.contentType)
	w.WriteHeader(code)
	_, _ = w.Write(b) // the client is gone if this fails
}
