package lifecycle_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/lifecycle"
)

func TestRetryEnds(t *testing.T) {
	t.Parallel()
	failed := errors.New("not yet")
	for name, c := range map[string]struct {
		within, ready time.Duration
		tries         int
		err           error
	}{
		"ready":      {10 * time.Second, 0, 1, nil},
		"ready soon": {10 * time.Second, 2 * time.Second, 5, nil},
		"never":      {10 * time.Second, time.Hour, 21, failed},
		"no time":    {0, time.Second, 1, failed},
		"canceled":   {time.Hour, 2 * time.Hour, 121, failed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute+time.Millisecond)
				defer cancel()
				tries, began := 0, time.Now()
				err := lifecycle.Retry(ctx, c.within, func(context.Context) error {
					tries++
					if time.Since(began) < c.ready {
						return failed
					}
					return nil
				})
				if !errors.Is(err, c.err) || tries != c.tries {
					t.Errorf("after %d tries: %v", tries, err)
				}
			})
		})
	}
}
