package exchange_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

var (
	// fault is a broken connection. refused is a connection that was not made.
	fault   = problem.Wrap(errors.New("connection reset"), problem.Unavailable, "")
	refused = exchange.Unreachable(errors.New("connection refused"))
)

// responder answers each attempt with the next of its errors, and repeats the last
// one. It records the number and time of each attempt.
type responder struct {
	answers []error
	numbers []int
	at      []time.Time
}

func (r *responder) attempt(_ context.Context, n int) error {
	r.numbers, r.at = append(r.numbers, n), append(r.at, time.Now())
	return r.answers[min(len(r.numbers), len(r.answers))-1]
}

// newCaller returns a Caller with a full budget.
func newCaller(observe func(exchange.CallObservation)) *exchange.Caller {
	c := exchange.NewCaller(exchange.Options{Observe: observe})
	time.Sleep(time.Second)
	return c
}

// within returns a context with a deadline.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestRetriedErrors(t *testing.T) {
	t.Parallel()
	type test struct {
		name     string
		err      error
		attempts int
	}
	tests := []test{{"no error", nil, 1}, {"an error that is not a problem", errors.New("a bug"), 1}, {"a fault", fault, 3}, {"no connection", refused, 3},
		{"an unknown code", problem.New("teapot", ""), 1}}
	for _, code := range problem.Codes() {
		attempts := 1
		if code == problem.Unavailable || code == problem.Overloaded {
			attempts = 3
		}
		tests = append(tests, test{string(code), problem.New(code, ""), attempts})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := responder{answers: []error{test.err}}
				if err := newCaller(nil).Do(within(t, 2*time.Second), "Put", r.attempt); err != test.err {
					t.Errorf("got %v", err)
				}
				if want := []int{1, 2, 3}[:test.attempts]; !slices.Equal(r.numbers, want) {
					t.Errorf("the attempts are %v, want %v", r.numbers, want)
				}
			})
		})
	}
}

func TestLastAttemptDecides(t *testing.T) {
	t.Parallel()
	short := problem.New(problem.InsufficientStock, "")
	last := problem.New(problem.Unavailable, "the third")
	for name, answers := range map[string][]error{
		"success":   {fault, nil},
		"rejection": {fault, problem.New(problem.Overloaded, ""), short},
		"fault":     {fault, fault, last},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := responder{answers: answers}
				if err := newCaller(nil).Do(within(t, 2*time.Second), "Put", r.attempt); err != answers[len(answers)-1] {
					t.Errorf("got %v", err)
				}
				if len(r.numbers) != len(answers) {
					t.Errorf("there were %d attempts", len(r.numbers))
				}
			})
		})
	}
}

func TestBackoffHasFullJitterAndDoubles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(nil)
		var first, second []time.Duration
		for range 300 {
			r := responder{answers: []error{fault}}
			_ = c.Do(within(t, 2*time.Second), "Put", r.attempt)
			if len(r.at) != 3 {
				t.Fatalf("there were %d attempts", len(r.at))
			}
			first, second = append(first, r.at[1].Sub(r.at[0])), append(second, r.at[2].Sub(r.at[1]))
			time.Sleep(time.Second) // fills the budget
		}
		for waits, ceiling := range map[*[]time.Duration]time.Duration{&first: 25 * time.Millisecond, &second: 50 * time.Millisecond} {
			least, most := slices.Min(*waits), slices.Max(*waits)
			if least < 0 || least > ceiling/5 || most < ceiling*4/5 || most >= ceiling {
				t.Errorf("the waits with the ceiling %s are between %s and %s", ceiling, least, most)
			}
		}
	})
}

