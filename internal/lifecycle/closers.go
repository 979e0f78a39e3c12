package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Closers is a list of the steps that stop a service. It takes them in the reverse
// order. The zero value is ready for use.
type Closers struct {
	mu    sync.Mutex
	steps [][]step // steps that are taken in parallel are in one slice
}

type step struct {
	name string
	stop func(context.Context) error
}

// Add adds a step that is taken before all earlier ones. The name identifies the step in
// an error.
func (s *Closers) Add(name string, stop func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, []step{{name, stop}})
}

// AddParallel adds a step that is taken at the same time as the one that was added
// last. Neither step waits for the other.
func (s *Closers) AddParallel(name string, stop func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := &s.steps[len(s.steps)-1]
	*last = append(*last, step{name, stop})
}

// Stop takes every step, the last one first, and joins their errors. A failed step does
// not prevent the others. If a step has not returned when ctx ends, Stop reports it and
// no longer waits for it. It still starts the remaining steps, but does not wait for
// them. A second Stop does nothing.
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
