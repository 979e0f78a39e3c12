// Package commit lets concurrent callers share one transaction, so that one
// commit serves many of them. Both services change their databases through it.
//
// # Why group commit works
//
// A transaction that changes a few rows spends most of its time waiting for the
// disk to confirm the commit. That wait is the same for one change as for a
// hundred. So the commands that arrive during one commit queue up, and all of
// them together are the next batch (DeWitt et al., "Implementation Techniques
// for Main Memory Database Systems", SIGMOD 1984, call it group commit). There
// is no timer: a batch starts as soon as the previous one has ended, and its size
// follows the load. Commands for the same row share a commit too, so a hot row is as
// fast as a cold one.
//
// A lone caller's commands run at once, in its own goroutine.
//
// # What happens to a call
//
// A [Group] validates each command, queues the valid ones, decides them in one
// [Transaction] with those of other callers, and answers after the commit. Calls are
// served in the order in which they came. A call whose context ends
// before its batch starts is dropped. The queue is bounded: a call that finds it
// full is refused as overloaded.
//
// # When a transaction fails
//
// If one command fails, the transaction is rolled back and the results of the others
// are lost. The batch is then halved, and each half is decided in its own transaction.
// This is repeated until the failing command is alone. Among n commands it is found in
// at most 2·log2(n) further transactions. A panic counts as a failure. Commands whose
// callers have left in the meantime are not decided again.
//
// [AfterUnknown] says what happens after a commit whose result is unknown
// ([ErrUnknown]).
package commit

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"

	"roundtrip/internal/problem"
)

// DefaultMax is the largest number of commands in a batch, unless the options set
// another one or a single call has more.
const DefaultMax = 256

// maxQueue is the largest number of calls that may wait for the next batch.
const maxQueue = 4096

var (
	// ErrUnknown is wrapped by a [Transaction]'s error when its commit may or may
	// not have taken effect.
	ErrUnknown = errors.New("the commit's result is unknown")
	// ErrStarted reports that the caller gave up after its batch had started, so
	// the outcome of its commands is unknown.
	ErrStarted = errors.New("the caller left after its batch had started")
)

// Command is one decision to be made in a transaction.
type Command interface {
	// Validate returns what is wrong with the command itself, as an invalid problem.
	Validate() error
}

// Transaction decides commands in one transaction, one after the other, commits
// it, and returns a result for each. After an error nothing has taken effect,
// unless the error wraps [ErrUnknown]. The context does not belong to a caller: it
// does not end when a caller hangs up.
type Transaction[C Command, R any] func(ctx context.Context, commands []C) ([]R, error)

// AfterUnknown says what a [Group] does after a commit whose result is unknown.
type AfterUnknown int

const (
	// AskAgain answers every command of the batch as unavailable. Its caller repeats the
	// command, and the repeat is recognised.
	AskAgain AfterUnknown = iota
	// DecideAgain decides the batch once more, in a new transaction, which sees what
	// the first one recorded. If that fails too, every command of the batch is answered
	// as unavailable.
	DecideAgain
)

// Options of a [Group].
type Options struct {
	// Queue is the largest number of calls that may wait. Default: 4,096.
	Queue int
	// InFlight is how many transactions may run at the same time. Default: 1,
	// which makes the largest batches and costs the least.
	InFlight int
	// Max is the largest number of commands in a batch. Default: [DefaultMax].
	Max int
	// AfterUnknown is what to do after a commit whose result is unknown.
	AfterUnknown AfterUnknown
}

// Group merges the commands of concurrent callers. It is safe for concurrent use.
type Group[C Command, R any] struct {
	transaction Transaction[C, R]
	failed      func(error) R
	options     Options

	mu      sync.Mutex
	queue   []*call[C, R]
	running int
}

// call holds the commands of one caller. Its results are set before done is closed.
type call[C Command, R any] struct {
	ctx      context.Context
	commands []C
	results  []R
	err      error
	done     chan struct{}
}

// member is a command of a batch, with the place for its result.
type member[C Command, R any] struct {
	ctx     context.Context
	command C
	result  *R
}

// NewGroup makes a Group. The Group calls failed to turn the error of a command into
// its result.
func NewGroup[C Command, R any](transaction Transaction[C, R], failed func(error) R, o Options) *Group[C, R] {
	if o.Queue == 0 {
		o.Queue = maxQueue
	}
	if o.InFlight == 0 {
		o.InFlight = 1
	}
	if o.Max == 0 {
		o.Max = DefaultMax
	}
	return &Group[C, R]{transaction: transaction, failed: failed, options: o}
}

// Do decides commands in one transaction, with those of other callers, and returns
// their results in order. The error of a command is one of these:
//
//   - an invalid problem, if the command is not valid (the others are decided);
//   - overloaded, if the queue is full;
//   - the context's error, if the context ended before the batch started;
//   - unavailable, wrapping [ErrStarted], if the context ended later;
//   - internal, if the command panicked;
//   - the transaction's error.
func (g *Group[C, R]) Do(ctx context.Context, commands []C) []R {
	results := make([]R, len(commands))
	c := &call[C, R]{ctx: ctx, done: make(chan struct{})}
	var valid []int // the index in commands of each of c.commands
	for i, command := range commands {
		if err := command.Validate(); err != nil {
			results[i] = g.failed(err)
			continue
		}
		c.commands, valid = append(c.commands, command), append(valid, i)
	}
	if len(valid) == 0 {
		return results
	}
	err := g.submit(c)
	for i, at := range valid {
		if err != nil {
			results[at] = g.failed(err)
		} else {
			results[at] = c.results[i]
		}
	}
	return results
}

