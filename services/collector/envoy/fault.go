package envoy

import (
	"strings"

	"github.com/tollway/tollway/pipelines/call"
)

// Values of the Denied column.
const (
	DeniedQuota = "quota"
	DeniedAuth  = "auth"
)

const (
	// upstreamFlags say that the upstream did not do its part: it was not
	// there, did not answer in time, broke off, or had no capacity left.
	upstreamFlags = FailedLocalHealthCheck | NoHealthyUpstream | UpstreamRequestTimeout |
		UpstreamRemoteReset | UpstreamConnectionFailure | UpstreamConnectionTermination |
		UpstreamOverflow | UpstreamRetryLimitExceeded | UpstreamMaxStreamDuration |
		UpstreamProtocolError | DNSResolutionFailed
	// clientFlags say that the client gave up or did not speak properly.
	clientFlags = DownstreamConnectionTermination | DownstreamRemoteReset |
		DownstreamProtocolError | InvalidRequestHeaders
	// gatewayFlags say that the gateway has no place for the call or ended it.
	gatewayFlags = NoRouteFound | NoClusterFound | NoFilterConfigFound | OverloadManager |
		FaultInjected | DurationTimeout | StreamIdleTimeout | LocalReset
)

const viaUpstream = "via_upstream"

// blame says who is to blame for a call that failed, and whether a policy of
// the gateway denied it. The order matters: a policy answers before anything
// else happened; a client that leaves while the upstream is at work is the
// client's doing; an answer that came from upstream is judged by its status.
func blame(e *Entry, grpcStatus int16) (fault, denied string) {
	local := e.Details != "" && e.Details != viaUpstream
	if fault, denied = policy(e, local); fault != "" {
		return fault, denied
	}
	switch {
	case e.Flags&clientFlags != 0:
		return call.FaultClient, ""
	case e.Flags&upstreamFlags != 0:
		return call.FaultUpstream, ""
	case e.Flags&gatewayFlags != 0:
		return call.FaultGateway, ""
	case e.TCP:
		return call.FaultNone, ""
	case local:
		return localReply(e.Status), ""
	}
	return answered(e, grpcStatus), ""
}

// policy is the part of blame for answers of quota and authorization.
func policy(e *Entry, local bool) (fault, denied string) {
	switch {
	case strings.HasPrefix(e.Details, "ext_authz_error"), strings.HasPrefix(e.Details, "rate_limiter_error"):
		// The service did not answer: not the caller's doing.
		return call.FaultGateway, ""
	case e.Flags&RateLimited != 0:
		return call.FaultPolicy, DeniedQuota
	case e.Flags&Unauthorized != 0:
		if e.Status == 429 || decidedQuota(e.ExtAuthz[MetaDecision]) {
			return call.FaultPolicy, DeniedQuota
		}
		return call.FaultPolicy, DeniedAuth
	case local && e.Status == 429:
		return call.FaultPolicy, DeniedQuota
	case local && (e.Status == 401 || e.Status == 403), local && e.TCP && strings.HasPrefix(e.Details, "rbac_access_denied"):
		return call.FaultPolicy, DeniedAuth
	}
	return "", ""
}

func decidedQuota(decision string) bool {
	switch decision {
	case "quota", "over_limit", "over_quota", "quota_exceeded", "rate_limited":
		return true
	}
	return false
}

// localReply blames for an answer that Envoy made itself and no flag explains.
func localReply(status uint32) string {
	switch {
	case status >= 500:
		return call.FaultGateway
	case status == 404, status == 405:
		return call.FaultGateway // there is no route for it
	case status >= 400:
		return call.FaultClient // too large, too slow, not understood
	case status == 0:
		return call.FaultGateway
	}
	return call.FaultNone // a redirect or a direct response
}

// answered blames by the answer, when it came from upstream or nothing says
// that it did not.
func answered(e *Entry, grpcStatus int16) string {
	switch {
	case e.Status >= 500:
		if e.Details == "" && e.UpstreamAddress == "" {
			return call.FaultGateway
		}
		return call.FaultUpstream
	case e.Status >= 400:
		return call.FaultClient
	case e.Status == 0:
		return call.FaultGateway
	case grpcStatus > 0:
		return grpcFault(grpcStatus)
	}
	return call.FaultNone
}

// grpcFault is the fault of a call that HTTP says went well.
func grpcFault(status int16) string {
	switch status {
	case 2, 4, 10, 13, 14, 15: // unknown, deadline, aborted, internal, unavailable, data loss
		return call.FaultUpstream
	}
	return call.FaultClient
}
