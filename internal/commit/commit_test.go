package commit

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"roundtrip/internal/problem"
)

// number is a command whose result is twice the number. A negative number is not
// valid.
type number int

func (n number) Validate() error {
	if n < 0 {
		return problem.New(problem.Invalid, "It is negative.")
	}
	return nil
}

type result struct {
	doubled int
	err     error
}

func failed(err error) result { return result{err: err} }

func double(commands []number) []result {
	results := make([]result, len(commands))
	for i, n := range commands {
		results[i].doubled = 2 * int(n)
	}
	return results
}

// gate is a transaction that reports each batch and waits until the test lets it
// continue.
type gate struct {
	started chan []number
	open    chan error
}

func newGate() *gate { return &gate{started: make(chan []number, 100), open: make(chan error, 100)} }

func (g *gate) transaction(_ context.Context, commands []number) ([]result, error) {
	g.started <- slices.Clone(commands)
	return double(commands), <-g.open
}

func (g *gate) group(o Options) *Group[number, result] { return NewGroup(g.transaction, failed, o) }

// one decides a single command.
func one(ctx context.Context, g *Group[number, result], n number) (int, error) {
	r := g.Do(ctx, []number{n})[0]
	return r.doubled, r.err
}

func TestCommandsQueuedDuringABatchAreTheNextBatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := newGate()
		g := gate.group(Options{})
		var callers sync.WaitGroup
		for n := range number(5) {
			callers.Go(func() {
				if got, err := one(t.Context(), g, n); err != nil || got != 2*int(n) {
					t.Errorf("%d: got %v, %v", n, got, err)
				}
			})
			synctest.Wait()
		}
		if first := <-gate.started; !slices.Equal(first, []number{0}) {
			t.Errorf("the first batch is %v", first)
		}
		gate.open <- nil
		if second := <-gate.started; !slices.Equal(second, []number{1, 2, 3, 4}) {
			t.Errorf("the second batch is %v", second)
		}
		gate.open <- nil
		callers.Wait()
	})
}

func TestBatchHasAtMostMaxCommands(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := newGate()
		g := gate.group(Options{Max: 4})
		var callers sync.WaitGroup
		call := func(commands ...number) {
			callers.Go(func() {
				for i, r := range g.Do(t.Context(), commands) {
					if r.err != nil || r.doubled != 2*int(commands[i]) {
						t.Errorf("%v: got %+v", commands, r)
					}
				}
			})
			synctest.Wait()
		}
		call(0)
		call(1, 2, 3)
		call(4, 5)
		call(6)
		call(7, 8, 9, 10, 11, 12) // alone more than Max
		for range 4 {
			gate.open <- nil
		}
		callers.Wait()
		for _, want := range [][]number{{0}, {1, 2, 3}, {4, 5, 6}, {7, 8, 9, 10, 11, 12}} {
			if got := <-gate.started; !slices.Equal(got, want) {
				t.Errorf("got batch %v, want %v", got, want)
			}
		}
	})
}

func TestWithMaxOneNothingIsMerged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := newGate()
		g := gate.group(Options{Max: 1, InFlight: 2})
		var callers sync.WaitGroup
		for n := range number(4) {
			callers.Go(func() { _, _ = one(t.Context(), g, n) })
			synctest.Wait()
		}
		if len(gate.started) != 2 {
			t.Errorf("%d transactions are in flight, want 2", len(gate.started))
		}
		for n := range number(4) {
			if got := <-gate.started; !slices.Equal(got, []number{n}) {
				t.Errorf("got batch %v, want %d alone", got, n)
			}
			gate.open <- nil
			synctest.Wait()
		}
		callers.Wait()
	})
}

func TestFullQueueRefusesCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := newGate()
		g := gate.group(Options{Queue: 2})
		var callers sync.WaitGroup
		for n := range number(3) { // one runs and two wait
			callers.Go(func() {
				if _, err := one(t.Context(), g, n); err != nil {
					t.Errorf("%d: %v", n, err)
				}
			})
			synctest.Wait()
		}
		if _, err := one(t.Context(), g, 9); problem.CodeOf(err) != problem.Overloaded {
			t.Errorf("got %v", err)
		}
		gate.open <- nil
		gate.open <- nil
		callers.Wait()
		gate.open <- nil
		if _, err := one(t.Context(), g, 9); err != nil {
			t.Errorf("after the queue is empty: %v", err)
		}
	})
}

func TestInvalidCommandDoesNotAffectTheOthers(t *testing.T) {
	t.Parallel()
	var batches [][]number
	g := NewGroup(func(_ context.Context, commands []number) ([]result, error) {
		batches = append(batches, commands)
		return double(commands), nil
	}, failed, Options{})
	got := g.Do(t.Context(), []number{1, -1, 2})
	if got[0].doubled != 2 || problem.CodeOf(got[1].err) != problem.Invalid || got[2].doubled != 4 {
		t.Errorf("got %+v", got)
	}
	if got := g.Do(t.Context(), []number{-1}); problem.CodeOf(got[0].err) != problem.Invalid {
		t.Errorf("got %+v", got)
	}
	if len(batches) != 1 || !slices.Equal(batches[0], []number{1, 2}) {
		t.Errorf("the transactions had %v", batches)
	}
}

func TestCallThatEndsBeforeItsBatchIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := newGate()
		g := gate.group(Options{})
		var callers sync.WaitGroup
		callers.Go(func() { _, _ = one(t.Context(), g, 1) })
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		callers.Go(func() {
			if _, err := one(short, g, 2); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrStarted) {
				t.Errorf("got %v", err)
			}
		})
		synctest.Wait()
		callers.Go(func() { _, _ = one(t.Context(), g, 3) })
		time.Sleep(2 * time.Second)
		<-gate.started
		gate.open <- nil
		if next := <-gate.started; !slices.Equal(next, []number{3}) {
			t.Errorf("the next batch is %v", next)
		}
		gate.open <- nil
		callers.Wait()
		if _, err := one(short, g, 4); !errors.Is(err, context.DeadlineExceeded) || len(gate.started) > 0 {
			t.Errorf("a call whose context has ended before it starts: %v", err)
		}
	})
}

// The error tells a caller that left whether its command may still take effect.
func TestCallThatEndsDuringItsBatchHasAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := newGate()
		g := gate.group(Options{Queue: 2})
		var callers sync.WaitGroup
		callers.Go(func() { _, _ = one(t.Context(), g, 1) })
		synctest.Wait()
		within := func(d time.Duration, n number, started bool) {
			callers.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), d)
				defer cancel()
				_, err := one(ctx, g, n)
				if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrStarted) != started {
					t.Errorf("%d: got %v", n, err)
				}
				if started && (problem.CodeOf(err) != problem.Unavailable || !strings.Contains(err.Error(), "repeat it with the same id")) {
					t.Errorf("%d: the error is %v", n, err)
				}
			})
			synctest.Wait()
		}
		within(time.Second, 2, false)
		within(3*time.Second, 3, true)
		time.Sleep(2 * time.Second)
		within(time.Hour, 4, true) // it takes the place of the call that left the queue
		gate.open <- nil
		synctest.Wait()
		time.Sleep(2 * time.Hour)
		gate.open <- nil
		callers.Wait()
		if first, second := <-gate.started, <-gate.started; !slices.Equal(first, []number{1}) || !slices.Equal(second, []number{3, 4}) {
			t.Errorf("the batches were %v and %v", first, second)
		}
	})
}

// members are the numbers from 1 to n.
func members(n int) []number {
	all := make([]number, n)
	for i := range all {
		all[i] = number(i + 1)
	}
	return all
}

// The other commands of a batch that failed are decided again, in halves.
func TestFailingCommandIsFoundByHalving(t *testing.T) {
	t.Parallel()
	for what, fail := range map[string]func() error{
		"an error": func() error { return problem.New(problem.Unavailable, "It can't be written.") },
		"a panic":  func() error { panic("unlucky") },
	} {
		for _, n := range []int{2, 3, 64, 256} {
			for _, poison := range []number{1, number(n/2 + 1), number(n)} {
				transactions := 0
				g := NewGroup(func(_ context.Context, commands []number) ([]result, error) {
					transactions++
					if slices.Contains(commands, poison) {
						return nil, fail()
					}
					return double(commands), nil
				}, failed, Options{})
				for i, r := range g.Do(t.Context(), members(n)) {
					if poisoned := number(i+1) == poison; (r.err != nil) != poisoned || !poisoned && r.doubled != 2*(i+1) {
						t.Errorf("%s at %d of %d: member %d got %+v", what, poison, n, i+1, r)
					}
				}
				if most := 1 + 2*bits.Len(uint(n-1)); transactions > most {
					t.Errorf("%s at %d of %d took %d transactions, want %d at most", what, poison, n, transactions, most)
				}
			}
		}
	}
}

func TestCommandWhoseCallerHasLeftIsNotDecidedAgain(t *testing.T) {
	t.Parallel()
	for what, err := range map[string]error{"failed": errors.New("it failed"), "unknown": fmt.Errorf("lost: %w", ErrUnknown)} {
		synctest.Test(t, func(t *testing.T) {
			gate := newGate()
			g := gate.group(Options{AfterUnknown: DecideAgain})
			var callers sync.WaitGroup
			callers.Go(func() { _, _ = one(t.Context(), g, 1) })
			synctest.Wait()
			for n := number(2); n <= 5; n++ {
				callers.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*time.Second)
					defer cancel()
					if _, err := one(ctx, g, n); (err == nil) != (n >= 4) {
						t.Errorf("%s: %d got %v", what, n, err)
					}
				})
				synctest.Wait()
			}
			gate.open <- nil
			<-gate.started
			time.Sleep(3500 * time.Millisecond) // 2 and 3 have left
			gate.open <- err
			for range 3 {
				gate.open <- nil
			}
			callers.Wait()
			close(gate.started)
			again := []number{}
			<-gate.started
			for batch := range gate.started {
				again = append(again, batch...)
			}
			if !slices.Equal(again, []number{4, 5}) {
				t.Errorf("%s: these were decided again: %v", what, again)
			}
		})
	}
}

