// Package store keeps stock in a database: it implements [stock.Store].
//
// A batch of commands is one transaction in three steps: load and lock what the
// commands need, let a [stock.Book] decide in memory, write what changed. The
// steps are the same for every database and stand in this file; what differs is
// behind the session interface.
package store

import (
	"context"
	"errors"
	"slices"
	"time"

	"roundtrip/internal/batch"
	"roundtrip/internal/failpoint"
	"roundtrip/services/inventory/internal/stock"
)

// session is one transaction.
type session interface {
	// reservations, adjustments and levels load and lock what there is, in the
	// order in which it is asked for, which is sorted.
	reservations(ids []string) ([]stock.Reservation, error)
	adjustments(ids []string) ([]stock.Adjustment, error)
	levels(keys []stock.Key) ([]stock.Level, error)
	// due finds the holds on these levels that have run out.
	due(keys []stock.Key, now time.Time) ([]string, error)
	write(stock.Changes) error
}

// transact runs f in one transaction and commits it, or rolls it back where f
// returns an error.
type transact func(ctx context.Context, f func(session) error) error

// maxQueue is the most calls that may wait for the database.
const maxQueue = 4096

// newBatcher makes the batcher of a store whose transactions are transact's.
func newBatcher(o batch.Options, transact transact) *batch.Batcher[stock.Command, stock.Result] {
	return batch.New(func(ctx context.Context, commands []stock.Command) []stock.Result {
		return together(ctx, transact, commands)
	}, o)
}

// do gives each command its result. Those that are valid are decided with the
// commands of other callers.
func do(ctx context.Context, batcher *batch.Batcher[stock.Command, stock.Result], commands []stock.Command) []stock.Result {
	results := make([]stock.Result, len(commands))
	var valid []stock.Command
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
func together(ctx context.Context, transact transact, commands []stock.Command) []stock.Result {
	results, err := decide(ctx, transact, commands)
	if err == nil {
		return results
	}
	if len(commands) == 1 {
		return []stock.Result{{Err: err}}
	}
	results = nil
	for _, c := range commands {
		results = append(results, together(ctx, transact, []stock.Command{c})...)
	}
	return results
}

// errMoreDue rolls a transaction back because holds that nobody had loaded are
// due on levels where a demand fell short.
var errMoreDue = errors.New("more holds are due")

// decide takes the three steps, again with more reservations locked for as long
// as holds that are due turn up where a demand fell short.
func decide(ctx context.Context, transact transact, commands []stock.Command) ([]stock.Result, error) {
	// One time for all rounds, so that the holds that are due by it are finite;
	// in milliseconds, as it is stored.
	now := time.Now().Truncate(time.Millisecond)
	needs := stock.NeedsOf(commands)
	for {
		results := make([]stock.Result, len(commands))
		var due []string
		err := transact(ctx, func(s session) error {
			book, err := open(s, needs, now)
			if err != nil {
				return err
			}
			for i, c := range commands {
				results[i] = book.Decide(c)
				hit("reservation-decided", c)
			}
			if due, err = dueElsewhere(s, book.Short(), needs.Reservations, now); err != nil {
				return err
			}
			if len(due) > 0 {
				return errMoreDue
			}
			if changes := book.Changes(); !changes.Empty() {
				if err := s.write(changes); err != nil {
					return err
				}
			}
			hitAll("reservation-written", commands)
			return nil
		})
		if errors.Is(err, errMoreDue) {
			needs.Reservations = slices.Sorted(slices.Values(append(needs.Reservations, due...)))
			continue
		}
		if err == nil {
			hitAll("reservation-committed", commands)
		}
		return results, err
	}
}

// open loads and locks, in the order that keeps transactions from waiting for
// each other in a circle: reservations, then adjustments, then levels.
func open(s session, needs stock.Needs, now time.Time) (*stock.Book, error) {
	reservations, err := s.reservations(needs.Reservations)
	if err != nil {
		return nil, err
	}
	adjustments, err := s.adjustments(needs.Adjustments)
	if err != nil {
		return nil, err
	}
	levels, err := s.levels(needs.With(reservations).Levels)
	if err != nil {
		return nil, err
	}
	return stock.NewBook(now, reservations, levels, adjustments), nil
}

func dueElsewhere(s session, short []stock.Key, loaded []string, now time.Time) ([]string, error) {
	if len(short) == 0 {
		return nil, nil
	}
	due, err := s.due(short, now)
	return slices.DeleteFunc(due, func(id string) bool { return slices.Contains(loaded, id) }), err
}

func hitAll(point string, commands []stock.Command) {
	for _, c := range commands {
		hit(point, c)
	}
}

// hit is where the crash tests stop the process.
func hit(point string, c stock.Command) {
	if put, ok := c.(stock.Put); ok {
		failpoint.Hit(point, string(put.State))
	}
}
