package batch

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
	"roundtrip/internal/problem"
)

// gate is a run function that reports each batch and waits to be let through.
type gate struct {
	began chan []int
	open  chan struct{}
}

func newGate() *gate { return &gate{began: make(chan []int, 100), open: make(chan struct{}, 100)} }

func (g *gate) run(_ context.Context, requests []int) []int {
	g.began <- slices.Clone(requests)
	<-g.open
	doubled := make([]int, len(requests))
	for i, r := range requests {
		doubled[i] = 2 * r
	}
	return doubled
}

func TestWhatQueuedWhileABatchRanIsTheNextOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		b := New(g.run, Options{Queue: 1000, InFlight: 1})
		var callers sync.WaitGroup
		call := func(n int) {
			callers.Go(func() {
				got, err := b.Do(t.Context(), n)
				if err != nil || !slices.Equal(got, []int{2 * n}) {
					t.Errorf("%d: got %v, %v", n, got, err)
				}
			})
			synctest.Wait()
		}
		for n := range 5 {
			call(n)
		}
		if first := <-g.began; !slices.Equal(first, []int{0}) {
			t.Errorf("the first batch is %v", first)
		}
		g.open <- struct{}{}
		if second := <-g.began; !slices.Equal(second, []int{1, 2, 3, 4}) {
			t.Errorf("the second batch is %v", second)
		}
		g.open <- struct{}{}
		callers.Wait()
	})
}

func TestABatchHoldsNoMoreThanMax(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		b := New(g.run, Options{Queue: 1000, InFlight: 1})
		var callers sync.WaitGroup
		for n := range 1 + Max + 1 {
			callers.Go(func() { _, _ = b.Do(t.Context(), n) })
			synctest.Wait()
		}
		many := make([]int, Max+10)
		callers.Go(func() {
			if got, err := b.Do(t.Context(), many...); len(got) != len(many) || err != nil {
				t.Errorf("a call with more than Max: %d results, %v", len(got), err)
			}
		})
		synctest.Wait()
		for _, want := range []int{1, Max, 1, Max + 10} {
			if got := len(<-g.began); got != want {
				t.Errorf("a batch of %d, want %d", got, want)
			}
			g.open <- struct{}{}
		}
		callers.Wait()
	})
}

func TestBatchesOfOneMergeNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		b := New(g.run, Options{Queue: 1000, InFlight: 1, Max: 1})
		var callers sync.WaitGroup
		for n := range 5 {
			callers.Go(func() { _, _ = b.Do(t.Context(), n) })
			synctest.Wait()
		}
		for n := range 5 {
			if got := <-g.began; !slices.Equal(got, []int{n}) {
				t.Errorf("batch %d is %v", n, got)
			}
			g.open <- struct{}{}
		}
		callers.Wait()
	})
}

func TestBatchesInFlightAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		b := New(g.run, Options{Queue: 1000, InFlight: 2})
		var callers sync.WaitGroup
		for n := range 10 {
			callers.Go(func() { _, _ = b.Do(t.Context(), n) })
			synctest.Wait()
		}
		if n := len(g.began); n != 2 {
			t.Errorf("%d batches run at the same time", n)
		}
		for range 10 {
			g.open <- struct{}{}
		}
		callers.Wait()
	})
}

func TestAFullQueueRefuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		b := New(g.run, Options{Queue: 2, InFlight: 1})
		var callers sync.WaitGroup
		for n := range 3 {
			callers.Go(func() {
				if _, err := b.Do(t.Context(), n); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		if _, err := b.Do(t.Context(), 3); problem.CodeOf(err) != problem.Overloaded {
			t.Errorf("got %v", err)
		}
		g.open <- struct{}{}
		g.open <- struct{}{}
		callers.Wait()
	})
}

func TestACallThatNobodyWaitsForIsNotRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		b := New(g.run, Options{Queue: 10, InFlight: 1})
		var callers sync.WaitGroup
		callers.Go(func() { _, _ = b.Do(t.Context(), 1) })
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		callers.Go(func() {
			if _, err := b.Do(short, 2); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
		synctest.Wait()
		callers.Go(func() { _, _ = b.Do(t.Context(), 3) })
		time.Sleep(2 * time.Second)
		<-g.began
		g.open <- struct{}{}
		if next := <-g.began; !slices.Equal(next, []int{3}) {
			t.Errorf("the next batch is %v", next)
		}
		g.open <- struct{}{}
		callers.Wait()
		if _, err := b.Do(short, 4); !errors.Is(err, context.DeadlineExceeded) || len(g.began) > 0 {
			t.Errorf("a call that is late from the start: %v", err)
		}
	})
}

// Who leaves knows whether what was asked may still be done.
func TestACallThatIsLeftWhileItsBatchRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		b := New(g.run, Options{Queue: 2, InFlight: 1})
		var callers sync.WaitGroup
		callers.Go(func() { _, _ = b.Do(t.Context(), 1) })
		synctest.Wait()
		within := func(d time.Duration, request int, begun bool) {
			callers.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), d)
				defer cancel()
				if _, err := b.Do(ctx, request); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrBegun) != begun {
					t.Errorf("%d: got %v", request, err)
				}
			})
			synctest.Wait()
		}
		within(time.Second, 2, false)
		within(3*time.Second, 3, true)
		time.Sleep(2 * time.Second)
		within(time.Hour, 4, true) // there is the place of the one who left
		g.open <- struct{}{}
		synctest.Wait()
		time.Sleep(2 * time.Hour)
		g.open <- struct{}{}
		callers.Wait()
		if first, second := <-g.began, <-g.began; !slices.Equal(first, []int{1}) || !slices.Equal(second, []int{3, 4}) {
			t.Errorf("the batches were %v and %v", first, second)
		}
	})
}

func TestAPanicAnswersTheOneWhoPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var opened sync.WaitGroup
		opened.Add(1)
		b := New(func(_ context.Context, requests []int) []int {
			opened.Wait()
			if slices.Contains(requests, 13) {
				panic("unlucky")
			}
			return requests
		}, Options{Queue: 100, InFlight: 1})
		var callers sync.WaitGroup
		for n := 10; n < 16; n++ {
			callers.Go(func() {
				got, err := b.Do(t.Context(), n)
				if n == 13 && (err == nil || problem.CodeOf(err) != problem.Internal) {
					t.Errorf("13 got %v, %v", got, err)
				}
				if n != 13 && (err != nil || !slices.Equal(got, []int{n})) {
					t.Errorf("%d got %v, %v", n, got, err)
				}
			})
			synctest.Wait()
		}
		opened.Done()
		callers.Wait()
	})
}

func TestALoneCallerRunsAtOnceInItsOwnGoroutine(t *testing.T) { // not parallel: it counts allocations
	b := New(func(_ context.Context, requests []int) []int { return requests }, Options{Queue: 1, InFlight: 1})
	if n := testing.AllocsPerRun(100, func() { _, _ = b.Do(t.Context(), 1) }); n > 12 {
		t.Errorf("it allocates %v times", n)
	}
}

// Whatever the schedule, every call gets its own results, once.
func TestEveryCallGetsItsOwnResults(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(1, 300), 1, 20).Draw(rt, "sizes")
		inFlight := rapid.IntRange(1, 2).Draw(rt, "in flight")
		var ran atomic.Int64
		b := New(func(_ context.Context, requests [][2]int) [][2]int {
			ran.Add(int64(len(requests)))
			return requests
		}, Options{Queue: 100, InFlight: inFlight})
		var callers sync.WaitGroup
		total := 0
		for i, size := range sizes {
			total += size
			callers.Go(func() {
				requests := make([][2]int, size)
				for j := range requests {
					requests[j] = [2]int{i, j}
				}
				got, err := b.Do(context.Background(), requests...)
				if err != nil || !slices.Equal(got, requests) {
					rt.Errorf("call %d: %v", i, err)
				}
			})
		}
		callers.Wait()
		if int(ran.Load()) != total {
			rt.Errorf("%d requests ran, want %d", ran.Load(), total)
		}
	})
}
