// Package store keeps orders in a database: it implements [order.Store].
//
// A batch of commands is one transaction in three steps: load and lock the orders, let
// an [order.UnitOfWork] decide in memory, write what changed. This file has the steps,
// which are the same for every database. The session interface hides what differs.
// Package commit merges the commands of concurrent callers into such batches.
package store

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"roundtrip/internal/commit"
	"roundtrip/internal/database"
	"roundtrip/internal/failpoint"
	"roundtrip/services/orders/internal/order"
)

//go:embed migrations
var migrations embed.FS

// Schema is the schema of orders' database.
func Schema() database.Schema { return database.NewSchema(migrations) }

// Open opens the store that the options name. The store can be used after wait has
// returned.
func Open(ctx context.Context, o database.Options) (s order.Store, wait func(context.Context) error, err error) {
	db, wait, err := database.Open(ctx, Schema(), o)
	if err != nil {
		return nil, nil, err
	}
	return New(db, o), wait, nil
}

// OpenReadOnly opens a store for reading. A service may have it open at the same time.
func OpenReadOnly(source database.Source) (order.Store, error) {
	db, err := database.OpenReadOnly(source)
	if err != nil {
		return nil, err
	}
	return New(db, database.Options{}), nil
}

// New makes a store on an open database.
func New(db database.Database, o database.Options) order.Store {
	// An intent is recorded before anything is sent, so it is safe to decide a batch
	// again: the second run reads the orders on another connection, and joins intents
	// that the first run recorded.
	group := db.GroupCommit(o, commit.DecideAgain)
	if db.SQLite != nil {
		return newSQLite(db.SQLite, group)
	}
	return newPostgres(db.Postgres, group)
}

// session is one transaction.
type session interface {
	// orders loads and locks the orders that exist, sorted by id.
	orders(ids []string) ([]order.Order, error)
	write(now time.Time, c order.Changes) error
}

// transact runs f in one transaction. It commits, or rolls back if f returns an error.
type transact func(ctx context.Context, f func(session) error) error

// newGroup makes the group that merges the commands of concurrent callers.
func newGroup(transact transact, o commit.Options) *commit.Group[order.Command, order.Result] {
	return commit.NewGroup(func(ctx context.Context, commands []order.Command) ([]order.Result, error) {
		return decide(ctx, transact, commands)
	}, func(err error) order.Result { return order.Result{Err: err} }, o)
}

// decide runs the three steps.
func decide(ctx context.Context, transact transact, commands []order.Command) ([]order.Result, error) {
	ids := make([]string, len(commands))
	for i, c := range commands {
		ids[i] = c.OrderID()
	}
	slices.Sort(ids)
	// The database stores milliseconds.
	now := time.Now().Truncate(time.Millisecond)
	hit("before", commands)
	results := make([]order.Result, len(commands))
	err := transact(ctx, func(s session) error {
		orders, err := s.orders(slices.Compact(ids))
		if err != nil {
			return err
		}
		work := order.NewUnitOfWork(now, orders)
		for i, c := range commands {
			results[i] = work.Decide(c)
		}
		if changes := work.Changes(); !changes.Empty() {
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

// hit marks the points at which the crash tests kill the process.
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

// storedLine is a line as the database stores it.
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

// listKey is the sort key of the list of orders. Cursors contain it.
func listKey(o order.Order) []any { return []any{o.CreatedAt.UnixMilli(), o.ID} }
