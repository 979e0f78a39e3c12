// Package store keeps orders in a database: it implements [order.Store].
//
// A batch of commands is one transaction in three steps: load and lock the
// orders, let an [order.UnitOfWork] decide in memory, write what changed. The steps
// are the same for every database and stand in this file; what differs is behind
// the session interface.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"roundtrip/internal/batch"
	"roundtrip/internal/database"
	"roundtrip/internal/failpoint"
	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

// Options say how a database is used.
type Options struct {
	// Connections is how many connections to PostgreSQL there are at most.
	Connections int
	// AllowUnsafe works with a PostgreSQL server that may lose what it confirmed.
	AllowUnsafe bool
	// BatchMax is the most commands that one transaction decides; 0 is the usual.
	BatchMax int
	Log      *slog.Logger
}

// Open opens the store that an address names. What is on SQLite is there at
// once; a PostgreSQL server may still be away, so the store is to be used after
// wait has returned: then the schema is there, made by migrate up.
func Open(ctx context.Context, source database.Source, o Options) (s order.Store, wait func(context.Context) error, err error) {
	address, err := source()
	if err != nil {
		return nil, nil, err
	}
	if address.SQLite != "" {
		s, err := OpenSQLite(ctx, address.SQLite, o)
		return s, func(context.Context) error { return nil }, err
	}
	db, err := database.OpenPostgres(source, o.Connections)
	if err != nil {
		return nil, nil, err
	}
	return NewPostgres(db, o), func(ctx context.Context) error {
		if err := PostgresMigrations(o.Log).WaitForSchema(ctx, db); err != nil || o.AllowUnsafe {
			return err
		}
		return db.CheckDurable(ctx)
	}, nil
}

// OpenReadOnly opens the store that an address names for reading, beside a
// service that has it open.
func OpenReadOnly(source database.Source) (order.Store, error) {
	address, err := source()
	if err != nil {
		return nil, err
	}
	if address.SQLite != "" {
		return OpenSQLiteReadOnly(address.SQLite)
	}
	db, err := database.OpenPostgres(source, 2)
	if err != nil {
		return nil, err
	}
	return NewPostgres(db, Options{}), nil
}

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
	if errors.Is(err, batch.ErrBegun) {
		err = unknown(problem.Wrap(err, problem.Unavailable, ""))
	}
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
	if errors.Is(err, database.ErrCommitUnknown) {
		// It may be done. Deciding again, on another connection, reads what is
		// there: what was recorded is joined.
		if results, again := decide(ctx, transact, commands); again == nil {
			return results
		}
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
		book := order.NewUnitOfWork(now, orders)
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
		case order.RecordOutcome:
			failpoint.Hit("outcome-"+moment, string(c.Operation))
		}
	}
}

func intentKey(orderID string, seq int64) string { return fmt.Sprint(seq, "/", orderID) }

// storedLine is a line as the database has it.
type storedLine struct {
	SKU       string `json:"sku"`
	Location  string `json:"location"`
	Quantity  int64  `json:"quantity"`
	UnitPrice int64  `json:"unit_price"`
}

func readLines(text string) ([]order.Line, error) {
	var stored []storedLine
	if err := json.Unmarshal([]byte(text), &stored); err != nil {
		return nil, err
	}
	lines := make([]order.Line, len(stored))
	for i, l := range stored {
		lines[i] = order.Line(l)
	}
	return lines, nil
}

func writeLines(lines []order.Line) string {
	stored := make([]storedLine, len(lines))
	for i, l := range lines {
		stored[i] = storedLine(l)
	}
	text, err := json.Marshal(stored)
	if err != nil { // lines hold strings and numbers only
		panic(err)
	}
	return string(text)
}

func readProblem(text *string) (*problem.Problem, error) {
	if text == nil {
		return nil, nil
	}
	p := new(problem.Problem)
	return p, json.Unmarshal([]byte(*text), p)
}

// writeProblem is nil for none.
func writeProblem(p *problem.Problem) *string {
	if p == nil {
		return nil
	}
	encoded, err := json.Marshal(p)
	if err != nil { // a problem holds strings and numbers only
		panic(err)
	}
	text := string(encoded)
	return &text
}
