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

// Responder does what every wire needs to answer requests. It enforces one limit on
// the requests in flight, which all wires of a service share, writes one line in the
// log for each request, and turns panics into problems. It is safe for concurrent use.
//
// If a service worked on more requests than it can handle, all of them would be late.
// So requests above the limit are shed before any work is done. The last fifth of the
// limit is reserved for requests with priority. They finish what an earlier request
// began, and so free resources. They are shed last.
//
// Every request is admitted before its handler runs. [ResponderOptions] lists the few
// operations that are admitted in another way.
type Responder struct {
	options ResponderOptions
	used    atomic.Int64
}

// ResponderOptions are the options of a [Responder].
type ResponderOptions struct {
	Logger *slog.Logger
	// MaxInFlight limits the requests that are worked on at the same time.
	MaxInFlight int
	// Admission lists the operations that are not admitted as usual.
	Admission map[string]Admission
	// Observe is called after every request has been answered. It may be nil.
	Observe func(RequestObservation)
	// Around wraps every handler. It may be nil. Tests use it to inject faults.
	Around func(operation string, handle func() error) error
}

// RequestObservation describes a request that was answered.
type RequestObservation struct {
	Wire, Operation, RequestID string
	// Outcome is the value of [Outcome], or "unknown" if the answer says so.
	Outcome  string
	Duration time.Duration
	// Shed says that the request was refused because too many were in flight.
	Shed bool
}

// NewResponder makes a Responder.
func NewResponder(o ResponderOptions) *Responder {
	if o.Observe == nil {
		o.Observe = func(RequestObservation) {}
	}
	return &Responder{options: o}
}

// Logger returns the logger for the responder's requests.
func (r *Responder) Logger() *slog.Logger { return r.options.Logger }

// Received is one request from its arrival to its answer.
type Received struct {
	// Operation is the name of the operation in the contract.
	Operation string

	responder      *Responder
	wire           string
	id             string
	attempt        int
	began          time.Time
	admitted, shed bool
}

type receivedKey struct{}

// Receive begins a request. It uses the caller's id if that is valid, and otherwise a
// new one. The context that it returns holds the id and the request. attempt is the
// caller's number of the attempt, for the log. ctx already holds the trace that the
// request belongs to ([WithTrace]).
func (r *Responder) Receive(ctx context.Context, wire, operation, id, attempt string) (context.Context, *Received) {
	if !ValidRequestID(id) {
		id = NewRequestID()
	}
	q := &Received{Operation: operation, responder: r, wire: wire, id: id, began: time.Now()}
	q.attempt, _ = strconv.Atoi(attempt) // 0 if there is none
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
	// AdmitByHandler leaves the admission to the handler. The handler calls [Admit] when
	// it has read enough of the request to know its priority. If it succeeds without a
	// call of [Admit], the answer is an internal error.
	AdmitByHandler
)

// Admit counts the request as in flight, or returns overloaded. For an operation with
// [AdmitByHandler] it does nothing. Every wire calls it before the handler.
func (q *Received) Admit() error {
	switch q.responder.options.Admission[q.Operation] {
	case AdmitByHandler:
		return nil
	case AdmitPriority:
		return q.admit(true)
	}
	return q.admit(false)
}

// Admit admits a request. The handler of an operation with [AdmitByHandler] calls it
// once.
func Admit(ctx context.Context, priority bool) error {
	return ctx.Value(receivedKey{}).(*Received).admit(priority)
}

func (q *Received) admit(priority bool) error {
	limit := int64(q.responder.options.MaxInFlight)
	if !priority {
		limit -= limit / 5
	}
	// The count never exceeds the limit, not even for a moment. Otherwise requests that
	// are being shed would take the place of requests with priority.
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

// Shed refuses the request as overloaded. A wire calls it if it is too busy to read
// the request.
func (q *Received) Shed() error {
	q.shed = true
	return problem.New(problem.Overloaded, "Too many requests are in flight.")
}

// Run runs the handler and turns its panic into an error. After it, the request no
// longer counts as in flight. A panic with one of the values in through is the
// transport's own and is not caught.
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
		err = fmt.Errorf("the handler of %s did not admit its request", q.Operation)
	}
	return err
}

// Problem turns a handler's error into a problem; nil if there is no error.
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

// Done logs and reports a request that was answered. p is nil if the answer was not a
// problem.
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

// Outcome is "ok", "canceled" if the caller hung up, or the problem's code. A code that
// is not in the table is "other", so that another program can't create time series.
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
