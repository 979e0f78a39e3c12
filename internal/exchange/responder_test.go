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

func TestEveryCodeIsAnOutcome(t *testing.T) {
	t.Parallel()
	for _, code := range problem.Codes() {
		if got := exchange.Outcome(problem.New(code, "")); got != string(code) {
			t.Errorf("%s is %q", code, got)
		}
	}
	if got := exchange.Outcome(nil); got != "ok" {
		t.Errorf("no problem is %q", got)
	}
	if got := exchange.Outcome(problem.New("teapot", "")); got != "other" {
		t.Errorf("a stranger is %q", got)
	}
	if got := exchange.Outcome(exchange.Problem(context.Canceled)); got != "canceled" {
		t.Errorf("who hung up is %q", got)
	}
}

// All wires share the places in flight, and the last fifth is for requests with
// priority.
func TestPlacesAreSharedByAllWires(t *testing.T) {
	t.Parallel()
	var sheds atomic.Int64
	r := exchange.NewResponder(exchange.ResponderOptions{Logger: slog.New(slog.DiscardHandler), MaxInFlight: 5, Observe: func(a exchange.RequestObservation) {
		if a.Shed {
			sheds.Add(1)
		}
	}})
	take := func(wire string, priority bool) (admitted bool, leave func()) {
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
	var leave func()
	for i, wire := range []string{"http", "grpc", "nats", "http"} {
		ok, l := take(wire, false)
		if !ok {
			t.Fatalf("%d are refused", i)
		}
		leave = l
		if i < 3 {
			defer l()
		}
	}
	if ok, l := take("grpc", false); ok {
		l()
		t.Error("a fifth one took the place that is kept")
	}
	ok, l := take("grpc", true)
	if !ok {
		t.Fatal("the place that is kept was not given")
	}
	if ok, l := take("nats", true); ok {
		l()
		t.Error("six were let in")
	}
	l()
	leave()
	ok, l = take("nats", false)
	if !ok {
		t.Fatal("a place that was left is not given again")
	}
	l()
	if n := sheds.Load(); n != 2 {
		t.Errorf("%d sheds were reported", n)
	}
}

// A panic is a problem that gives nothing away, and gives its place back; the
// transport's own go through.
func TestAPanicIsAProblem(t *testing.T) {
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
		t.Errorf("the log does not say what failed and why: %s", log)
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

func TestAnErrorIsReadAsAProblem(t *testing.T) {
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
			t.Errorf("%v is %+v", c.err, p)
		}
	}
}
