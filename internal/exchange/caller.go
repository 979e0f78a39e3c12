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
	// SplitTimeout says that the wire does not tell when a responder is gone with a
	// request. An attempt then waits for half of the time that is left, so that one
	// more can reach another responder; the last waits for all of it.
	SplitTimeout bool
	// Observe is told of every exchange once it has ended; it may be nil.
	Observe func(CallObservation)
}

// CallObservation is what is known of an exchange that has ended.
type CallObservation struct {
	Operation, RequestID string
	// TraceID is "" where the request belongs to no trace.
	TraceID string
	// Resend tells the settler's exchanges from a caller's own.
	Resend bool
	// Attempts are in the order in which they were made.
	Attempts []AttemptObservation
	Duration time.Duration
	Err      error
}

// AttemptObservation is one attempt of an exchange: how long after the exchange's
// beginning it began, how long it took, and how it ended.
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

// Unreachable reports that the responder can't be connected to at the moment.
func (c *Caller) Unreachable() bool { return c.breaker.open() }

// Attempt is one try of an exchange: the n-th, from 1. Its error is a
// *problem.Problem; one that could not connect is made by [Unreachable].
type Attempt func(ctx context.Context, n int) error

// Do makes an exchange and returns its last attempt's error. When the deadline
// passes it is deadline-exceeded; then and after a transport fault it is
// unknown whether the request took effect.
func (c *Caller) Do(ctx context.Context, operation string, attempt Attempt) error {
	c.budget.request()
	return c.exchange(ctx, operation, attempt, false)
}

// Resend makes an exchange of one attempt, outside the budget: the settler's
// repeats are paced by its lease.
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

// attempts tries until there is an answer, no time, no budget or no use.
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
				err = problem.New(problem.Unavailable, "The other service can't be connected to at the moment.")
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

// try makes one attempt and tells the breaker of its end, even if it panics. One
// that is to be brief does not wait until the exchange's deadline.
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

// Answered tells an answer of the responder's, be it an error, from a fault of the
// transport.
func Answered(err error) bool {
	var p *problem.Problem
	return err == nil || errors.As(err, &p) && p.Unwrap() == nil
}

func retryable(err error) bool {
	code := problem.CodeOf(err)
	return code == problem.Unavailable || code == problem.Overloaded
}

// backoff is the wait after the n-th attempt: random, below a ceiling that
// doubles with each attempt. It comes on top of the responder's own advice, where
// it gave any: those who were told the same are not to come back together either.
func backoff(n int, err error) time.Duration {
	ceiling := min(baseBackoff<<(n-1), maxBackoff)
	return problem.From(err).RetryAfter + rand.N(ceiling)
}
