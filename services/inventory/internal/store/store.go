// Package store keeps stock in a database: it implements [stock.Store].
//
// A batch of commands is one transaction in three steps: load and lock what the
// commands need, let a [stock.UnitOfWork] decide in memory, write what changed.
// The steps are the same for every database and stand in this file; what differs
// is behind the session interface. Package commit merges the commands of
// concurrent callers into such batches.
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

// Schema is that of inventory's database.
func Schema() database.Schema { return database.NewSchema(migrations) }

// Open opens the store that the options name. It can be used once wait has
// returned.
func Open(ctx context.Context, o database.Options) (s stock.Store, wait func(context.Context) error, err error) {
	db, wait, err := database.Open(ctx, Schema(), o)
	if err != nil {
		return nil, nil, err
	}
	return New(db, o), wait, nil
}

// OpenReadOnly opens a store for reading, beside a service that has it open.
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
	// reservations, adjustments and levels load and lock what there is, in the
	// order in which it is asked for, which is sorted. What is not there yet and
	// may be made is locked too: every id, and the levels in makes.
	reservations(ids []string) ([]stock.Reservation, error)
	adjustments(ids []string) ([]stock.Adjustment, error)
	levels(keys, makes []stock.Key) ([]stock.Level, error)
	// due finds the holds on these levels that have run out.
	due(keys []stock.Key, now time.Time) ([]string, error)
	write(stock.Changes) error
}

// transact runs f in one transaction and commits it, or rolls it back where f
// returns an error.
type transact func(ctx context.Context, f func(session) error) error

// newGroup merges the commands of concurrent callers.
func newGroup(transact transact, o commit.Options) *commit.Group[stock.Command, stock.Result] {
	return commit.NewGroup(func(ctx context.Context, commands []stock.Command) ([]stock.Result, error) {
		return decide(ctx, transact, commands)
	}, func(err error) stock.Result { return stock.Result{Err: err} }, o)
}

// errMoreDue rolls a transaction back because holds that were not loaded are
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

// open loads and locks, in the order that keeps transactions from waiting for
// each other in a circle: reservations, then adjustments, then levels.
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

// newLines tells which reservations' lines a batch has replaced: those for which
// a hold was done.
func newLines(c stock.Changes) map[string]bool {
	replaced := map[string]bool{}
	for _, o := range c.Outcomes {
		if o.Asked == stock.Held && o.Problem == nil {
			replaced[o.ReservationID] = true
		}
	}
	return replaced
}

// The sort keys of the lists, which their cursors hold.

func reservationKey(r stock.Reservation) []any { return []any{r.CreatedAt.UnixMilli(), r.ID} }
func levelKey(l stock.Level) []any             { return []any{l.Location, l.SKU} }
func entryKey(e stock.Entry) []any             { return []any{e.ID} }

// newestFirst reads the cursor of a list whose first page begins after everything.
func newestFirst(cursor string, rest ...any) (before int64, err error) {
	before = math.MaxInt64
	return before, database.DecodeCursor(cursor, append([]any{&before}, rest...)...)
}
