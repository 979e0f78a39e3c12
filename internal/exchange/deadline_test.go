package exchange_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

func TestTooShortDeadlineStartsNothing(t *testing.T) {
	t.Parallel()
	for _, timeout := range []time.Duration{-time.Second, 0, time.Millisecond, 20*time.Millisecond - 1} {
		synctest.Test(t, func(t *testing.T) {
			var seen []exchange.CallObservation
			c := newCaller(func(o exchange.CallObservation) { seen = append(seen, o) })
			r := responder{answers: []error{nil}}
			began := time.Now()
			for _, exchanges := range []func(context.Context, string, exchange.Attempt) error{c.Do, c.Resend} {
				if err := exchanges(within(t, timeout), "Put", r.attempt); problem.CodeOf(err) != problem.DeadlineExceeded {
					t.Errorf("%s: got %v", timeout, err)
				}
			}
			if len(r.numbers) != 0 || time.Since(began) != 0 {
				t.Errorf("%s: %d attempts, %s", timeout, len(r.numbers), time.Since(began))
			}
			if len(seen) != 2 || len(seen[0].Attempts) != 0 || problem.CodeOf(seen[0].Err) != problem.DeadlineExceeded {
				t.Errorf("%s: observed %+v", timeout, seen)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		r := responder{answers: []error{nil}}
		if err := newCaller(nil).Do(within(t, exchange.MinTimeout), "Put", r.attempt); err != nil || len(r.numbers) != 1 {
			t.Errorf("just enough: %v after %d attempts", err, len(r.numbers))
		}
	})
}

func TestTooLittleTimeForARetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(nil)
		began, attempts := time.Now(), 0
		err := c.Do(within(t, 2*time.Second), "Put", func(context.Context, int) error {
			attempts++
			time.Sleep(1981 * time.Millisecond)
			return fault
		})
		if err != fault || attempts != 1 || time.Since(began) != 1981*time.Millisecond {
			t.Errorf("got %v after %d attempts and %s", err, attempts, time.Since(began))
		}
	})
}

// hang waits until ctx ends, but at most for d.
func hang(ctx context.Context, d time.Duration, err error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return err
	}
}

func TestRetriesDoNotExtendTheDeadline(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		takes    time.Duration
		attempts int
	}{
		"one attempt hangs":     {time.Hour, 1},
		"the second one hangs":  {1100 * time.Millisecond, 2},
		"every one takes a bit": {800 * time.Millisecond, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCaller(nil)
				ctx := within(t, 2*time.Second)
				deadline, _ := ctx.Deadline()
				attempts := 0
				err := c.Do(ctx, "Put", func(ctx context.Context, _ int) error {
					attempts++
					if got, ok := ctx.Deadline(); !ok || !got.Equal(deadline) {
						t.Errorf("attempt %d has the deadline %v, want %v", attempts, got, deadline)
					}
					return hang(ctx, test.takes, fault)
				})
				if problem.CodeOf(err) != problem.DeadlineExceeded || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
				if attempts != test.attempts || !time.Now().Equal(deadline) {
					t.Errorf("there were %d attempts, and the exchange ended %s after the deadline", attempts, time.Since(deadline))
				}
			})
		})
	}
}

// A late answer of the responder still counts.
func TestLateAnswerCounts(t *testing.T) {
	t.Parallel()
	short := problem.New(problem.InsufficientStock, "")
	for name, test := range map[string]struct {
		answer, want error
		code         problem.Code
	}{
		"success":   {nil, nil, ""},
		"rejection": {short, short, problem.InsufficientStock},
		"fault":     {fault, fault, problem.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				attempts := 0
				err := newCaller(nil).Do(within(t, time.Second), "Put", func(context.Context, int) error {
					attempts++
					time.Sleep(3 * time.Second)
					return test.answer
				})
				if problem.CodeOf(err) != test.code || !errors.Is(err, test.want) || attempts != 1 {
					t.Errorf("got %v after %d attempts", err, attempts)
				}
			})
		})
	}
}

func TestHangUpEndsTheExchange(t *testing.T) {
	t.Parallel()
	told := &problem.Problem{Code: problem.Overloaded, RetryAfter: time.Second}
	for name, test := range map[string]struct {
		hangUpAfter time.Duration
		attempt     exchange.Attempt
		attempts    int
		cause       error
	}{
		"before the first attempt":   {0, func(context.Context, int) error { return nil }, 0, nil},
		"during an attempt":          {300 * time.Millisecond, func(ctx context.Context, _ int) error { return hang(ctx, time.Hour, nil) }, 1, context.Canceled},
		"while it waits for a retry": {300 * time.Millisecond, func(context.Context, int) error { return told }, 1, told},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var seen exchange.CallObservation
				c := newCaller(func(o exchange.CallObservation) { seen = o })
				ctx, hangUp := context.WithCancel(within(t, 5*time.Second))
				began := time.Now()
				if test.hangUpAfter == 0 {
					hangUp()
				}
				time.AfterFunc(test.hangUpAfter, hangUp)
				err := c.Do(ctx, "Put", test.attempt)
				if problem.CodeOf(err) != problem.DeadlineExceeded || test.cause != nil && !errors.Is(err, test.cause) {
					t.Errorf("got %v", err)
				}
				if took := time.Since(began); took != test.hangUpAfter || len(seen.Attempts) != test.attempts {
					t.Errorf("it took %s and %d attempts", took, len(seen.Attempts))
				}
			})
		})
	}
}

// answersOnly answers attempt number last, and no other.
func answersOnly(last int) exchange.Attempt {
	return func(ctx context.Context, n int) error {
		if n == last {
			return nil
		}
		<-ctx.Done()
		return problem.Wrap(ctx.Err(), problem.DeadlineExceeded, "There was no answer in time.")
	}
}

func TestSplitTimeoutGivesAnAttemptHalfOfTheTime(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		split, resend bool
		answers       int
		attempts      []time.Duration
		code          problem.Code
	}{
		"another responder answers":                          {true, false, 2, []time.Duration{time.Second, 0}, ""},
		"no responder answers":                               {true, false, 0, []time.Duration{time.Second, 500 * time.Millisecond, 500 * time.Millisecond}, problem.DeadlineExceeded},
		"a resend is one attempt":                            {true, true, 0, []time.Duration{2 * time.Second}, problem.DeadlineExceeded},
		"without a split an attempt may take the whole time": {false, false, 2, []time.Duration{2 * time.Second}, problem.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var seen exchange.CallObservation
				c := exchange.NewCaller(exchange.Options{SplitTimeout: test.split, Observe: func(o exchange.CallObservation) { seen = o }})
				time.Sleep(time.Second)
				do := c.Do
				if test.resend {
					do = c.Resend
				}
				if err := do(within(t, 2*time.Second), "Put", answersOnly(test.answers)); problem.CodeOf(err) != test.code {
					t.Errorf("got %v", err)
				}
				// The waits between attempts are random and short.
				for i, a := range seen.Attempts {
					if i >= len(test.attempts) || (a.Duration-test.attempts[i]).Abs() > 100*time.Millisecond {
						t.Errorf("the attempts are %+v, want the durations %v", seen.Attempts, test.attempts)
					}
				}
				if len(seen.Attempts) != len(test.attempts) {
					t.Errorf("%d attempts, want %d", len(seen.Attempts), len(test.attempts))
				}
			})
		})
	}
}
