package rpc

import (
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
	"roundtrip/internal/problem"
)

// domain says in an ErrorInfo that its reason is one of our codes.
const domain = "roundtrip"

var statusCodes = map[problem.Code]codes.Code{
	problem.Invalid:            codes.InvalidArgument,
	problem.Unauthenticated:    codes.Unauthenticated,
	problem.Forbidden:          codes.PermissionDenied,
	problem.NotFound:           codes.NotFound,
	problem.MethodNotAllowed:   codes.Unimplemented,
	problem.InsufficientStock:  codes.FailedPrecondition,
	problem.ReservationExpired: codes.FailedPrecondition,
	problem.WrongState:         codes.FailedPrecondition,
	problem.BelowReserved:      codes.FailedPrecondition,
	problem.StaleSeq:           codes.Aborted,
	problem.PreconditionFailed: codes.FailedPrecondition,
	problem.TooLarge:           codes.InvalidArgument,
	problem.UnsupportedMedia:   codes.InvalidArgument,
	problem.KeyReused:          codes.AlreadyExists,
	problem.SeqReused:          codes.AlreadyExists,
	problem.RateLimited:        codes.ResourceExhausted,
	problem.Internal:           codes.Internal,
	problem.Overloaded:         codes.Unavailable,
	problem.Unavailable:        codes.Unavailable,
	problem.DeadlineExceeded:   codes.DeadlineExceeded,
}

// Status is the problem as gRPC has it.
func Status(p *problem.Problem) *status.Status {
	code, ok := statusCodes[p.Code]
	if !ok {
		code = codes.Internal
	}
	message := p.Detail
	if message == "" {
		message = p.Code.Title()
	}
	details := []protoadapt.MessageV1{
		&errdetails.ErrorInfo{Reason: strings.ToUpper(strings.ReplaceAll(string(p.Code), "-", "_")), Domain: domain},
	}
	if wait, ok := p.Wait(); ok && p.Code.Retry() == problem.After {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(wait)})
	}
	if len(p.Errors) > 0 {
		bad := &errdetails.BadRequest{}
		for _, e := range p.Errors {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: e.Pointer, Description: e.Detail})
		}
		details = append(details, bad)
	}
	if len(p.Shortages) > 0 {
		short := &inventoryv1.Shortages{}
		for _, s := range p.Shortages {
			short.Shortages = append(short.Shortages, &inventoryv1.Shortage{
				Sku: s.SKU, Location: s.Location, Requested: s.Requested, Available: s.Available,
			})
		}
		details = append(details, short)
	}
	if c := p.Current; c != nil {
		details = append(details, &inventoryv1.Current{Id: c.ID, Seq: c.Seq, State: State(c.State)})
	}
	s, err := status.New(code, message).WithDetails(details...)
	if err != nil { // the details are messages of ours, and the code is not OK
		panic(err)
	}
	return s
}

// ReadProblem reads the problem in a call's error. It is tolerant: a status
// without our details, such as a proxy's, is read by its code alone.
func ReadProblem(err error) *problem.Problem {
	s := status.Convert(err)
	p := &problem.Problem{Detail: s.Message()}
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == domain {
				p.Code = problem.Code(strings.ToLower(strings.ReplaceAll(d.GetReason(), "_", "-")))
			}
		case *errdetails.RetryInfo:
			p.RetryAfter = min(max(0, d.GetRetryDelay().AsDuration()), time.Hour)
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				p.Errors = append(p.Errors, problem.FieldError{Pointer: v.GetField(), Detail: v.GetDescription()})
			}
		case *inventoryv1.Shortages:
			for _, x := range d.GetShortages() {
				p.Shortages = append(p.Shortages, problem.Shortage{
					SKU: x.GetSku(), Location: x.GetLocation(), Requested: x.GetRequested(), Available: x.GetAvailable(),
				})
			}
		case *inventoryv1.Current:
			p.Current = &problem.Current{ID: d.GetId(), Seq: d.GetSeq(), State: StateName(d.GetState())}
		}
	}
	if p.Code == "" {
		return bare(s, err)
	}
	if p.Detail == p.Code.Title() {
		p.Detail = "" // it stood in for one
	}
	return p
}

// bare reads a status that is not ours.
func bare(s *status.Status, err error) *problem.Problem {
	code := problem.Internal
	switch s.Code() {
	case codes.Unavailable:
		// The library's own: the connection failed, or is about to close.
		return problem.Wrap(err, problem.Unavailable, "The connection failed.")
	case codes.DeadlineExceeded, codes.Canceled:
		return problem.Wrap(err, problem.DeadlineExceeded, "There was no answer in time.")
	case codes.InvalidArgument:
		code = problem.Invalid
	case codes.Unauthenticated:
		code = problem.Unauthenticated
	case codes.PermissionDenied:
		code = problem.Forbidden
	case codes.NotFound:
		// As with [problem.Foreign]: it is not the other service that says so.
		return problem.Wrap(err, problem.Unavailable, "Somebody else answered.")
	case codes.Unimplemented:
		code = problem.MethodNotAllowed
	case codes.ResourceExhausted:
		code = problem.TooLarge // the library's own: a message above the limit
	}
	return problem.New(code, "The answer was a status %s without a problem.", s.Code())
}

const statePrefix = "RESERVATION_STATE_"

// State is the enum's value of a state's name; unspecified for a name that has none.
func State(name string) inventoryv1.ReservationState {
	return inventoryv1.ReservationState(inventoryv1.ReservationState_value[statePrefix+strings.ToUpper(name)])
}

// StateName is a state's name as REST has it; "" for unspecified. A value that
// this build does not know has a name that no state has.
func StateName(s inventoryv1.ReservationState) string {
	if s == inventoryv1.ReservationState_RESERVATION_STATE_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(s.String(), statePrefix))
}
