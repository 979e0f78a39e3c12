package exchange

import (
	"errors"
	"sync"
	"time"
)

const (
	// openAfter is how many attempts in a row must fail to connect.
	openAfter = 5
	// probeInterval is the shortest time between two probes of an open breaker. It is
	// short, so that a responder is found soon after its return.
	probeInterval = 250 * time.Millisecond
)

// breaker refuses attempts while connections to the responder fail, except for one
// probe at a time.
type breaker struct {
	mu       sync.Mutex
	failures int
	probing  bool
	probed   time.Time
}

func (b *breaker) open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures >= openAfter
}

// allow reports whether an attempt may be made, and whether it is a probe.
func (b *breaker) allow() (probe, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < openAfter {
		return false, true
	}
	if b.probing || time.Since(b.probed) < probeInterval {
		return false, false
	}
	b.probing, b.probed = true, time.Now()
	return true, true
}

// record counts how an attempt that was allowed ended. A success, or any error except
// a failure to connect, shows that the responder is reachable. An attempt that ran out
// of time shows nothing.
func (b *breaker) record(probe bool, err error, timedOut bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe {
		b.probing = false
	}
	var u unreachable
	switch {
	case errors.As(err, &u):
		b.failures++
	case err == nil || !timedOut:
		b.failures = 0
	}
}
