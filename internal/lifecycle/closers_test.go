package lifecycle_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/lifecycle"
)

// steps records which of its steps were taken, in order.
type steps struct {
	mu    sync.Mutex
	taken []string
}

func (s *steps) step(name string, do func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		s.mu.Lock()
		s.taken = append(s.taken, name)
		s.mu.Unlock()
		return do(ctx)
	}
}

func (s *steps) want(t *testing.T, names ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.taken, names) {
		t.Errorf("the steps taken are %q, want %q", s.taken, names)
	}
}

func fine(context.Context) error { return nil }

func TestStepsAreTakenInReverseOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var stack lifecycle.Closers
		var s steps
		for _, name := range []string{"store", "wire", "http"} {
			stack.Add(name, s.step(name, func(context.Context) error {
				time.Sleep(time.Second) // the next one waits for it
				return nil
			}))
		}
		began := time.Now()
		if err := stack.Stop(within(t, time.Minute)); err != nil || time.Since(began) != 3*time.Second {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
		s.want(t, "http", "wire", "store")
		if err := stack.Stop(t.Context()); err != nil {
			t.Errorf("stopped again: %v", err)
		}
		s.want(t, "http", "wire", "store")
	})
}

// A step that takes all the time does not shorten the time of the others.
func TestParallelStepsAreTakenAtTheSameTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var stack lifecycle.Closers
		var mu sync.Mutex
		took := map[string]time.Duration{}
		began := time.Now()
		takes := func(name string, d time.Duration) func(context.Context) error {
			return func(ctx context.Context) error {
				select {
				case <-time.After(d):
				case <-ctx.Done():
				}
				mu.Lock()
				defer mu.Unlock()
				took[name] = time.Since(began)
				return ctx.Err()
			}
		}
		stack.Add("store", takes("store", 0))
		stack.Add("http", takes("http", time.Second))
		stack.AddParallel("grpc", takes("grpc", time.Hour))
		stack.AddParallel("nats", takes("nats", 2*time.Second))
		err := stack.Stop(within(t, 10*time.Second))
		synctest.Wait()
		if !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "http") || strings.Contains(err.Error(), "nats") {
			t.Errorf("got %v", err)
		}
		want := map[string]time.Duration{"http": time.Second, "nats": 2 * time.Second, "grpc": 10 * time.Second, "store": 10 * time.Second}
		if !maps.Equal(took, want) {
			t.Errorf("they took %v, want %v", took, want)
		}
	})
}

func TestFailedStepIsNamedAndDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	var stack lifecycle.Closers
	var s steps
	busy, gone := errors.New("busy"), errors.New("gone")
	stack.Add("store", s.step("store", func(context.Context) error { return busy }))
	stack.Add("wire", s.step("wire", fine))
	stack.Add("http", s.step("http", func(context.Context) error { return gone }))
	err := stack.Stop(t.Context())
	if !errors.Is(err, busy) || !errors.Is(err, gone) || err.Error() != "stop http: gone\nstop store: busy" {
		t.Errorf("got %v", err)
	}
	s.want(t, "http", "wire", "store")
}

func TestStopDoesNotWaitForAStepThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var stack lifecycle.Closers
		var s steps
		end := make(chan struct{})
		stack.Add("store", s.step("store", fine))
		stack.Add("http", s.step("http", func(context.Context) error {
			<-end // it ignores its context
			return nil
		}))
		stack.Add("settler", s.step("settler", fine))
		began := time.Now()
		err := stack.Stop(within(t, 10*time.Second))
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "stop http: ") || strings.Contains(err.Error(), "settler") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("it took %s", took)
		}
		synctest.Wait()
		s.want(t, "settler", "http", "store")
		close(end)
	})
}

func TestStepGetsTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var stack lifecycle.Closers
		ctx := within(t, 10*time.Second)
		deadline, _ := ctx.Deadline()
		stack.Add("http", func(ctx context.Context) error {
			if got, ok := ctx.Deadline(); !ok || !got.Equal(deadline) {
				t.Errorf("its deadline is %v, want %v", got, deadline)
			}
			return nil
		})
		if err := stack.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

// within returns a context with a deadline.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
