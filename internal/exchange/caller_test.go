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
	// fault is a connection that broke; refused is one that never came about.
	fault   = problem.Wrap(errors.New("connection reset"), problem.Unavailable, "")
	refused = exchange.Unreachable(errors.New("connection refused"))
)

// responder answers with its errors, one attempt after the other, the last one
// again and again, and notes when it was asked which attempt.
type responder struct {
	answers []error
	numbers []int
	at      []time.Time
}

func (r *responder) attempt(_ context.Context, n int) error {
	r.numbers, r.at = append(r.numbers, n), append(r.at, time.Now())
	return r.answers[min(len(r.numbers), len(r.answers))-1]
}

// newCaller makes a Caller whose budget has filled up.
func newCaller(observe func(exchange.CallObservation)) *exchange.Caller {
	c := exchange.NewCaller(exchange.Options{MaxInFlight: 4, Observe: observe})
	time.Sleep(time.Second)
	return c
}

// within is a context with a deadline.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestWhatIsTriedAgain(t *testing.T) {
	t.Parallel()
	type test struct {
		name     string
		err      error
		attempts int
	}
	tests := []test{{"no error", nil, 1}, {"an error that is no problem", errors.New("a bug"), 1}, {"a fault", fault, 3}, {"no connection", refused, 3},
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

func TestTheLastAttemptDecides(t *testing.T) {
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

func TestWaitsAreSpreadBelowACeilingThatDoubles(t *testing.T) {
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
			time.Sleep(time.Second) // the budget fills up
		}
		for waits, ceiling := range map[*[]time.Duration]time.Duration{&first: 25 * time.Millisecond, &second: 50 * time.Millisecond} {
			least, most := slices.Min(*waits), slices.Max(*waits)
			if least < 0 || least > ceiling/5 || most < ceiling*4/5 || most >= ceiling {
				t.Errorf("waits below %s lie between %s and %s", ceiling, least, most)
			}
		}
	})
}

func TestRetryAfterIsTheLeastWait(t *testing.T) {
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
					t.Errorf("it waited %s for nothing", late)
				}
			})
		})
	}
}

// Callers who were told the same time must not come back together.
func TestRetryAfterIsSpreadToo(t *testing.T) {
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
			t.Errorf("20 callers came back at %d different times", len(waits))
		}
	})
}

func TestNothingIsBegunWithTooLittleTime(t *testing.T) {
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

func TestNoRetryIsBegunWithTooLittleTime(t *testing.T) {
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

// hang waits until its caller has no more time, and for d at most.
func hang(ctx context.Context, d time.Duration, err error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return err
	}
}

func TestTheDeadlineIsNotExtended(t *testing.T) {
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
					t.Errorf("%d attempts, and it ended %s after the deadline", attempts, time.Since(deadline))
				}
			})
		})
	}
}

// A deadline decides nothing: what the responder said in the end is what holds.
func TestAnAnswerThatComesLateCounts(t *testing.T) {
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

func TestACallerMayLeave(t *testing.T) {
	t.Parallel()
	told := &problem.Problem{Code: problem.Overloaded, RetryAfter: time.Second}
	for name, test := range map[string]struct {
		leaves   time.Duration
		attempt  exchange.Attempt
		attempts int
		cause    error
	}{
		"before it begins":   {0, func(context.Context, int) error { return nil }, 0, nil},
		"during an attempt":  {300 * time.Millisecond, func(ctx context.Context, _ int) error { return hang(ctx, time.Hour, nil) }, 1, context.Canceled},
		"while it must wait": {300 * time.Millisecond, func(context.Context, int) error { return told }, 1, told},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var seen exchange.CallObservation
				c := newCaller(func(o exchange.CallObservation) { seen = o })
				ctx, leave := context.WithCancel(within(t, 5*time.Second))
				began := time.Now()
				if test.leaves == 0 {
					leave()
				}
				time.AfterFunc(test.leaves, leave)
				err := c.Do(ctx, "Put", test.attempt)
				if problem.CodeOf(err) != problem.DeadlineExceeded || test.cause != nil && !errors.Is(err, test.cause) {
					t.Errorf("got %v", err)
				}
				if took := time.Since(began); took != test.leaves || len(seen.Attempts) != test.attempts {
					t.Errorf("it took %s and %d attempts", took, len(seen.Attempts))
				}
			})
		})
	}
}

func TestAResendIsOneAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := responder{answers: []error{fault}}
		if err := newCaller(nil).Resend(within(t, 2*time.Second), "Put", r.attempt); err != fault || !slices.Equal(r.numbers, []int{1}) {
			t.Errorf("got %v after the attempts %v", err, r.numbers)
		}
	})
}

