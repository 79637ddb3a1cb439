package extauthz

import (
	"context"
	"encoding/json"
	"net/http"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tollway/tollway/services/platform/problem"
)

// Method is the full name of the gRPC method, for access rules.
const Method = authv3.Authorization_Check_FullMethodName

// Register adds the service to a gRPC server.
func (s *Server) Register(server *grpc.Server) { authv3.RegisterAuthorizationServer(server, s) }

// Headers that an admission sets for the upstream and for other filters of the
// gateway, in place of what the client may have sent under their names.
const (
	headerSubject    = "x-tollway-subject"    // the app
	headerCredential = "x-tollway-credential" // the credential's id
)

// environmentExtension is the context extension by which a gateway says where
// it is.
const environmentExtension = "environment"

// Check decides about one call.
func (s *Server) Check(ctx context.Context, in *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	a := in.GetAttributes()
	h := a.GetRequest().GetHttp()
	headers := h.GetHeaders()
	r := request{
		method: h.GetMethod(), host: h.GetHost(), path: h.GetPath(), authorization: headers["authorization"],
		principal: a.GetSource().GetPrincipal(), environment: a.GetContextExtensions()[environmentExtension],
		header: func(name string) string { return headers[name] },
	}
	if r.environment == "" {
		r.environment = s.cfg.Environment
	}
	d, err := s.decide(ctx, &r)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	answer := &authv3.CheckResponse{DynamicMetadata: metadata(&d)}
	if d.admitted() {
		answer.Status = &statuspb.Status{Code: int32(codes.OK)}
		answer.HttpResponse = &authv3.CheckResponse_OkResponse{OkResponse: s.admission(&d)}
		return answer, nil
	}
	answer.Status = &statuspb.Status{Code: int32(codes.PermissionDenied), Message: d.reason}
	answer.HttpResponse = &authv3.CheckResponse_DeniedResponse{DeniedResponse: refusal(&d)}
	return answer, nil
}

func metadata(d *decision) *structpb.Struct {
	m := &structpb.Struct{Fields: make(map[string]*structpb.Value, 12)}
	d.facts(func(name, value string) { m.Fields[name] = structpb.NewStringValue(value) })
	return m
}

func (s *Server) admission(d *decision) *authv3.OkHttpResponse {
	ok := &authv3.OkHttpResponse{
		Headers: []*corev3.HeaderValueOption{
			set(headerSubject, d.credential.App.ID), set(headerCredential, d.credential.ID),
		},
		HeadersToRemove:         s.cfg.KeyHeaders,
		QueryParametersToRemove: s.cfg.KeyParameters,
	}
	if d.bearerKey {
		ok.HeadersToRemove = append([]string{"authorization"}, s.cfg.KeyHeaders...)
	}
	return ok
}

func set(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// refusal is the answer that the client gets.
func refusal(d *decision) *authv3.DeniedHttpResponse {
	denied := &authv3.DeniedHttpResponse{
		Status:  &typev3.HttpStatus{Code: typev3.StatusCode(d.status)},
		Headers: []*corev3.HeaderValueOption{set("content-type", problem.ContentType), set("cache-control", "no-store")},
		Body:    bodies[d.reason],
	}
	if d.status == http.StatusUnauthorized {
		denied.Headers = append(denied.Headers, set("www-authenticate", challenge))
	}
	return denied
}

// challenge says how to identify oneself.
const challenge = `Bearer realm="api"`

// bodies are the problem details of each reason.
var bodies = func() map[string]string {
	out := make(map[string]string, len(details))
	for reason, detail := range details {
		code := statusOf(reason)
		body, err := json.Marshal(map[string]any{
			"type": "about:blank", "title": http.StatusText(code), "status": code, "detail": detail, "reason": reason,
		})
		if err != nil {
			panic(err) // of constants
		}
		out[reason] = string(body)
	}
	return out
}()

func statusOf(reason string) int {
	switch reason {
	case noCredential, unknownCredential, invalidToken, revokedCredential, expiredCredential:
		return http.StatusUnauthorized
	}
	return http.StatusForbidden
}
