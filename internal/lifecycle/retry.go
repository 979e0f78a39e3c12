package lifecycle

import (
	"context"
	"time"
)

// retryPause is the wait between two tries.
const retryPause = 500 * time.Millisecond

// Retry calls try until it succeeds, the time is up or ctx ends, and returns the last
// error. It calls try at least once.
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
