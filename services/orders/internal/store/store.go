// Package store keeps orders in a database: it implements [order.Store].
//
// A batch of commands is one transaction in three steps: load and lock the
// orders, let an [order.Book] decide in memory, write what changed. The steps
// are the same for every database and stand in this file; what differs is behind
// the session interface.
package store

import (
	"context"
	"slices"
	"time"

	"roundtrip/internal/batch"
	"roundtrip/internal/failpoint"
	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

// session is one transaction.
type session interface {
	// orders loads and locks those that there are, in the order of their ids.
	orders(ids []string) ([]order.Order, error)
	write(now time.Time, c order.Changes) error
}

// transact runs f in one transaction and commits it, or rolls it back where f
// returns an error.
type transact func(ctx context.Context, f func(session) error) error

// maxQueue is the most calls that may wait for the database.
const maxQueue = 4096

// newBatcher makes the batcher of a store whose transactions are transact's.
func newBatcher(o batch.Options, transact transact) *batch.Batcher[order.Command, order.Result] {
	return batch.New(func(ctx context.Context, commands []order.Command) []order.Result {
		return together(ctx, transact, commands)
	}, o)
}

// do gives each command its result. Those that are valid are decided with the
// commands of other callers.
func do(ctx context.Context, batcher *batch.Batcher[order.Command, order.Result], commands []order.Command) []order.Result {
	results := make([]order.Result, len(commands))
	var valid []order.Command
	var at []int // at[i] is the place of valid[i] among the commands
	for i, c := range commands {
		if err := c.Validate(); err != nil {
			results[i].Err = err
			continue
		}
		valid, at = append(valid, c), append(at, i)
	}
	if len(valid) == 0 {
		return results
	}
	decided, err := batcher.Do(ctx, valid...)
	for i := range valid {
		if err != nil {
			results[at[i]].Err = err
		} else {
			results[at[i]] = decided[i]
		}
	}
	return results
}

// together decides a batch in one transaction. Where that fails, whatever was
// decided beside the command that failed is worth nothing, and each is decided
// again, alone.
func together(ctx context.Context, transact transact, commands []order.Command) []order.Result {
	results, err := decide(ctx, transact, commands)
	if err == nil {
		return results
	}
	if len(commands) == 1 {
		return []order.Result{{Err: unknown(err)}}
	}
	results = nil
	for _, c := range commands {
		results = append(results, together(ctx, transact, []order.Command{c})...)
	}
	return results
}

// unknown says of a transaction that failed what its caller may do: it may have
// been committed.
func unknown(err error) error {
	if problem.CodeOf(err) != problem.Unavailable {
		return err
	}
	return problem.Wrap(err, problem.Unavailable,
		"The database can't be used at the moment. The request may be recorded; repeat it with the same id.")
}

// decide takes the three steps.
func decide(ctx context.Context, transact transact, commands []order.Command) ([]order.Result, error) {
	ids := make([]string, len(commands))
	for i, c := range commands {
		ids[i] = c.OrderID()
	}
	slices.Sort(ids)
	// In milliseconds, as it is stored.
	now := time.Now().Truncate(time.Millisecond)
	hit("before", commands)
	results := make([]order.Result, len(commands))
	err := transact(ctx, func(s session) error {
		orders, err := s.orders(slices.Compact(ids))
		if err != nil {
			return err
		}
		book := order.NewBook(now, orders)
		for i, c := range commands {
			results[i] = book.Decide(c)
		}
		if changes := book.Changes(); !changes.Empty() {
			if err := s.write(now, changes); err != nil {
				return err
			}
		}
		hit("in-transaction", commands)
		return nil
	})
	if err == nil {
		hit("committed", commands)
	}
	return results, err
}

// hit is where the crash tests stop the process.
func hit(moment string, commands []order.Command) {
	for _, c := range commands {
		switch c := c.(type) {
		case order.Place:
			failpoint.Hit("intent-"+moment, "place")
		case order.Amend:
			failpoint.Hit("intent-"+moment, "amend")
		case order.Confirm:
			failpoint.Hit("intent-"+moment, "confirm")
		case order.Cancel:
			failpoint.Hit("intent-"+moment, "cancel")
		case order.Settle:
			failpoint.Hit("outcome-"+moment, string(c.Operation))
		}
	}
}
