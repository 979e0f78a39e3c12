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

// send makes an exchange of one attempt, which ends with err, and tells whether
// the attempt was made.
func send(t *testing.T, c *exchange.Caller, err error) (made bool) {
	_ = c.Resend(t.Context(), "Put", func(context.Context, int) error {
		made = true
		return err
	})
	return made
}

// openBreaker makes a Caller that has just failed to connect often enough.
func openBreaker(t *testing.T) *exchange.Caller {
	t.Helper()
	c := newCaller(nil)
	for n := range 5 {
		if c.Away() || !send(t, c, refused) {
			t.Fatalf("it is open after %d failures", n)
		}
	}
	if !c.Away() {
		t.Fatal("it is closed after 5 failures")
	}
	return c
}

func TestAnOpenBreakerRefusesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := openBreaker(t)
		if !send(t, c, refused) {
			t.Fatal("no probe is let through")
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

// An exchange whose own attempts open the breaker ends as a fault of connecting.
func TestRetriesStopWhereTheBreakerOpens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(nil)
		for range 3 {
			send(t, c, refused)
		}
		r := responder{answers: []error{refused}}
		if err := c.Do(t.Context(), "Put", r.attempt); err != refused || len(r.numbers) != 3 {
			t.Errorf("got %v after %d attempts", err, len(r.numbers)) // the third is the probe
		}
		r = responder{answers: []error{refused}}
		time.Sleep(time.Second)
		if err := c.Do(t.Context(), "Put", r.attempt); err != refused || len(r.numbers) != 1 {
			t.Errorf("got %v after %d attempts", err, len(r.numbers))
		}
	})
}

func TestProbesKeepTheirDistance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := openBreaker(t)
		var probes []time.Time
		for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(10 * time.Millisecond) {
			if send(t, c, refused) {
				probes = append(probes, time.Now())
			}
		}
		for i := 1; i < len(probes); i++ {
			if apart := probes[i].Sub(probes[i-1]); apart != 250*time.Millisecond {
				t.Fatalf("probe %d is %s after the one before", i, apart)
			}
		}
		if len(probes) != 240 {
			t.Errorf("there were %d probes in a minute", len(probes))
		}
	})
}

func TestThereIsOneProbeAtATime(t *testing.T) {
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
			if send(t, c, nil) {
				t.Fatal("there is a second probe")
			}
		}
		time.Sleep(time.Second)
		if !c.Away() || !send(t, c, nil) {
			t.Error("there is none after it has ended")
		}
	})
}

func TestWhatAProbeShows(t *testing.T) {
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
		"success":                     {returns(nil), false},
		"a rejection":                 {returns(problem.New(problem.InsufficientStock, "")), false},
		"an internal error":           {returns(problem.New(problem.Internal, "")), false},
		"too much to do":              {returns(problem.New(problem.Overloaded, "")), false},
		"a connection that broke":     {returns(fault), false},
		"an error that is no problem": {returns(errors.New("a bug")), false},
		"success after the deadline":  {expired(nil), false},
		"no connection":               {returns(refused), true},
		"no connection in time":       {expired(refused), true},
		"no answer in time":           {expired(context.DeadlineExceeded), true},
		"a timeout of its own":        {returns(problem.New(problem.DeadlineExceeded, "")), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := openBreaker(t)
				_ = c.Resend(within(t, time.Second), "Put", test.attempt)
				if c.Away() != test.away {
					t.Errorf("away is %v", c.Away())
				}
			})
		})
	}
}

func TestFailuresCountInARow(t *testing.T) {
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
					send(t, c, refused)
				}
				send(t, c, test.between)
				if c.Away() {
					t.Error("four failures are enough")
				}
				send(t, c, refused)
				if c.Away() != test.away {
					t.Errorf("away is %v", c.Away())
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(nil)
		for range 100 {
			send(t, c, timeout)
		}
		if c.Away() {
			t.Error("timeouts open it")
		}
	})
}

func TestAProbeThatPanicsLetsTheNextOneThrough(t *testing.T) {
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
		if !send(t, c, nil) || c.Away() {
			t.Error("it is stuck")
		}
	})
}
