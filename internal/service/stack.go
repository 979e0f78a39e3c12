package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Stack remembers how to stop what was started, and stops it in the reverse
// order. The zero value is ready for use.
type Stack struct {
	mu    sync.Mutex
	steps [][]step // those that are stopped side by side are together
}

type step struct {
	name string
	stop func(context.Context) error
}

// Push adds the next step to be stopped first. The name says in an error what
// did not stop.
func (s *Stack) Push(name string, stop func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, []step{{name, stop}})
}

// Beside adds to the step that was pushed last another one, to be stopped at the
// same time: none of them waits for what takes another all of its time.
func (s *Stack) Beside(name string, stop func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := &s.steps[len(s.steps)-1]
	*last = append(*last, step{name, stop})
}

// Stop takes every step, the last one first, also after one that failed, and
// joins their errors. A step that does not return by the time ctx is done is
// left behind and reported; those after it are still begun, but not waited for.
// Stopping again does nothing.
func (s *Stack) Stop(ctx context.Context) error {
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
