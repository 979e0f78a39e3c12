// Package batch merges concurrent calls into one, so that one commit serves many
// callers.
//
// # Why group commit works
//
// A transaction that changes a few rows spends most of its time waiting for the
// disk to confirm the commit, and that wait is the same for one change as for a
// hundred. So while one batch is being committed, the calls that arrive queue
// up, and all of them together are the next batch (DeWitt et al.,
// "Implementation Techniques for Main Memory Database Systems", SIGMOD 1984,
// call it group commit). Nobody waits for a timer: a batch starts as soon as the
// one before has ended, and its size follows the load by itself. It also means
// that calls for the same row no longer wait for each other's commits: a hot row
// is as fast as a cold one.
//
// At one caller there is nothing to merge: the call runs at once, in its own
// goroutine, and costs a lock and a slice.
//
// # What a member may expect
//
// Calls are served in the order in which they came. One whose context is done
// before its batch begins is dropped, and not run at all. When a batch panics,
// every member is run again alone, so that the one who panics hurts nobody else;
// whatever else may go wrong in common is the run function's to take apart. The
// queue is bounded: a call that finds it full is refused as overloaded, before
// anything is done for it.
package batch

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"

	"roundtrip/internal/problem"
)

// Max is the most requests that one batch holds, unless a single call brings
// more or the options say otherwise.
const Max = 256

// Run does a batch of requests and gives each its result, in order. Its context
// is nobody's: it is not done when a member hangs up.
type Run[Request, Result any] func(ctx context.Context, requests []Request) []Result

// Options of a [Batcher].
type Options struct {
	// Queue is the most calls that may wait; more are refused.
	Queue int
	// InFlight is how many batches may run at the same time. One at a time is the
	// largest, and costs the least; more are for batches that may not merge calls.
	InFlight int
	// Max is the most requests that one batch holds; [Max] where it is 0.
	Max int
}

// Batcher merges calls. It is safe for concurrent use.
type Batcher[Request, Result any] struct {
	run     Run[Request, Result]
	options Options

	mu      sync.Mutex
	queue   []*call[Request, Result]
	running int
}

type call[Request, Result any] struct {
	ctx      context.Context
	requests []Request
	done     chan struct{}
	results  []Result
	err      error
}

// New makes a Batcher around run.
func New[Request, Result any](run Run[Request, Result], o Options) *Batcher[Request, Result] {
	if o.Max == 0 {
		o.Max = Max
	}
	return &Batcher[Request, Result]{run: run, options: o}
}

// Do runs a call's requests in one batch, with those of others, and returns
// their results in order. The error is overloaded where the queue is full, the
// context's where that is done first, with [ErrBegun] where the requests may still
// be done, and internal where they panicked.
func (b *Batcher[Request, Result]) Do(ctx context.Context, requests ...Request) ([]Result, error) {
	c := &call[Request, Result]{ctx: ctx, requests: requests, done: make(chan struct{})}
	b.mu.Lock()
	if len(b.queue) >= b.options.Queue {
		b.mu.Unlock()
		return nil, problem.New(problem.Overloaded, "Too many requests are waiting for the database.")
	}
	b.queue = append(b.queue, c)
	lead := b.running < b.options.InFlight
	var first []*call[Request, Result]
	if lead {
		b.running++
		first = b.take()
	}
	b.mu.Unlock()

	if lead {
		// One batch in the caller's own goroutine; what queued up meanwhile is
		// nobody's in particular.
		b.serve(first)
		b.mu.Lock()
		more := b.take()
		if more == nil {
			b.running--
		}
		b.mu.Unlock()
		if more != nil {
			go b.lead(more)
		}
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		// An answer that is there all the same is better than none.
		select {
		case <-c.done:
		default:
			if b.leave(c) {
				return nil, ctx.Err()
			}
			return nil, fmt.Errorf("%w: %w", ErrBegun, ctx.Err())
		}
	}
	return c.results, c.err
}

// ErrBegun is of a caller who did not wait for a batch that had begun.
var ErrBegun = errors.New("its batch has begun")

// leave takes a call out of the queue, and tells whether it was there still.
func (b *Batcher[Request, Result]) leave(c *call[Request, Result]) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := slices.Index(b.queue, c)
	if at < 0 {
		return false
	}
	b.queue = slices.Delete(b.queue, at, at+1)
	return true
}

// lead serves batches until the queue is empty.
func (b *Batcher[Request, Result]) lead(calls []*call[Request, Result]) {
	for calls != nil {
		b.serve(calls)
		b.mu.Lock()
		if calls = b.take(); calls == nil {
			b.running--
		}
		b.mu.Unlock()
	}
}

// take removes the next batch from the queue; nil where nothing waits.
func (b *Batcher[Request, Result]) take() []*call[Request, Result] {
	n, requests := 0, 0
	for n < len(b.queue) {
		if requests += len(b.queue[n].requests); requests > b.options.Max && n > 0 {
			break
		}
		n++
	}
	if n == 0 {
		return nil
	}
	calls := b.queue[:n:n]
	b.queue = b.queue[n:]
	return calls
}

// serve answers every call of a batch.
func (b *Batcher[Request, Result]) serve(calls []*call[Request, Result]) {
	var alive []*call[Request, Result]
	var requests []Request
	for _, c := range calls {
		if c.err = c.ctx.Err(); c.err == nil {
			alive, requests = append(alive, c), append(requests, c.requests...)
		}
	}
	if len(alive) > 0 {
		results, err := b.try(requests)
		for _, c := range alive {
			if err != nil && len(alive) > 1 {
				c.results, c.err = b.try(c.requests)
				continue
			}
			c.err = err
			if err == nil {
				c.results, results = results[:len(c.requests):len(c.requests)], results[len(c.requests):]
			}
		}
	}
	for _, c := range calls {
		close(c.done)
	}
}

// try runs requests; a panic is an error.
func (b *Batcher[Request, Result]) try(requests []Request) (results []Result, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	results = b.run(context.Background(), requests)
	if len(results) != len(requests) {
		return nil, fmt.Errorf("a batch of %d requests gave %d results", len(requests), len(results))
	}
	return results, nil
}