// hung takes requests and answers none but the last.
func hung(last int) exchange.Attempt {
	return func(ctx context.Context, n int) error {
		if n == last {
			return nil
		}
		<-ctx.Done()
		return problem.Wrap(ctx.Err(), problem.DeadlineExceeded, "There was no answer in time.")
	}
}

func TestOnASilentWireAnAttemptWaitsForHalfOfTheTime(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		silent, resend bool
		answers        int
		attempts       []time.Duration
		code           problem.Code
	}{
		"another responder answers":  {true, false, 2, []time.Duration{time.Second, 0}, ""},
		"nobody does":                {true, false, 0, []time.Duration{time.Second, 500 * time.Millisecond, 500 * time.Millisecond}, problem.DeadlineExceeded},
		"a re-send is one attempt":   {true, true, 0, []time.Duration{2 * time.Second}, problem.DeadlineExceeded},
		"on others it waits for all": {false, false, 2, []time.Duration{2 * time.Second}, problem.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var seen exchange.CallObservation
				c := exchange.NewCaller(exchange.Options{MaxInFlight: 4, SplitTimeout: test.silent, Observe: func(o exchange.CallObservation) { seen = o }})
				time.Sleep(time.Second)
				do := c.Do
				if test.resend {
					do = c.Resend
				}
				if err := do(within(t, 2*time.Second), "Put", hung(test.answers)); problem.CodeOf(err) != test.code {
					t.Errorf("got %v", err)
				}
				// The waits between attempts are random, and short.
				for i, a := range seen.Attempts {
					if i >= len(test.attempts) || (a.Duration-test.attempts[i]).Abs() > 100*time.Millisecond {
						t.Errorf("attempts %+v, want such as take %v", seen.Attempts, test.attempts)
					}
				}
				if len(seen.Attempts) != len(test.attempts) {
					t.Errorf("%d attempts, want %d", len(seen.Attempts), len(test.attempts))
				}
			})
		})
	}
}

func TestEveryExchangeIsObservedOnce(t *testing.T) {
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

func TestEnterBoundsWhatIsInFlightAndNeverWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := exchange.NewCaller(exchange.Options{MaxInFlight: 3})
		began := time.Now()
		var leaves []func()
		for range 3 {
			leave, err := c.Enter()
			if err != nil {
				t.Fatal(err)
			}
			leaves = append(leaves, leave)
		}
		for range 2 {
			if leave, err := c.Enter(); problem.CodeOf(err) != problem.Overloaded || leave != nil {
				t.Fatalf("a fourth got %v", err)
			}
		}
		leaves[1]()
		if _, err := c.Enter(); err != nil {
			t.Errorf("a place that was given back: %v", err)
		}
		if _, err := c.Enter(); problem.CodeOf(err) != problem.Overloaded {
			t.Errorf("one place was given back, two were taken: %v", err)
		}
		if time.Since(began) != 0 {
			t.Errorf("it waited %s", time.Since(began))
		}
	})
}

func TestManyCallersAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const callers, each, places = 32, 50, 8
		var observed, observedAttempts, attempts, inFlight, entered atomic.Int64
		c := exchange.NewCaller(exchange.Options{MaxInFlight: places, Observe: func(o exchange.CallObservation) {
			observed.Add(1)
			observedAttempts.Add(int64(len(o.Attempts)))
		}})
		answers := []error{nil, fault, refused, problem.New(problem.WrongState, ""), refused, refused}
		var done sync.WaitGroup
		for caller := range callers {
			done.Go(func() {
				for i := range each {
					leave, err := c.Enter()
					if err != nil {
						time.Sleep(time.Millisecond)
						continue
					}
					entered.Add(1)
					if now := inFlight.Add(1); now > places {
						t.Errorf("%d are in flight", now)
					}
					exchanges := c.Do
					if i%4 == 0 {
						exchanges = c.Resend
					}
					_ = exchanges(within(t, time.Second), "Put", func(context.Context, int) error {
						attempts.Add(1)
						time.Sleep(time.Millisecond)
						return answers[(caller+i)%len(answers)]
					})
					c.Away()
					inFlight.Add(-1)
					leave()
				}
			})
		}
		done.Wait()
		if observed.Load() != entered.Load() || observedAttempts.Load() != attempts.Load() || attempts.Load() == 0 {
			t.Errorf("%d exchanges with %d attempts were made, %d with %d observed", entered.Load(), attempts.Load(), observed.Load(), observedAttempts.Load())
		}
		for range places {
			if _, err := c.Enter(); err != nil {
				t.Error("a place was lost")
			}
		}
	})
}
