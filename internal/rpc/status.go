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

// Details maps the parts of a problem that only one contract has messages for.
type Details interface {
	// Encode makes the details that a problem calls for.
	Encode(p *problem.Problem) []protoadapt.MessageV1
	// Decode reads one detail into a problem. It ignores messages of others.
	Decode(detail any, p *problem.Problem)
}

// Status is the problem as gRPC has it.
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
	if err != nil { // the details can be encoded, and the code is not OK
		panic(err)
	}
	return s
}

// ReadProblem reads the problem in a call's error. It is tolerant: a status
// without our details, such as a proxy's, is read by its code alone.
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