func TestRetryAfterIsTheMinimumWait(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		advice, timeout time.Duration
		attempts        int
	}{
		"short":                   {300 * time.Millisecond, 2 * time.Second, 3},
		"until shortly before":    {1900 * time.Millisecond, 2 * time.Second, 2},
		"until too shortly":       {1981 * time.Millisecond, 2 * time.Second, 1},
		"past the deadline":       {time.Hour, 2 * time.Second, 1},
		"longer than any backoff": {time.Minute, time.Hour, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCaller(nil)
				r := responder{answers: []error{&problem.Problem{Code: problem.Overloaded, RetryAfter: test.advice}}}
				err := c.Do(within(t, test.timeout), "Put", r.attempt)
				if problem.CodeOf(err) != problem.Overloaded || len(r.at) != test.attempts {
					t.Errorf("got %v after %d attempts, want %d", err, len(r.at), test.attempts)
				}
				for i := 1; i < len(r.at); i++ {
					if wait := r.at[i].Sub(r.at[i-1]); wait < test.advice || wait >= test.advice+50*time.Millisecond {
						t.Errorf("it waited %s", wait)
					}
				}
				if late := time.Since(r.at[len(r.at)-1]); late != 0 {
					t.Errorf("it waited %s after the last attempt", late)
				}
			})
		})
	}
}

// Callers that got the same Retry-After must not return all at once.
func TestRetryAfterHasJitter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(nil)
		waits := map[time.Duration]bool{}
		for range 20 {
			r := responder{answers: []error{&problem.Problem{Code: problem.Overloaded, RetryAfter: time.Second}, nil}}
			_ = c.Do(t.Context(), "Put", r.attempt)
			if len(r.at) != 2 {
				t.Fatalf("there were %d attempts", len(r.at))
			}
			waits[r.at[1].Sub(r.at[0])] = true
		}
		if len(waits) < 10 {
			t.Errorf("20 callers returned at %d different times, want at least 10", len(waits))
		}
	})
}

func TestResendIsOneAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := responder{answers: []error{fault}}
		if err := newCaller(nil).Resend(within(t, 2*time.Second), "Put", r.attempt); err != fault || !slices.Equal(r.numbers, []int{1}) {
			t.Errorf("got %v after the attempts %v", err, r.numbers)
		}
	})
}

func TestEachExchangeIsObservedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var seen []exchange.CallObservation
		c := newCaller(func(o exchange.CallObservation) { seen = append(seen, o) })
		ctx := exchange.WithRequestID(within(t, 2*time.Second), "r1")
		began := time.Now()
		_ = c.Do(ctx, "PutReservation", func(_ context.Context, n int) error {
			time.Sleep(100 * time.Millisecond)
			return []error{fault, nil}[n-1]
		})
		took := time.Since(began)
		_ = c.Resend(t.Context(), "GetStock", func(context.Context, int) error { return fault })
		want := []exchange.CallObservation{
			{Operation: "PutReservation", RequestID: "r1", Duration: took, Attempts: []exchange.AttemptObservation{
				{After: 0, Duration: 100 * time.Millisecond, Err: fault}, {After: took - 100*time.Millisecond, Duration: 100 * time.Millisecond},
			}},
			{Operation: "GetStock", Resend: true, Attempts: []exchange.AttemptObservation{{Err: fault}}, Err: fault},
		}
		if !reflect.DeepEqual(seen, want) || took < 200*time.Millisecond {
			t.Errorf("observed %+v, want %+v", seen, want)
		}
	})
}

func TestConcurrentCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const callers, each = 32, 50
		var observed, observedAttempts, attempts, made atomic.Int64
		c := exchange.NewCaller(exchange.Options{Observe: func(o exchange.CallObservation) {
			observed.Add(1)
			observedAttempts.Add(int64(len(o.Attempts)))
		}})
		answers := []error{nil, fault, refused, problem.New(problem.WrongState, ""), refused, refused}
		var done sync.WaitGroup
		for caller := range callers {
			done.Go(func() {
				for i := range each {
					made.Add(1)
					exchanges := c.Do
					if i%4 == 0 {
						exchanges = c.Resend
					}
					_ = exchanges(within(t, time.Second), "Put", func(context.Context, int) error {
						attempts.Add(1)
						time.Sleep(time.Millisecond)
						return answers[(caller+i)%len(answers)]
					})
					c.Unreachable()
				}
			})
		}
		done.Wait()
		if observed.Load() != made.Load() || observedAttempts.Load() != attempts.Load() || attempts.Load() == 0 {
			t.Errorf("%d exchanges with %d attempts were made, %d with %d observed", made.Load(), attempts.Load(), observed.Load(), observedAttempts.Load())
		}
	})
}
