package rpc

import (
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"roundtrip/internal/problem"
)

// domain marks an ErrorInfo whose reason is one of this project's codes.
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

// Details encodes and decodes the parts of a problem for which only the service's
// contract has messages.
type Details interface {
	// Encode makes the details for a problem.
	Encode(p *problem.Problem) []protoadapt.MessageV1
	// Decode reads one detail into a problem. It ignores messages that it does not know.
	Decode(detail any, p *problem.Problem)
}

// Status converts a problem to a gRPC status.
func Status(p *problem.Problem, contract Details) *status.Status {
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
	details = append(details, contract.Encode(p)...)
	s, err := status.New(code, message).WithDetails(details...)
	if err != nil { // can't happen: the details can be encoded, and the code is not OK
		panic(err)
	}
	return s
}

// ReadProblem reads the problem in a call's error. It is tolerant: if a status has no
// details of this project, for example a proxy's, only its code counts.
func ReadProblem(err error, contract Details) *problem.Problem {
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
		default:
			contract.Decode(detail, p)
		}
	}
	if p.Code == "" {
		return bare(s, err)
	}
	if p.Detail == p.Code.Title() {
		p.Detail = "" // Status used the title because there was no detail
	}
	return p
}

// bare reads a status without this project's details.
func bare(s *status.Status, err error) *problem.Problem {
	code := problem.Internal
	switch s.Code() {
	case codes.Unavailable:
		// The library makes it when a connection failed or is about to close.
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
		// As in [problem.Foreign]: it does not come from the other service.
		return problem.Wrap(err, problem.Unavailable, "Another server answered.")
	case codes.Unimplemented:
		code = problem.MethodNotAllowed
	case codes.ResourceExhausted:
		code = problem.TooLarge // the library makes it for a message above the limit
	}
	return problem.New(code, "The answer has the status %s and no problem.", s.Code())
}
