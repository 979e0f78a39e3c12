package exchange_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

// retryCounter counts the requests and retries to a responder that always answers
// with an error.
type retryCounter struct {
	mu                sync.Mutex
	began             time.Time
	requests, retries int
}

func (l *retryCounter) allowance() float64 {
	return 0.1*float64(l.requests) + 10*time.Since(l.began).Seconds()
}

func (l *retryCounter) call(t *testing.T, c *exchange.Caller, answer error) {
	l.mu.Lock()
	l.requests++
	l.mu.Unlock()
	_ = c.Do(within(t, 2*time.Second), "Put", func(_ context.Context, n int) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if n > 1 {
			l.retries++
		}
		if float64(l.retries) > l.allowance()+1e-6 {
			t.Errorf("%d retries for %d requests in %s", l.retries, l.requests, time.Since(l.began))
		}
		return answer
	})
}

// At every rate and at every moment, retries stay within a tenth of the requests
// plus ten a second. The budget is also used.
func TestRetriesStayWithinTheBudget(t *testing.T) {
	t.Parallel()
	for _, perSecond := range []int{1, 5, 20, 100, 500} {
		t.Run(fmt.Sprint(perSecond, " a second"), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := exchange.NewCaller(exchange.Options{})
				l := retryCounter{began: time.Now()}
				var callers sync.WaitGroup
				for time.Since(l.began) < time.Minute {
					callers.Go(func() { l.call(t, c, fault) })
					time.Sleep(time.Second / time.Duration(perSecond))
				}
				callers.Wait()
				wanted := min(2*float64(l.requests), l.allowance())
				if float64(l.retries) < 0.9*wanted {
					t.Errorf("%d retries were made, want at least 90 %% of %.0f", l.retries, wanted)
				}
			})
		})
	}
}

func TestBudgetStartsEmpty(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := exchange.NewCaller(exchange.Options{})
		l := retryCounter{began: time.Now()}
		l.call(t, c, fault)
		if l.retries != 0 {
			t.Errorf("%d retries were made with an empty budget", l.retries)
		}
	})
}

func TestBudgetIsCapped(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		before      func(t *testing.T, c *exchange.Caller)
		least, most int
	}{
		"by time":     {func(*testing.T, *exchange.Caller) { time.Sleep(time.Hour) }, 10, 10},
		"by requests": {func(t *testing.T, c *exchange.Caller) { callMany(t, c, 10_000, nil) }, 100, 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := exchange.NewCaller(exchange.Options{})
				test.before(t, c)
				// 150 requests add 15 to the budget, and time adds a little.
				got := callMany(t, c, 150, fault)
				if got < test.least || got > test.most+15+2 {
					t.Errorf("there were %d retries", got)
				}
			})
		})
	}
}

// callMany makes n exchanges at once and returns the number of retries.
func callMany(t *testing.T, c *exchange.Caller, n int, answer error) (retries int) {
	var mu sync.Mutex
	var callers sync.WaitGroup
	for range n {
		callers.Go(func() {
			_ = c.Do(within(t, 2*time.Second), "Put", func(_ context.Context, n int) error {
				mu.Lock()
				defer mu.Unlock()
				if n > 1 {
					retries++
				}
				return answer
			})
		})
	}
	callers.Wait()
	return retries
}

func TestResendsDoNotTouchTheBudget(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		filled   bool
		answer   error
		attempts int
	}{
		"resends use no budget": {true, fault, 3},
		"resends add no budget": {false, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := exchange.NewCaller(exchange.Options{})
				if test.filled {
					time.Sleep(time.Second)
				}
				for range 1000 {
					if !resend(t, c, test.answer) {
						t.Fatal("a resend was not made")
					}
				}
				r := responder{answers: []error{problem.New(problem.Overloaded, "")}}
				_ = c.Do(within(t, 2*time.Second), "Put", r.attempt)
				if len(r.numbers) != test.attempts {
					t.Errorf("there were %d attempts, want %d", len(r.numbers), test.attempts)
				}
			})
		})
	}
}
