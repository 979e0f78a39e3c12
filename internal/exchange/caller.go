package exchange

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"roundtrip/internal/problem"
)

const (
	maxAttempts = 3
	baseBackoff = 25 * time.Millisecond
	maxBackoff  = 500 * time.Millisecond
)

// Options of a [Caller].
type Options struct {
	// SplitTimeout is for a wire that does not report that a responder has received a
	// request and then disappeared. An attempt then waits for half of the time that is
	// left, so that another attempt can reach another responder. The last attempt waits
	// for all of it.
	SplitTimeout bool
	// Observe is called after every exchange has ended. It may be nil.
	Observe func(CallObservation)
}

// CallObservation describes an exchange that has ended.
type CallObservation struct {
	Operation, RequestID string
	// TraceID is "" if the request belongs to no trace.
	TraceID string
	// Resend is true for an exchange of the settler ([Caller.Resend]).
	Resend bool
	// Attempts are in the order in which they were made.
	Attempts []AttemptObservation
	Duration time.Duration
	Err      error
}

// AttemptObservation describes one attempt of an exchange: how long after the beginning
// of the exchange it began, how long it took, and how it ended.
type AttemptObservation struct {
	After, Duration time.Duration
	Err             error
}

// Caller makes exchanges with one responder. It is safe for concurrent use.
type Caller struct {
	splitTimeout bool
	observe      func(CallObservation)
	budget       *budget
	breaker      breaker
}

// NewCaller makes a Caller.
func NewCaller(o Options) *Caller {
	if o.Observe == nil {
		o.Observe = func(CallObservation) {}
	}
	return &Caller{splitTimeout: o.SplitTimeout, observe: o.Observe, budget: newBudget()}
}

// Unreachable reports that connections to the responder fail at the moment.
func (c *Caller) Unreachable() bool { return c.breaker.open() }

// Attempt makes the n-th attempt of an exchange, counted from 1. Its error is a
// *problem.Problem. If it could not connect, it returns the error of [Unreachable].
type Attempt func(ctx context.Context, n int) error

// Do makes an exchange and returns its last attempt's error. If the deadline passes,
// the error is deadline-exceeded. In that case, and after a transport fault, it is
// unknown whether the request took effect.
func (c *Caller) Do(ctx context.Context, operation string, attempt Attempt) error {
	c.budget.request()
	return c.exchange(ctx, operation, attempt, false)
}

// Resend makes an exchange of one attempt. It does not use the budget, because the
// settler's lease limits how often the settler sends a request again.
func (c *Caller) Resend(ctx context.Context, operation string, attempt Attempt) error {
	return c.exchange(ctx, operation, attempt, true)
}

func (c *Caller) exchange(ctx context.Context, operation string, attempt Attempt, resend bool) error {
	began := time.Now()
	o := CallObservation{Operation: operation, RequestID: RequestID(ctx), TraceID: TraceID(ctx), Resend: resend}
	o.Err = c.attempts(ctx, func(ctx context.Context, n int) error {
		after := time.Since(began)
		err := attempt(ctx, n)
		o.Attempts = append(o.Attempts, AttemptObservation{after, time.Since(began) - after, err})
		return err
	}, resend)
	o.Duration = time.Since(began)
	c.observe(o)
	return o.Err
}

// attempts makes attempts until one is answered, the time or the budget is used up, or
// another attempt would not help.
func (c *Caller) attempts(ctx context.Context, attempt Attempt, resend bool) (err error) {
	for n := 0; ; {
		if left, ok := Remaining(ctx); ok && left < MinTimeout || ctx.Err() != nil {
			if err != nil && ctx.Err() == nil {
				return err
			}
			return deadlineExceeded(err, n)
		}
		probe, ok := c.breaker.allow()
		if !ok {
			if err == nil {
				err = problem.New(problem.Unavailable, "Can't connect to the other service at the moment.")
			}
			return err
		}
		n++
		err = c.try(ctx, attempt, n, probe, c.splitTimeout && !resend && n < maxAttempts)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil && !Answered(err):
			return deadlineExceeded(err, n)
		case resend || n == maxAttempts || !retryable(err):
			return err
		}
		wait := backoff(n, err)
		if left, ok := Remaining(ctx); ok && left-wait < MinTimeout {
			return err
		}
		if !c.budget.retry() {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// try makes one attempt and reports its end to the breaker, even if it panics. If brief
// is true, the attempt gets only half of the time that is left.
func (c *Caller) try(ctx context.Context, attempt Attempt, n int, probe, brief bool) (err error) {
	own := ctx
	if left, ok := Remaining(ctx); brief && ok && left/2 >= MinTimeout {
		var cancel context.CancelFunc
		own, cancel = context.WithTimeout(ctx, left/2)
		defer cancel()
	}
	defer func() {
		timedOut := own.Err() != nil || problem.CodeOf(err) == problem.DeadlineExceeded
		c.breaker.record(probe, err, timedOut)
		if err != nil && own.Err() != nil && ctx.Err() == nil && !Answered(err) {
			err = problem.Wrap(err, problem.Unavailable, "There was no answer; the responder may be gone.")
		}
	}()
	return attempt(own, n)
}

// Answered reports whether the responder answered, with a success or an error. It is
// false for a fault of the transport.
func Answered(err error) bool {
	var p *problem.Problem
	return err == nil || errors.As(err, &p) && p.Unwrap() == nil
}

func retryable(err error) bool {
	code := problem.CodeOf(err)
	return code == problem.Unavailable || code == problem.Overloaded
}

// backoff is the wait after the n-th attempt. It is random, below a ceiling that
// doubles with each attempt. It is added to the responder's Retry-After, if there is
// one, so that callers with the same Retry-After do not come back together.
func backoff(n int, err error) time.Duration {
	ceiling := min(baseBackoff<<(n-1), maxBackoff)
	return problem.From(err).RetryAfter + rand.N(ceiling)
}
