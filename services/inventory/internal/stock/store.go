package stock

import (
	"context"
	"fmt"
	"time"
)

// Store keeps stock. Its methods return unavailable if the database can't be reached or
// can't work. In that case nothing was changed, unless the method says otherwise.
type Store interface {
	// Do decides a batch of commands in one transaction and returns their results, in
	// order. It loads and locks what they need, lets a [UnitOfWork] decide, writes what
	// changed, and commits. If the commit's result is unknown, every Err is unavailable.
	// The commands are idempotent, so they may be sent again. A command that is not
	// valid gets invalid, and the other commands are decided.
	Do(ctx context.Context, commands []Command) []Result

	// Reservation returns one reservation, or not-found if there is none with that id.
	Reservation(ctx context.Context, id string) (Reservation, error)
	// Reservations lists reservations, the newest first. An empty state means every
	// state.
	Reservations(ctx context.Context, state State, page Page) ([]Reservation, string, error)
	// Levels returns the levels of these SKUs at every location, sorted by location and
	// SKU. An unknown SKU has none.
	Levels(ctx context.Context, skus []string) ([]Level, error)
	// AllLevels lists every level, sorted by location and SKU.
	AllLevels(ctx context.Context, page Page) ([]Level, string, error)
	// Adjustment returns one adjustment, or not-found if there is none with that id.
	Adjustment(ctx context.Context, id string) (Adjustment, error)
	// Ledger lists entries, the newest first. An empty filter matches everything.
	Ledger(ctx context.Context, sku, ref string, page Page) ([]Entry, string, error)

	// Due lists the ids of the holds that are due at a time, the oldest first.
	Due(ctx context.Context, now time.Time, limit int) ([]string, error)
	// Audit compares levels, ledger and reservations with each other, in one snapshot.
	// It calls report for every difference.
	Audit(ctx context.Context, report func(Difference)) error

	Close() error
}

// Page is a part of a list: at most Limit items after Cursor. Cursor is empty for the
// first page. For a later page, it is the cursor that the previous page returned. The
// last page returns no cursor. A cursor that no list returned gets invalid.
type Page struct {
	Cursor string
	Limit  int
}

// Difference is a stored quantity that differs from the quantity that the audit expects.
type Difference struct {
	// What names the comparison. Ref names the level, reservation or entry.
	What, Ref       string
	Expected, Found int64
}

func (d Difference) String() string {
	return fmt.Sprintf("%s: %s: expected %d, found %d", d.Ref, d.What, d.Expected, d.Found)
}
