package lifecycle

import (
	"context"
	"time"
)

// retryPause is the time between two tries.
const retryPause = 500 * time.Millisecond

// Retry tries until it succeeds or the time is up, and returns the last error. It
// tries at least once.
func Retry(ctx context.Context, within time.Duration, try func(context.Context) error) error {
	end := time.Now().Add(within)
	for {
		err := try(ctx)
		if err == nil || time.Now().Add(retryPause).After(end) {
			return err
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return err
		}
	}
}
