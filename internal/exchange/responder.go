package exchange

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"roundtrip/internal/problem"
)

// Responder is what answering has in common on every wire: one limit on the
// requests in flight, which all wires of a service share, one line in the log for
// each request, and panics that become problems. It is safe for concurrent use.
//
// More requests than a service can work on only make all of them late, so above
// the limit they are shed before any work is done. The last fifth of the limit is
// kept for requests with priority: those that finish what was begun and so give
// something back. They are shed last.
//
// Every request is admitted before its handler runs. The few operations for which
// that is different are listed in [ResponderOptions].
type Responder struct {
	options ResponderOptions
	used    atomic.Int64
}

// ResponderOptions are those of a [Responder].
type ResponderOptions struct {
	Logger *slog.Logger
	// MaxInFlight bounds the requests that are worked on at the same time.
	MaxInFlight int
	// Admission lists the operations that are not admitted as usual.
	Admission map[string]Admission
	// Observe is told of every request once it is answered; it may be nil.
	Observe func(RequestObservation)
	// Around wraps every handler. It may be nil. Tests use it to inject faults.
	Around func(operation string, handle func() error) error
}

// RequestObservation is what is known of a request that was answered.
type RequestObservation struct {
	Wire, Operation, RequestID string
	// Outcome is that of [Outcome], or "unknown" where the answer says so.
	Outcome  string
	Duration time.Duration
	// Shed says that it was refused because too many were in flight.
	Shed bool
}

// NewResponder makes a Responder.
func NewResponder(o ResponderOptions) *Responder {
	if o.Observe == nil {
		o.Observe = func(RequestObservation) {}
	}
	return &Responder{options: o}
}

// Logger is where its requests are logged.
func (r *Responder) Logger() *slog.Logger { return r.options.Logger }

// Received is one request from its arrival to its answer.
type Received struct {
	// Operation is what it asks for, as the contract names it.
	Operation string

	responder      *Responder
	wire           string
	id             string
	attempt        int
	began          time.Time
	admitted, shed bool
}

type receivedKey struct{}

// Receive begins a request. The id is the caller's, or, where that can't be used,
// a new one. Both it and the request are in the context that it returns. The attempt
// is what the caller calls it, for the log. The trace that the request belongs to is
// in ctx already ([WithTrace]).
func (r *Responder) Receive(ctx context.Context, wire, operation, id, attempt string) (context.Context, *Received) {
	if !ValidRequestID(id) {
		id = NewRequestID()
	}
	q := &Received{Operation: operation, responder: r, wire: wire, id: id, began: time.Now()}
	q.attempt, _ = strconv.Atoi(attempt) // 0 is none
	return context.WithValue(WithRequestID(ctx, id), receivedKey{}, q), q
}

// ID is the request's id.
func (q *Received) ID() string { return q.id }

// Admission says how the requests of an operation are admitted.
type Admission int

const (
	// AdmitOrdinary admits a request before its handler runs: the default.
	AdmitOrdinary Admission = iota
	// AdmitPriority does the same, with priority.
	AdmitPriority
	// AdmitByHandler leaves it to the handler, which calls [Admit] once it has read
	// enough of the request to know its priority. A handler that succeeds without
	// doing so is answered as an internal error.
	AdmitByHandler
)

// Admit counts the request among those in flight, or returns overloaded, unless
// that is its handler's to do. Every wire calls it before the handler.
func (q *Received) Admit() error {
	switch q.responder.options.Admission[q.Operation] {
	case AdmitByHandler:
		return nil
	case AdmitPriority:
		return q.admit(true)
	}
	return q.admit(false)
}

// Admit is for the handler of an operation with [AdmitByHandler], which calls it
// once.
func Admit(ctx context.Context, priority bool) error {
	return ctx.Value(receivedKey{}).(*Received).admit(priority)
}

func (q *Received) admit(priority bool) error {
	limit := int64(q.responder.options.MaxInFlight)
	if !priority {
		limit -= limit / 5
	}
	// The count never exceeds the limit, not even for a moment: a crowd that is
	// being shed would take room from requests with priority.
	for used := &q.responder.used; ; {
		n := used.Load()
		if n >= limit {
			return q.Shed()
		}
		if used.CompareAndSwap(n, n+1) {
			q.admitted = true
			return nil
		}
	}
}

// Shed refuses the request as overloaded: for a wire that has too much to even
// look at it.
func (q *Received) Shed() error {
	q.shed = true
	return problem.New(problem.Overloaded, "Too many requests are in flight.")
}

// Run runs the handler, turns its panic into an error, and gives its place back.
// A panic with one of these values goes on: they are the transport's own.
func (q *Received) Run(handle func() error, through ...any) (err error) {
	defer func() {
		if q.admitted {
			q.responder.used.Add(-1)
		}
		v := recover()
		if v == nil {
			return
		}
		for _, own := range through {
			if v == own {
				panic(v)
			}
		}
		err = problem.From(fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
	}()
	if around := q.responder.options.Around; around != nil {
		err = around(q.Operation, handle)
	} else {
		err = handle()
	}
	if err == nil && !q.admitted {
		err = fmt.Errorf("%s was handled without being admitted", q.Operation)
	}
	return err
}

// Problem reads a handler's error; nil for none.
func Problem(err error) *problem.Problem {
	var p *problem.Problem
	switch {
	case err == nil:
		return nil
	case errors.As(err, &p):
		return p
	case errors.Is(err, context.DeadlineExceeded):
		return problem.Wrap(err, problem.DeadlineExceeded, "The deadline passed.")
	case errors.Is(err, context.Canceled):
		return problem.Wrap(err, problem.Unavailable, "The caller hung up.")
	}
	return problem.From(err)
}

// Done logs and reports a request that was answered: with what outcome, and with
// a problem or with none.
func (q *Received) Done(ctx context.Context, outcome string, p *problem.Problem, more ...slog.Attr) {
	duration := time.Since(q.began)
	level := slog.LevelInfo
	attributes := append([]slog.Attr{
		slog.String("request_id", q.id), slog.String("operation", q.Operation), slog.String("wire", q.wire),
		slog.String("outcome", outcome),
	}, more...)
	if q.attempt > 0 {
		attributes = append(attributes, slog.Int("attempt", q.attempt))
	}
	if id := TraceID(ctx); id != "" {
		attributes = append(attributes, slog.String("trace_id", id))
	}
	attributes = append(attributes, slog.Float64("duration_ms", float64(duration.Microseconds())/1000))
	if p != nil && p.Unwrap() != nil {
		attributes = append(attributes, slog.String("error", p.Unwrap().Error()))
		if p.Code == problem.Internal {
			level = slog.LevelError
		}
	}
	q.responder.options.Logger.LogAttrs(ctx, level, "exchange", attributes...)
	q.responder.options.Observe(RequestObservation{
		Wire: q.wire, Operation: q.Operation, RequestID: q.id, Outcome: outcome, Duration: duration, Shed: q.shed,
	})
}

// Outcome is "ok", "canceled" where a caller hung up, or the problem's code. A
// code that is not in the table is "other": a stranger does not name our time series.
func Outcome(p *problem.Problem) string {
	switch {
	case p == nil:
		return "ok"
	case errors.Is(p, context.Canceled):
		return "canceled"
	case !p.Code.Known():
		return "other"
	}
	return string(p.Code)
}
