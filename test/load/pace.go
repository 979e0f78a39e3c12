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
// Without a rate it is a closed loop: a caller sends its next request when the
// one before has been answered, so the load adapts to the pair, and what is
// found is how much the pair can do.
//
// With a rate it is an open loop: every request has a time at which it is due,
// fixed before the first one is sent. A pair that stalls makes the requests that
// come due meanwhile late, and they are counted as late, because their latency
// runs from when they were due. To count from when they could at last be sent
// would leave out just what a stall does to callers: Gil Tene calls that
// coordinated omission ("How NOT to Measure Latency", 2015).
type pace struct {
	// callers is the most requests that wait for an answer at the same time.
	callers int
	// rate is how many requests a second come due; 0 is a closed loop.
	rate float64
	// count ends the load, or duration where count is 0.
	count    int
	duration time.Duration
}

// requests is how many there will be; -1 where that is not known before.
func (p pace) requests() int {
	switch {
	case p.count > 0:
		return p.count
	case p.rate > 0:
		return max(1, int(p.rate*p.duration.Seconds()))
	}
	return -1
}

// due is when the i-th request is to be sent.
func (p pace) due(began time.Time, i int) time.Time {
	return began.Add(time.Duration(float64(i) / p.rate * float64(time.Second)))
}

// drive calls send for every request, from 0, with the time from which its
// latency counts, and returns when all have been answered. All that came due are
// sent, however late.
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

// String says it as a report does.
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
