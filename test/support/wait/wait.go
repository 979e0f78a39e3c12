// Package wait waits for a condition in a test.
package wait

import (
	"context"
	"testing"
	"time"
)

// interval is the pause between two checks of the condition.
const interval = 20 * time.Millisecond

// Until waits until the condition holds. After the limit it fails the test and adds
// the logs. The limit is generous, so that a busy machine meets it. It does not
// measure how fast the services are. logs may be nil.
func Until(t testing.TB, limit time.Duration, what string, logs func() string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for !condition() {
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			text := ""
			if logs != nil {
				text = logs()
			}
			t.Fatalf("after %s it is still not true that %s%s", limit, what, text)
		}
	}
}
