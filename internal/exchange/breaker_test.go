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

// resend makes an exchange of one attempt that ends with err, and reports whether
// the attempt was made.
func resend(t *testing.T, c *exchange.Caller, err error) (made bool) {
	_ = c.Resend(t.Context(), "Put", func(context.Context, int) error {
		made = true
		return err
	})
	return made
}

// openBreaker returns a Caller whose breaker has just opened.
func openBreaker(t *testing.T) *exchange.Caller {
	t.Helper()
	c := newCaller(nil)
	for n := range 5 {
		if c.Unreachable() || !resend(t, c, refused) {
			t.Fatalf("the breaker is open after %d failures", n)
		}
	}
	if !c.Unreachable() {
		t.Fatal("the breaker is closed after 5 failures")
	}
	return c
}

func TestOpenBreakerRefusesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := openBreaker(t)
		if !resend(t, c, refused) {
			t.Fatal("the first probe was refused")
		}
		began := time.Now()
		for _, exchanges := range []func(context.Context, string, exchange.Attempt) error{c.Do, c.Resend} {
			r := responder{answers: []error{nil}}
			err := exchanges(t.Context(), "Put", r.attempt)
			if problem.CodeOf(err) != problem.Unavailable || len(r.numbers) != 0 || time.Since(began) != 0 {
				t.Errorf("got %v after %d attempts and %s", err, len(r.numbers), time.Since(began))
			}
		}
	})
}

// An exchange whose own attempts open the breaker ends with the connection error.
func TestRetriesStopWhenTheBreakerOpens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(nil)
		for range 3 {
			resend(t, c, refused)
		}
		r := responder{answers: []error{refused}}
		if err := c.Do(t.Context(), "Put", r.attempt); err != refused || len(r.numbers) != 3 {
			t.Errorf("got %v after %d attempts", err, len(r.numbers)) // the third attempt is the probe
		}
		r = responder{answers: []error{refused}}
		time.Sleep(time.Second)
		if err := c.Do(t.Context(), "Put", r.attempt); err != refused || len(r.numbers) != 1 {
			t.Errorf("got %v after %d attempts", err, len(r.numbers))
		}
	})
}

func TestProbesAreSpacedEvenly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := openBreaker(t)
		var probes []time.Time
		for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(10 * time.Millisecond) {
			if resend(t, c, refused) {
				probes = append(probes, time.Now())
			}
		}
		for i := 1; i < len(probes); i++ {
			if apart := probes[i].Sub(probes[i-1]); apart != 250*time.Millisecond {
				t.Fatalf("probe %d is %s after the previous one", i, apart)
			}
		}
		if len(probes) != 240 {
			t.Errorf("there were %d probes in a minute, want 240", len(probes))
		}
	})
}

func TestOneProbeAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := openBreaker(t)
		go func() {
			_ = c.Resend(t.Context(), "Put", func(context.Context, int) error {
				time.Sleep(10 * time.Second)
				return refused
			})
		}()
		synctest.Wait()
		for range 99 {
			time.Sleep(100 * time.Millisecond)
			if resend(t, c, nil) {
				t.Fatal("a second probe was made")
			}
		}
		time.Sleep(time.Second)
		if !c.Unreachable() || !resend(t, c, nil) {
			t.Error("no probe was made after the first one ended")
		}
	})
}

func TestProbeClosesTheBreakerOrLeavesItOpen(t *testing.T) {
	t.Parallel()
	expired := func(err error) exchange.Attempt {
		return func(ctx context.Context, _ int) error {
			<-ctx.Done()
			return err
		}
	}
	returns := func(err error) exchange.Attempt { return func(context.Context, int) error { return err } }
	for name, test := range map[string]struct {
		attempt exchange.Attempt
		away    bool
	}{
		"success":                        {returns(nil), false},
		"a rejection":                    {returns(problem.New(problem.InsufficientStock, "")), false},
		"an internal error":              {returns(problem.New(problem.Internal, "")), false},
		"overload":                       {returns(problem.New(problem.Overloaded, "")), false},
		"a broken connection":            {returns(fault), false},
		"an error that is not a problem": {returns(errors.New("a bug")), false},
		"success after the deadline":     {expired(nil), false},
		"no connection":                  {returns(refused), true},
		"no connection in time":          {expired(refused), true},
		"no answer in time":              {expired(context.DeadlineExceeded), true},
		"a timeout of its own":           {returns(problem.New(problem.DeadlineExceeded, "")), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := openBreaker(t)
				_ = c.Resend(within(t, time.Second), "Put", test.attempt)
				if c.Unreachable() != test.away {
					t.Errorf("Unreachable is %v", c.Unreachable())
				}
			})
		})
	}
}

func TestBreakerCountsConsecutiveFailures(t *testing.T) {
	t.Parallel()
	timeout := problem.New(problem.DeadlineExceeded, "")
	for name, test := range map[string]struct {
		between error
		away    bool
	}{
		"an answer":           {nil, false},
		"a rejection":         {problem.New(problem.WrongState, ""), false},
		"a broken connection": {fault, false},
		"a timeout":           {timeout, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCaller(nil)
				for range 4 {
					resend(t, c, refused)
				}
				resend(t, c, test.between)
				if c.Unreachable() {
					t.Error("four failures opened the breaker")
				}
				resend(t, c, refused)
				if c.Unreachable() != test.away {
					t.Errorf("Unreachable is %v", c.Unreachable())
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(nil)
		for range 100 {
			resend(t, c, timeout)
		}
		if c.Unreachable() {
			t.Error("timeouts alone opened the breaker")
		}
	})
}

func TestProbeThatPanicsReleasesTheNextOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := openBreaker(t)
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			_ = c.Resend(t.Context(), "Put", func(context.Context, int) error { panic("on purpose") })
		}()
		time.Sleep(250 * time.Millisecond)
		if !resend(t, c, nil) || c.Unreachable() {
			t.Error("no probe was made after the panic")
		}
	})
}
