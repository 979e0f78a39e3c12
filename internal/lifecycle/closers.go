package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Closers remembers how to stop what was started, and stops it in the reverse
// order. The zero value is ready for use.
type Closers struct {
	mu    sync.Mutex
	steps [][]step // those that are stopped side by side are together
}

type step struct {
	name string
	stop func(context.Context) error
}

// Add adds the step that is taken first. The name says in an error what
// did not stop.
func (s *Closers) Add(name string, stop func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, []step{{name, stop}})
}

// AddParallel adds a step that is taken at the same time as the one that was added
// last: neither waits for the other.
func (s *Closers) AddParallel(name string, stop func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := &s.steps[len(s.steps)-1]
	*last = append(*last, step{name, stop})
}

// Stop takes every step, the last one first, also after one that failed, and
// joins their errors. A step that does not return by the time ctx is done is
// left behind and reported; those after it are still begun, but not waited for.
// Stopping again does nothing.
func (s *Closers) Stop(ctx context.Context) error {
	s.mu.Lock()
	steps := s.steps
	s.steps = nil
	s.mu.Unlock()
	var errs []error
	for _, together := range slices.Backward(steps) {
		done := make([]chan error, len(together))
		for i, step := range together {
			done[i] = make(chan error, 1)
			go func() { done[i] <- step.stop(ctx) }()
		}
		for i, step := range together {
			var err error
			select {
			case err = <-done[i]:
			case <-ctx.Done():
				select {
				case err = <-done[i]:
				default:
					err = ctx.Err()
				}
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("stop %s: %w", step.name, err))
			}
		}
	}
	return errors.Join(errs...)
}
