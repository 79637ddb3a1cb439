package events

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tollway/tollway/pipelines/call"
	eventsv1 "github.com/tollway/tollway/schemas/proto/tollway/events/v1"
)

// maxSpan is the longest time in which FindCalls looks: single calls are not
// ordered by time.
const maxSpan = 24 * time.Hour

// A copy that is not merged away yet is the same call.
const findSQL = `SELECT id, time, source, gateway, path, account, app, product, api, operation, method, status, total_us
FROM calls
WHERE time >= fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND time < fromUnixTimestamp64Micro({to:Int64}, 'UTC')
    AND ({source:String} = '' OR source = {source:String}) AND startsWith(path, {path:String})
    AND ({status:UInt16} = 0 OR status = {status:UInt16})
ORDER BY time DESC, id
LIMIT 1 BY id
LIMIT {limit:UInt32}
SETTINGS max_execution_time = 30`

// FindCalls lists calls that are stored, newest first.
func (s *Server) FindCalls(ctx context.Context, r *eventsv1.FindCallsRequest) (*eventsv1.FindCallsResponse, error) {
	if err := checkFind(r); err != nil {
		return nil, err
	}
	limit := min(int(r.Limit), maxPageSize)
	if limit == 0 {
		limit = defaultPageSize
	}
	answer := &eventsv1.FindCallsResponse{}
	params := map[string]any{
		"from": r.StartTime.AsTime().UnixMicro(), "to": r.EndTime.AsTime().UnixMicro(),
		"source": r.Source, "path": r.PathPrefix, "status": uint16(r.Status), "limit": uint32(limit),
	}
	err := s.deps.Store.Query(ctx, findSQL, params, func(rows Rows) error {
		var id string
		var at time.Time
		var httpStatus uint16
		f, c := &eventsv1.FoundCall{}, &eventsv1.StoredCall{}
		err := rows.Scan(&id, &at, &f.Source, &f.Gateway, &f.Path, &c.Account, &c.App, &c.Product, &c.Api, &c.Operation, &c.Method, &httpStatus, &c.TotalUs)
		if err != nil {
			return err
		}
		c.Status = uint32(httpStatus)
		f.CallId, f.EventTime, f.Call = call.ID([]byte(id)).String(), timestamppb.New(at), c
		answer.Calls = append(answer.Calls, f)
		return nil
	})
	if err != nil {
		return nil, s.failure(err, "find calls")
	}
	return answer, nil
}

func checkFind(r *eventsv1.FindCallsRequest) error {
	switch span := r.EndTime.AsTime().Sub(r.StartTime.AsTime()); {
	case r.StartTime.CheckValid() != nil:
		return status.Error(codes.InvalidArgument, "start_time is required")
	case r.EndTime.CheckValid() != nil:
		return status.Error(codes.InvalidArgument, "end_time is required")
	case span <= 0 || span > maxSpan:
		return status.Errorf(codes.InvalidArgument, "end_time must be after start_time, by %s at most", maxSpan)
	case r.Status > 999:
		return status.Error(codes.InvalidArgument, "status must be an HTTP status, or 0 for any")
	case r.Limit < 0:
		return status.Error(codes.InvalidArgument, "limit must not be negative")
	case len(r.Source) > maxName || len(r.PathPrefix) > maxPath:
		return status.Errorf(codes.InvalidArgument, "source is longer than %d bytes or path_prefix than %d", maxName, maxPath)
	}
	return nil
}

const maxPath = 8 << 10 // bytes
