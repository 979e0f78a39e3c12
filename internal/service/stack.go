package service

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Stack remembers how to stop what was started, and stops it in the reverse
// order. The zero value is ready for use.
type Stack struct {
	mu    sync.Mutex
	steps []step
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
	s.steps = append(s.steps, step{name, stop})
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
	for i := len(steps) - 1; i >= 0; i-- {
		done := make(chan error, 1)
		go func() { done <- steps[i].stop(ctx) }()
		var err error
		select {
		case err = <-done:
		case <-ctx.Done():
			select {
			case err = <-done:
			default:
				err = ctx.Err()
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", steps[i].name, err))
		}
	}
	return errors.Join(errs...)
}
