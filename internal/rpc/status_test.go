package rpc_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"roundtrip/internal/problem"
	"roundtrip/internal/rpc"
)

// current is a contract with a message only for the id of the current reservation.
type current struct{}

func (current) Encode(p *problem.Problem) []protoadapt.MessageV1 {
	if p.Current == nil {
		return nil
	}
	return []protoadapt.MessageV1{wrapperspb.String(p.Current.ID)}
}

func (current) Decode(detail any, p *problem.Problem) {
	if id, ok := detail.(*wrapperspb.StringValue); ok {
		p.Current = &problem.Current{ID: id.GetValue()}
	}
}

// A proxy or a library that does not know this project sees only the status.
func TestEveryCodeHasAStatus(t *testing.T) {
	t.Parallel()
	notOnThisWire := map[problem.Code]bool{problem.GivenUp: true, problem.OperationPending: true} // only orders has these
	for _, code := range problem.Codes() {
		p := problem.New(code, "what a person reads")
		s := rpc.Status(p, current{})
		if s.Code() == codes.Internal && code != problem.Internal && !notOnThisWire[code] {
			t.Errorf("%s has no status", code)
		}
		if wantRetry := code == problem.Unavailable || code == problem.Overloaded; wantRetry != (s.Code() == codes.Unavailable) {
			t.Errorf("%s is %s: libraries and proxies retry only UNAVAILABLE", code, s.Code())
		}
	}
}

func TestProblemIsReadAsItWasSent(t *testing.T) {
	t.Parallel()
	for _, code := range append(problem.Codes(), "of-tomorrow") {
		want := &problem.Problem{
			Code: code, Detail: "what a person reads",
			Errors:  []problem.FieldError{{Pointer: "/lines/0/sku", Detail: "is not a SKU"}, {Pointer: "", Detail: "is too long"}},
			Current: &problem.Current{ID: "o"},
		}
		if code.Retry() == problem.After {
			want.RetryAfter = 3 * time.Second
		}
		if got := rpc.ReadProblem(rpc.Status(want, current{}).Err(), current{}); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: sent %+v, read %+v", code, want, got)
		}
	}
	if got := rpc.ReadProblem(rpc.Status(problem.New(problem.Overloaded, ""), current{}).Err(), current{}); got.Detail != "" || got.RetryAfter != time.Second {
		t.Errorf("without a detail: %+v", got)
	}
}

func TestCauseIsNotSent(t *testing.T) {
	t.Parallel()
	s := rpc.Status(problem.Wrap(errors.New("hunter2"), problem.Internal, "The request could not be handled."), current{})
	if text := fmt.Sprintf("%+v %v %v", s.Proto(), s.Details(), s.Err()); strings.Contains(text, "hunter2") {
		t.Error(text)
	}
}

// These statuses come from a proxy, another service or the library itself.
func TestForeignStatus(t *testing.T) {
	t.Parallel()
	want := map[codes.Code]problem.Code{
		codes.InvalidArgument: problem.Invalid, codes.Unauthenticated: problem.Unauthenticated, codes.PermissionDenied: problem.Forbidden,
		codes.NotFound: problem.Unavailable, codes.Unimplemented: problem.MethodNotAllowed, codes.ResourceExhausted: problem.TooLarge,
		codes.Unavailable: problem.Unavailable, codes.DeadlineExceeded: problem.DeadlineExceeded, codes.Canceled: problem.DeadlineExceeded,
	}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		wanted, ok := want[code]
		if !ok {
			wanted = problem.Internal
		}
		strange, err := status.New(code, "hello").WithDetails(&errdetails.ErrorInfo{Reason: "STALE_SEQ", Domain: "elsewhere.example"})
		if err != nil {
			t.Fatal(err)
		}
		for name, s := range map[string]*status.Status{"bare": status.New(code, "hello"), "of another domain": strange} {
			if got := rpc.ReadProblem(s.Err(), current{}); got.Code != wanted {
				t.Errorf("%s, %s: read as %s, want %s", code, name, got.Code, wanted)
			}
		}
	}
	if got := rpc.ReadProblem(errors.New("no status at all"), current{}); got.Code != problem.Internal {
		t.Errorf("no status is %+v", got)
	}
}

func TestDialRefusesInvalidAddresses(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"", "inventory:8082", "http://inventory:8082", "dns:///", "dns://8.8.8.8/inventory:8082"} {
		if c, err := rpc.Dial(target, current{}, nil); err == nil {
			_ = c.Close()
			t.Errorf("%q is accepted", target)
		}
	}
}
