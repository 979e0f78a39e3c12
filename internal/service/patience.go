package service

import (
	"context"
	"time"
)

// pace is how often something is tried that does not succeed yet.
const pace = 500 * time.Millisecond

// Patiently tries until it succeeds, for as long as it may take, and returns the last
// error. It tries at least once.
func Patiently(ctx context.Context, within time.Duration, try func(context.Context) error) error {
	end := time.Now().Add(within)
	for {
		err := try(ctx)
		if err == nil || time.Now().Add(pace).After(end) {
			return err
		}
		select {
		case <-time.After(pace):
		case <-ctx.Done():
			return err
		}
	}
}
