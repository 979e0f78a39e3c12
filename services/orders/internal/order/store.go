package order

import (
	"context"
	"time"
)

// Store keeps orders and their intents. Its methods answer unavailable where
// the database can't be reached or can't work, and nothing was changed unless
// they say otherwise.
type Store interface {
	// Do decides a batch of commands in one transaction and gives each its
	// result, in order: load and lock the orders, let a [UnitOfWork] decide, write what
	// changed, commit. Where the commit's result is unknown every Err is
	// unavailable; commands are idempotent, so they may be given again. A command
	// that is not valid is answered invalid and the others are decided.
	Do(ctx context.Context, commands []Command) []Result

	// Order returns not-found if there is none with that id.
	Order(ctx context.Context, id string) (Order, error)
	// Orders lists the newest first; empty filters match everything.
	Orders(ctx context.Context, state State, customer string, page Page) ([]Order, string, error)
	// Settlement tells how the operation with that seq ended; not-found if it is
	// not settled or there is none.
	Settlement(ctx context.Context, id string, seq int64) (Settlement, error)

	// LeaseUnsettled leases up to limit orders that have an intent written down
	// before a time and are not leased, the oldest first.
	LeaseUnsettled(ctx context.Context, before time.Time, lease time.Duration, limit int) ([]Order, error)
	// LeaseExpiredHolds leases up to limit placed orders without an intent whose hold
	// ended before a time and that are not leased, the oldest first.
	LeaseExpiredHolds(ctx context.Context, before time.Time, lease time.Duration, limit int) ([]Order, error)
	// CountUnsettled counts the intents that are not settled and tells since when the
	// oldest has been; zero where there is none.
	CountUnsettled(ctx context.Context) (count int64, oldest time.Time, err error)

	Close() error
}

// Page is a part of a list: at most Limit orders after Cursor, which is empty
// for the first page and otherwise what the page before returned. A list's end
// has no cursor. A cursor that no list gave is answered invalid.
type Page struct {
	Cursor string
	Limit  int
}
