package exchange_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

func TestOutcomeOfEveryCode(t *testing.T) {
	t.Parallel()
	for _, code := range problem.Codes() {
		if got := exchange.Outcome(problem.New(code, "")); got != string(code) {
			t.Errorf("%s is %q", code, got)
		}
	}
	if got := exchange.Outcome(nil); got != "ok" {
		t.Errorf("the outcome without a problem is %q", got)
	}
	if got := exchange.Outcome(problem.New("teapot", "")); got != "other" {
		t.Errorf("the outcome of an unknown code is %q", got)
	}
	if got := exchange.Outcome(exchange.Problem(context.Canceled)); got != "canceled" {
		t.Errorf("the outcome of a hang-up is %q", got)
	}
}

// All wires share one in-flight limit. Its last fifth is for requests with
// priority.
func TestWiresShareOneInFlightLimit(t *testing.T) {
	t.Parallel()
	var sheds atomic.Int64
	r := exchange.NewResponder(exchange.ResponderOptions{Logger: slog.New(slog.DiscardHandler), MaxInFlight: 5, Observe: func(a exchange.RequestObservation) {
		if a.Shed {
			sheds.Add(1)
		}
	}})
	take := func(wire string, priority bool) (admitted bool, release func()) {
		ctx, q := r.Receive(t.Context(), wire, "Get", "", "")
		entered, hold, left := make(chan error), make(chan struct{}), make(chan struct{})
		go func() {
			defer close(left)
			err := q.Run(func() error {
				err := exchange.Admit(ctx, priority)
				entered <- err
				if err == nil {
					<-hold
				}
				return err
			})
			q.Done(ctx, exchange.Outcome(exchange.Problem(err)), exchange.Problem(err))
		}()
		err := <-entered
		if err != nil && problem.CodeOf(err) != problem.Overloaded {
			t.Error(err)
		}
		return err == nil, func() { close(hold); <-left }
	}
	var release func()
	for i, wire := range []string{"http", "grpc", "nats", "http"} {
		ok, l := take(wire, false)
		if !ok {
			t.Fatalf("request %d was refused", i)
		}
		release = l
		if i < 3 {
			defer l()
		}
	}
	if ok, l := take("grpc", false); ok {
		l()
		t.Error("a fifth request without priority was admitted")
	}
	ok, l := take("grpc", true)
	if !ok {
		t.Fatal("a fifth request with priority was refused")
	}
	if ok, l := take("nats", true); ok {
		l()
		t.Error("a sixth request was admitted")
	}
	l()
	release()
	ok, l = take("nats", false)
	if !ok {
		t.Fatal("no request was admitted after a release")
	}
	l()
	if n := sheds.Load(); n != 2 {
		t.Errorf("%d sheds were observed, want 2", n)
	}
}

// A panic becomes a problem that discloses nothing, and its request no longer
// counts as in flight. Panics of the transport itself pass through.
func TestPanicBecomesAnInternalProblem(t *testing.T) {
	t.Parallel()
	log := new(strings.Builder)
	r := exchange.NewResponder(exchange.ResponderOptions{Logger: slog.New(slog.NewTextHandler(log, nil)), MaxInFlight: 1})
	for range 3 {
		ctx, q := r.Receive(t.Context(), "nats", "Get", "r-1", "2")
		p := exchange.Problem(q.Run(func() error {
			if err := exchange.Admit(ctx, true); err != nil {
				t.Error(err)
			}
			panic("hunter2")
		}))
		q.Done(ctx, exchange.Outcome(p), p)
		if p == nil || p.Code != problem.Internal || strings.Contains(p.Detail, "hunter2") || exchange.RequestID(ctx) != "r-1" {
			t.Errorf("got %+v", p)
		}
	}
	if !strings.Contains(log.String(), "hunter2") || !strings.Contains(log.String(), "request_id=r-1 operation=Get wire=nats outcome=internal attempt=2") {
		t.Errorf("the log lacks the panic or its request: %s", log)
	}
	own := errors.New("the transport's own")
	defer func() {
		if v := recover(); v != own {
			t.Errorf("recovered %v", v)
		}
	}()
	_, q := r.Receive(t.Context(), "http", "Get", "", "")
	_ = q.Run(func() error { panic(own) }, own)
}

func TestErrorBecomesAProblem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want problem.Code
	}{
		{fmt.Errorf("in the store: %w", problem.New(problem.WrongState, "")), problem.WrongState},
		{fmt.Errorf("asking: %w", context.DeadlineExceeded), problem.DeadlineExceeded},
		{context.Canceled, problem.Unavailable},
		{errors.New("hunter2"), problem.Internal},
	} {
		if p := exchange.Problem(c.err); p.Code != c.want || strings.Contains(p.Detail, "hunter2") {
			t.Errorf("%v became %+v", c.err, p)
		}
	}
}
