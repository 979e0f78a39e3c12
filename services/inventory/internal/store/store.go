// Package store keeps stock in a database: it implements [stock.Store].
//
// A batch of commands is one transaction in three steps: load and lock what the
// commands need, let a [stock.UnitOfWork] decide in memory, write what changed. The
// steps are the same for every database and stand in this file; what differs is
// behind the session interface.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"slices"
	"time"

	"roundtrip/internal/batch"
	"roundtrip/internal/database"
	"roundtrip/internal/failpoint"
	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
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
func Open(ctx context.Context, source database.Source, o Options) (s stock.Store, wait func(context.Context) error, err error) {
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
func OpenReadOnly(source database.Source) (stock.Store, error) {
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
	if len(commands) > 1 && errors.Is(err, database.ErrCommitUnknown) {
		// It may be done. Nobody is told anything but to ask again.
		return slices.Repeat([]stock.Result{{Err: err}}, len(commands))
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

// afterReservation reads a cursor of the list of reservations; without one the
// list begins after everything.
func afterReservation(cursor string) (created int64, id string, err error) {
	created = math.MaxInt64
	if cursor != "" {
		err = database.DecodeCursor(cursor, &created, &id)
	}
	return created, id, err
}

func reservationPage(rows []stock.Reservation, limit int) (page []stock.Reservation, next string) {
	page, more := cut(rows, limit)
	if more {
		last := page[len(page)-1]
		next = database.EncodeCursor(last.CreatedAt.UnixMilli(), last.ID)
	}
	return page, next
}

func afterLevel(cursor string) (after stock.Key, err error) {
	if cursor != "" {
		err = database.DecodeCursor(cursor, &after.Location, &after.SKU)
	}
	return after, err
}

func levelPage(rows []stock.Level, limit int) (page []stock.Level, next string) {
	page, more := cut(rows, limit)
	if more {
		last := page[len(page)-1]
		next = database.EncodeCursor(last.Location, last.SKU)
	}
	return page, next
}

// cut takes the row off that only shows that there is another page.
func cut[T any](rows []T, limit int) (page []T, more bool) {
	if len(rows) <= limit {
		return rows, false
	}
	return rows[:limit], true
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