// submit queues a call and waits for its results.
func (g *Group[C, R]) submit(c *call[C, R]) error {
	g.mu.Lock()
	if len(g.queue) >= g.options.Queue {
		g.mu.Unlock()
		return problem.New(problem.Overloaded, "Too many requests are waiting for the database.")
	}
	g.queue = append(g.queue, c)
	lead := g.running < g.options.InFlight
	var first []*call[C, R]
	if lead {
		g.running++
		first = g.next()
	}
	g.mu.Unlock()

	if lead {
		// The caller serves one batch itself. A new goroutine serves the batches that
		// have queued up in the meantime, so that the caller can return.
		g.serve(first)
		if more := g.nextOrRest(); more != nil {
			go func() {
				for ; more != nil; more = g.nextOrRest() {
					g.serve(more)
				}
			}()
		}
	}
	select {
	case <-c.done:
		return c.err
	case <-c.ctx.Done():
	}
	select {
	case <-c.done: // the results have arrived at the same time: return them
		return c.err
	default:
	}
	if g.withdraw(c) {
		return c.ctx.Err()
	}
	return left(c.ctx.Err())
}

// withdraw takes a call out of the queue. It reports false when its batch has
// started.
func (g *Group[C, R]) withdraw(c *call[C, R]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	at := slices.Index(g.queue, c)
	if at < 0 {
		return false
	}
	g.queue = slices.Delete(g.queue, at, at+1)
	return true
}

// nextOrRest removes the next batch from the queue. When the queue is empty it
// returns nil, and one transaction fewer is in flight.
func (g *Group[C, R]) nextOrRest() []*call[C, R] {
	g.mu.Lock()
	defer g.mu.Unlock()
	calls := g.next()
	if calls == nil {
		g.running--
	}
	return calls
}

// next removes the next batch from the queue; nil when nothing waits.
func (g *Group[C, R]) next() []*call[C, R] {
	n, commands := 0, 0
	for n < len(g.queue) {
		if commands += len(g.queue[n].commands); commands > g.options.Max && n > 0 {
			break
		}
		n++
	}
	if n == 0 {
		return nil
	}
	calls := g.queue[:n:n]
	g.queue = g.queue[n:]
	return calls
}

// serve decides a batch and answers its calls.
func (g *Group[C, R]) serve(calls []*call[C, R]) {
	var batch []member[C, R]
	for _, c := range calls {
		if c.err = c.ctx.Err(); c.err != nil {
			continue
		}
		c.results = make([]R, len(c.commands))
		for i, command := range c.commands {
			batch = append(batch, member[C, R]{c.ctx, command, &c.results[i]})
		}
	}
	g.decide(batch)
	for _, c := range calls {
		close(c.done)
	}
}

// decide gives each member of a batch its result.
func (g *Group[C, R]) decide(batch []member[C, R]) {
	err := g.try(batch)
	switch {
	case err == nil:
	case errors.Is(err, ErrUnknown):
		if g.options.AfterUnknown == DecideAgain {
			batch = g.waiting(batch)
			if g.try(batch) == nil {
				return
			}
		}
		g.fail(batch, unknown(err))
	case len(batch) == 1:
		g.fail(batch, err)
	default:
		batch = g.waiting(batch)
		g.decide(batch[:len(batch)/2])
		g.decide(batch[len(batch)/2:])
	}
}

// waiting leaves out the members whose callers have left. They are not decided
// again.
func (g *Group[C, R]) waiting(batch []member[C, R]) []member[C, R] {
	return slices.DeleteFunc(batch, func(m member[C, R]) bool {
		err := m.ctx.Err()
		if err != nil {
			*m.result = g.failed(left(err))
		}
		return err != nil
	})
}

func (g *Group[C, R]) fail(batch []member[C, R], err error) {
	for _, m := range batch {
		*m.result = g.failed(err)
	}
}

// try decides a batch in one transaction. It turns a panic into an error.
func (g *Group[C, R]) try(batch []member[C, R]) (err error) {
	if len(batch) == 0 {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	commands := make([]C, len(batch))
	for i, m := range batch {
		commands[i] = m.command
	}
	results, err := g.transaction(context.Background(), commands)
	if err != nil {
		return err
	}
	if len(results) != len(batch) {
		return fmt.Errorf("a batch of %d commands returned %d results", len(batch), len(results))
	}
	for i, m := range batch {
		*m.result = results[i]
	}
	return nil
}

// left makes the error for a caller that left after its batch had started.
func left(err error) error { return unknown(fmt.Errorf("%w: %w", ErrStarted, err)) }

// unknown makes the error that tells a caller what to do about commands whose outcome
// is unknown.
func unknown(err error) error {
	return problem.Wrap(err, problem.Unavailable,
		"The database can't be used at the moment. The request may be recorded; repeat it with the same id.")
}
