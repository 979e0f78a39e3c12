package stock

import (
	"context"
	"fmt"
	"time"
)

// Store keeps stock. Its methods answer unavailable where the database can't be
// reached or can't work, and nothing was changed unless they say otherwise.
type Store interface {
	// Do decides a batch of commands in one transaction and gives each its
	// result, in order: load and lock what they need, let a [UnitOfWork] decide, write
	// what changed, commit. Where the commit's result is unknown every Err is
	// unavailable; the commands are idempotent, so they may be sent again. A
	// command that is not valid is answered invalid and the others are decided.
	Do(ctx context.Context, commands []Command) []Result

	// Reservation returns not-found if there is none with that id.
	Reservation(ctx context.Context, id string) (Reservation, error)
	// Reservations lists the newest first; an empty state means every state.
	Reservations(ctx context.Context, state State, page Page) ([]Reservation, string, error)
	// Levels returns the levels of these SKUs at every location, by location and
	// SKU. A SKU that is not known has none.
	Levels(ctx context.Context, skus []string) ([]Level, error)
	// AllLevels lists every level, by location and SKU.
	AllLevels(ctx context.Context, page Page) ([]Level, string, error)
	// Adjustment returns not-found if there is none with that id.
	Adjustment(ctx context.Context, id string) (Adjustment, error)
	// Ledger lists the newest entries first; empty filters match everything.
	Ledger(ctx context.Context, sku, ref string, page Page) ([]Entry, string, error)

	// Due lists ids of holds that have run out at a time, the oldest first.
	Due(ctx context.Context, now time.Time, limit int) ([]string, error)
	// Audit compares levels, ledger and reservations with each other, in one
	// snapshot, and calls report for every difference.
	Audit(ctx context.Context, report func(Difference)) error

	Close() error
}

// Page is a part of a list: at most Limit things after Cursor, which is empty
// for the first page and otherwise what the page before returned. A list's end
// has no cursor. A cursor that no list gave is answered invalid.
type Page struct {
	Cursor string
	Limit  int
}

// Difference is something stored that what explains it contradicts.
type Difference struct {
	// What names the comparison, Ref the level, reservation or entry.
	What, Ref       string
	Expected, Found int64
}

func (d Difference) String() string {
	return fmt.Sprintf("%s: %s: expected %d, found %d", d.Ref, d.What, d.Expected, d.Found)
}
