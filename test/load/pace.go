package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// pace says when requests are sent.
//
// Without a rate it is a closed loop: a caller sends its next request after it got
// the response to the last one. The load adapts to the services and measures their
// throughput.
//
// With a rate it is an open loop: every request has a due time, fixed before the
// first one is sent. Latency counts from the due time. So a request that is late
// because the services stalled has a high latency. Latency from the time of sending
// would hide the stall. Gil Tene calls that error coordinated omission ("How NOT to
// Measure Latency", 2015).
type pace struct {
	// callers is the maximum number of requests in flight.
	callers int
	// rate is in requests a second. 0 is a closed loop.
	rate float64
	// count is the number of requests. If it is 0, duration ends the load.
	count    int
	duration time.Duration
}

// requests is the number of requests, or -1 if it is not known in advance.
func (p pace) requests() int {
	switch {
	case p.count > 0:
		return p.count
	case p.rate > 0:
		return max(1, int(p.rate*p.duration.Seconds()))
	}
	return -1
}

// due is the due time of the i-th request.
func (p pace) due(began time.Time, i int) time.Time {
	return began.Add(time.Duration(float64(i) / p.rate * float64(time.Second)))
}

// drive calls send for every request, from 0, with the time from which its latency
// counts. It sends every due request, even if it is late. It returns when all calls
// have returned.
func (p pace) drive(ctx context.Context, send func(i int, due time.Time)) error {
	began, limit := time.Now(), p.requests()
	var next atomic.Int64
	var callers sync.WaitGroup
	for range p.callers {
		callers.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				due := time.Now()
				switch {
				case limit >= 0 && i >= limit, limit < 0 && due.Sub(began) >= p.duration, ctx.Err() != nil:
					return
				case p.rate > 0:
					due = p.due(began, i)
					select {
					case <-time.After(time.Until(due)):
					case <-ctx.Done():
						return
					}
				}
				send(i, due)
			}
		})
	}
	callers.Wait()
	return ctx.Err()
}

// String is the text for a report.
func (p pace) String() string {
	s := fmt.Sprintf("%d callers, closed loop", p.callers)
	if p.rate > 0 {
		s = fmt.Sprintf("%g requests/s, at most %d at the same time", p.rate, p.callers)
	}
	if p.count > 0 {
		return fmt.Sprintf("%s, %d requests", s, p.count)
	}
	return fmt.Sprintf("%s, %s", s, p.duration)
}
