package order

import (
	"context"
	"time"
)

// Store keeps orders and their intents. A method returns unavailable if the database
// can't be reached or can't work. In this case nothing was changed, except where the
// method's comment says otherwise.
type Store interface {
	// Do decides a batch of commands in one transaction and returns their results in
	// the same order. It loads and locks the orders, lets a [UnitOfWork] decide, writes
	// what changed, and commits. If the commit's result is unknown, every Err is
	// unavailable; commands are idempotent, so the caller may repeat them. A command
	// that is not valid gets an invalid problem, and the others are decided.
	Do(ctx context.Context, commands []Command) []Result

	// Order returns not-found if there is none with that id.
	Order(ctx context.Context, id string) (Order, error)
	// Orders lists orders, the newest first. An empty filter matches everything.
	Orders(ctx context.Context, state State, customer string, page Page) ([]Order, string, error)
	// Settlement returns how the operation with that seq ended. It returns not-found if
	// the operation is not settled or does not exist.
	Settlement(ctx context.Context, id string, seq int64) (Settlement, error)

	// LeaseUnsettled leases up to limit orders that have an intent recorded before a
	// time and are not leased, the oldest first.
	LeaseUnsettled(ctx context.Context, before time.Time, lease time.Duration, limit int) ([]Order, error)
	// LeaseExpiredHolds leases up to limit placed orders without an intent whose hold
	// ended before a time and that are not leased, the oldest first.
	LeaseExpiredHolds(ctx context.Context, before time.Time, lease time.Duration, limit int) ([]Order, error)
	// CountUnsettled counts the unsettled intents and returns when the oldest was
	// recorded; both are zero if there is none.
	CountUnsettled(ctx context.Context) (count int64, oldest time.Time, err error)

	Close() error
}

// Page is a part of a list: at most Limit orders after Cursor. Cursor is empty for the
// first page; for the next pages it is what the page before returned. The last page
// returns an empty cursor. The store answers invalid to a cursor that it did not return.
type Page struct {
	Cursor string
	Limit  int
}
