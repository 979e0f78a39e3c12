// Package store keeps stock in a database: it implements [stock.Store].
//
// A batch of commands is one transaction in three steps: load and lock the rows that
// the commands need, let a [stock.UnitOfWork] decide in memory, and write the changes.
// The steps are in this file and are the same for every database. The session
// interface hides the differences. Package commit merges the commands of concurrent
// callers into such batches.
package store

import (
	"context"
	"embed"
	"errors"
	"math"
	"slices"
	"time"

	"roundtrip/internal/commit"
	"roundtrip/internal/database"
	"roundtrip/internal/failpoint"
	"roundtrip/services/inventory/internal/stock"
)

//go:embed migrations
var migrations embed.FS

// Schema is the schema of inventory's database.
func Schema() database.Schema { return database.NewSchema(migrations) }

// Open opens the store that the options name. The store can be used after wait has
// returned without an error.
func Open(ctx context.Context, o database.Options) (s stock.Store, wait func(context.Context) error, err error) {
	db, wait, err := database.Open(ctx, Schema(), o)
	if err != nil {
		return nil, nil, err
	}
	return New(db, o), wait, nil
}

// OpenReadOnly opens a store for reading. A service may have it open at the same time.
func OpenReadOnly(source database.Source) (stock.Store, error) {
	db, err := database.OpenReadOnly(source)
	if err != nil {
		return nil, err
	}
	return New(db, database.Options{}), nil
}

// New makes a store on an open database.
func New(db database.Database, o database.Options) stock.Store {
	group := db.GroupCommit(o, commit.AskAgain)
	if db.SQLite != nil {
		return newSQLite(db.SQLite, group)
	}
	return newPostgres(db.Postgres, group)
}

// session is one transaction.
type session interface {
	// reservations, adjustments and levels load and lock the rows that exist, in the
	// order of their arguments, which are sorted. They also lock rows that do not exist
	// yet and may be created: every reservation id, and the levels in makes.
	reservations(ids []string) ([]stock.Reservation, error)
	adjustments(ids []string) ([]stock.Adjustment, error)
	levels(keys, makes []stock.Key) ([]stock.Level, error)
	// due returns the ids of due holds on these levels.
	due(keys []stock.Key, now time.Time) ([]string, error)
	write(stock.Changes) error
}

// transact runs f in one transaction. It commits, or rolls back if f returns an error.
type transact func(ctx context.Context, f func(session) error) error

// newGroup makes the group that merges the commands of concurrent callers.
func newGroup(transact transact, o commit.Options) *commit.Group[stock.Command, stock.Result] {
	return commit.NewGroup(func(ctx context.Context, commands []stock.Command) ([]stock.Result, error) {
		return decide(ctx, transact, commands)
	}, func(err error) stock.Result { return stock.Result{Err: err} }, o)
}

// errMoreDue rolls a transaction back. It means that a level was short, and that it has
// due holds which were not loaded.
var errMoreDue = errors.New("more holds are due")

// decide runs the three steps. If a level was short and has more due holds, it locks
// their reservations too and runs the steps again.
func decide(ctx context.Context, transact transact, commands []stock.Command) ([]stock.Result, error) {
	// All rounds use the same time, so the number of due holds is finite. The time is
	// in milliseconds, as it is stored.
	now := time.Now().Truncate(time.Millisecond)
	needs := stock.NeedsOf(commands)
	for {
		results := make([]stock.Result, len(commands))
		var due []string
		err := transact(ctx, func(s session) error {
			work, err := open(s, needs, now)
			if err != nil {
				return err
			}
			for i, c := range commands {
				results[i] = work.Decide(c)
				hit("reservation-decided", c)
			}
			if due, err = dueElsewhere(s, work.Short(), needs.Reservations, now); err != nil {
				return err
			}
			if len(due) > 0 {
				return errMoreDue
			}
			if changes := work.Changes(); !changes.Empty() {
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

// open loads and locks reservations, then adjustments, then levels. This order prevents
// deadlocks between transactions.
func open(s session, needs stock.Needs, now time.Time) (*stock.UnitOfWork, error) {
	reservations, err := s.reservations(needs.Reservations)
	if err != nil {
		return nil, err
	}
	adjustments, err := s.adjustments(needs.Adjustments)
	if err != nil {
		return nil, err
	}
	levels, err := s.levels(needs.With(reservations).Levels, needs.NewLevels)
	if err != nil {
		return nil, err
	}
	return stock.NewUnitOfWork(now, reservations, levels, adjustments), nil
}

// dueElsewhere finds the due holds on the short levels that are not loaded yet.
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

// hit marks the points at which the crash tests kill the process.
func hit(point string, c stock.Command) {
	if put, ok := c.(stock.Put); ok {
		failpoint.Hit(point, string(put.State))
	}
}

// newLines returns the ids of the reservations whose lines a batch has replaced: those
// with a successful hold.
func newLines(c stock.Changes) map[string]bool {
	replaced := map[string]bool{}
	for _, o := range c.Outcomes {
		if o.Asked == stock.Held && o.Problem == nil {
			replaced[o.ReservationID] = true
		}
	}
	return replaced
}

// The sort keys of the lists. A cursor contains the sort key of the last item.

func reservationKey(r stock.Reservation) []any { return []any{r.CreatedAt.UnixMilli(), r.ID} }
func levelKey(l stock.Level) []any             { return []any{l.Location, l.SKU} }
func entryKey(e stock.Entry) []any             { return []any{e.ID} }

// newestFirst reads the cursor of a list that starts with the newest item. Without a
// cursor, before is the highest value.
func newestFirst(cursor string, rest ...any) (before int64, err error) {
	before = math.MaxInt64
	return before, database.DecodeCursor(cursor, append([]any{&before}, rest...)...)
}