// ended is a context that has ended but whose Done channel stays open, as if it ended
// at the same moment as its batch.
type ended struct {
	context.Context
	asked int
}

func (e *ended) Err() error {
	if e.asked++; e.asked == 1 { // when its batch starts
		return nil
	}
	return context.DeadlineExceeded
}

func TestCommandThatIsNotDecidedAgainGetsAnError(t *testing.T) {
	t.Parallel()
	for what, err := range map[string]error{"failed": errors.New("it failed"), "unknown": fmt.Errorf("lost: %w", ErrUnknown)} {
		g := NewGroup(func(_ context.Context, commands []number) ([]result, error) { return double(commands), err }, failed, Options{AfterUnknown: DecideAgain})
		for i, r := range g.Do(&ended{Context: t.Context()}, members(2)) {
			if !errors.Is(r.err, ErrStarted) || problem.CodeOf(r.err) != problem.Unavailable {
				t.Errorf("%s: member %d got %+v", what, i, r)
			}
		}
	}
}

func TestAfterAnUnknownCommitResult(t *testing.T) {
	t.Parallel()
	lost := problem.Wrap(fmt.Errorf("%w: the connection broke", ErrUnknown), problem.Unavailable, "The database can't be used.")
	for name, c := range map[string]struct {
		after   AfterUnknown
		fates   []error // the errors of the first transactions; later ones succeed
		batches int
		unknown bool
	}{
		"ask again":                         {AskAgain, []error{lost}, 1, true},
		"decide again":                      {DecideAgain, []error{lost}, 2, false},
		"decide again, unknown again":       {DecideAgain, []error{lost, lost}, 2, true},
		"decide again, and that fails":      {DecideAgain, []error{lost, errors.New("no connection")}, 2, true},
		"decide again, a part of the batch": {DecideAgain, []error{errors.New("it failed"), lost}, 4, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			batches := 0
			g := NewGroup(func(_ context.Context, commands []number) ([]result, error) {
				batches++
				if batches <= len(c.fates) {
					return double(commands), c.fates[batches-1]
				}
				return double(commands), nil
			}, failed, Options{AfterUnknown: c.after})
			for i, r := range g.Do(t.Context(), members(3)) {
				if !c.unknown {
					if r.err != nil || r.doubled != 2*(i+1) {
						t.Errorf("member %d got %+v", i, r)
					}
					continue
				}
				p := problem.From(r.err)
				if p.Code != problem.Unavailable || !errors.Is(p, ErrUnknown) || !strings.Contains(p.Detail, "repeat it with the same id") {
					t.Errorf("member %d got %v", i, p)
				}
				if r.doubled != 0 {
					t.Errorf("member %d got a result: %+v", i, r)
				}
			}
			if batches != c.batches {
				t.Errorf("it took %d transactions, want %d", batches, c.batches)
			}
		})
	}
}

func TestMissingResultIsAnInternalError(t *testing.T) {
	t.Parallel()
	g := NewGroup(func(context.Context, []number) ([]result, error) { return nil, nil }, failed, Options{})
	if _, err := one(t.Context(), g, 1); problem.CodeOf(err) != problem.Internal {
		t.Errorf("got %v", err)
	}
}

func TestLoneCallerIsServedInItsOwnGoroutine(t *testing.T) { // not parallel: it counts allocations
	g := NewGroup(func(_ context.Context, commands []number) ([]result, error) { return double(commands), nil }, failed, Options{})
	if n := testing.AllocsPerRun(100, func() { _, _ = one(t.Context(), g, 1) }); n > 12 {
		t.Errorf("it allocates %v times", n)
	}
}

// On every schedule each call gets its own results, once.
func TestEveryCallGetsItsOwnResults(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(1, 300), 1, 20).Draw(rt, "sizes")
		poison := number(rapid.IntRange(0, 3000).Draw(rt, "poison"))
		inFlight := rapid.IntRange(1, 2).Draw(rt, "in flight")
		var decided atomic.Int64
		g := NewGroup(func(_ context.Context, commands []number) ([]result, error) {
			if slices.Contains(commands, poison) {
				return nil, errors.New("poison")
			}
			decided.Add(int64(len(commands)))
			return double(commands), nil
		}, failed, Options{InFlight: inFlight})
		var callers sync.WaitGroup
		total := 0
		for _, size := range sizes {
			first := total
			total += size
			callers.Go(func() {
				commands := make([]number, size)
				for i := range commands {
					commands[i] = number(first + i)
				}
				for i, r := range g.Do(context.Background(), commands) {
					if poisoned := commands[i] == poison; poisoned != (r.err != nil) || !poisoned && r.doubled != 2*int(commands[i]) {
						rt.Errorf("%d: %+v", commands[i], r)
					}
				}
			})
		}
		callers.Wait()
		want := total
		if int(poison) < total {
			want--
		}
		if int(decided.Load()) != want {
			rt.Errorf("%d commands were decided, want %d", decided.Load(), want)
		}
	})
}
