package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/database"
	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
)

// backend is an empty store on one database, and what its tests do to that
// database behind the store's back.
type backend struct {
	stock.Store
	// replicas are the stores that work on this database, the one above first:
	// two, where a database can have more than one.
	replicas []stock.Store
	// exec runs a statement that every database understands.
	exec func(ctx context.Context, statement string) error
	// poison makes the database refuse to store any outcome of one reservation.
	poison func(t *testing.T, id string)
	// fill leaves the database no room to grow until free is called.
	fill func(t *testing.T) (free func())
	// block makes every write wait, and no read, until release is called.
	block func(t *testing.T) (release func())
	// dump is every row of every table, as text.
	dump func(t *testing.T) string
	// reopen closes the store and opens it again on the same data.
	reopen func(t *testing.T) stock.Store
}

// tables are all that there are.
var tables = []string{"levels", "reservations", "reservation_lines", "outcomes", "ledger", "adjustments"}

// databases are what the suite in this file runs against: whatever keeps stock
// has to pass it. Each makes an empty database and returns how to open it.
var databases = map[string]func(*testing.T) (open func(*testing.T) backend){"sqlite": sqliteDatabase, "postgres": postgresDatabase}

func conform(t *testing.T, test func(*testing.T, backend)) {
	t.Parallel()
	for name, create := range databases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, create(t)(t))
		})
	}
}

// conformInVirtualTime is conform where time passes at once.
func conformInVirtualTime(t *testing.T, test func(*testing.T, backend)) {
	t.Parallel()
	for name, create := range databases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			open := create(t)
			synctest.Test(t, func(t *testing.T) { test(t, open(t)) })
		})
	}
}

// replica is one of the stores, each in its turn.
func (b backend) replica(i int) stock.Store { return b.replicas[i%len(b.replicas)] }

func closeStore(t *testing.T, s stock.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func (b backend) audit(t *testing.T) {
	t.Helper()
	if err := b.Audit(t.Context(), func(d stock.Difference) { t.Error(d) }); err != nil {
		t.Error(err)
	}
}

func line(sku string, quantity int64) stock.Line {
	return stock.Line{SKU: sku, Location: stock.MainLocation, Quantity: quantity}
}

func hold(id string, seq int64, lines ...stock.Line) stock.Put {
	return stock.Put{ID: id, Seq: seq, State: stock.Held, Lines: lines, HoldSeconds: stock.DefaultHold}
}

func commit(id string, seq int64) stock.Put {
	return stock.Put{ID: id, Seq: seq, State: stock.Committed}
}

func release(id string, seq int64) stock.Put {
	return stock.Put{ID: id, Seq: seq, State: stock.Released}
}

// do gives the store one command that has to succeed.
func (b backend) do(t *testing.T, c stock.Command) stock.Result {
	t.Helper()
	r := b.Do(t.Context(), []stock.Command{c})[0]
	if r.Err != nil {
		t.Fatalf("%#v: %v", c, r.Err)
	}
	return r
}

// stocked puts a quantity of a SKU on hand at main.
func (b backend) stocked(t *testing.T, sku string, onHand int64) {
	t.Helper()
	b.do(t, stock.ImportRow{ImportID: fmt.Sprint("stocked-", sku, onHand), Row: 1, SKU: sku, Location: stock.MainLocation, OnHand: onHand})
}

func (b backend) reservation(t *testing.T, id string) stock.Reservation {
	t.Helper()
	r, err := b.Reservation(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantLevel compares the level of a SKU at main, and audits what explains it.
func (b backend) wantLevel(t *testing.T, sku string, onHand, reserved int64) {
	t.Helper()
	b.audit(t)
	levels, err := b.Levels(t.Context(), []string{sku})
	if err != nil || len(levels) != 1 || levels[0].OnHand != onHand || levels[0].Reserved != reserved {
		t.Errorf("the level of %s is %+v (%v), want %d on hand and %d reserved", sku, levels, err, onHand, reserved)
	}
}

func wantCode(t *testing.T, what string, err error, want problem.Code) {
	t.Helper()
	if got := problem.CodeOf(err); got != want {
		t.Errorf("%s: %q (%v), want %q", what, got, err, want)
	}
}

// wantCodes compares what the commands of a batch were answered.
func wantCodes(t *testing.T, results []stock.Result, want ...problem.Code) {
	t.Helper()
	if len(results) != len(want) {
		t.Fatalf("%d results, want %d", len(results), len(want))
	}
	for i, r := range results {
		wantCode(t, fmt.Sprint("command ", i), r.Err, want[i])
	}
}

func reservationIDs(reservations []stock.Reservation) []string {
	var list []string
	for _, r := range reservations {
		list = append(list, r.ID)
	}
	return list
}

// atOnce calls f in n goroutines and returns what each gave.
func atOnce[T any](n int, f func(i int) T) []T {
	out := make([]T, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { out[i] = f(i) })
	}
	all.Wait()
	return out
}

// pages reads a list to its end and calls between after every page but the last.
func pages[T any](t *testing.T, limit int, list func(stock.Page) ([]T, string, error), between func(sofar []T)) (all []T) {
	t.Helper()
	for page := (stock.Page{Limit: limit}); ; {
		rows, next, err := list(page)
		if err != nil || len(rows) > limit || next != "" && len(rows) < limit {
			t.Fatalf("a page of %d, then %q: %v", len(rows), next, err)
		}
		all = append(all, rows...)
		if page.Cursor = next; next == "" {
			return all
		}
		between(all)
	}
}

func TestAReservationIsReadAsItWasWritten(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 9)
		b.stocked(t, "b", 9)
		north := stock.Line{SKU: "a", Location: "north", Quantity: 1}
		for _, c := range []struct {
			put          stock.Put
			code         problem.Code
			a, aReserved int64
		}{
			{hold("r", 1, line("a", 9), north), problem.InsufficientStock, 9, 0},
			{hold("r", 2, line("b", 1), line("a", 2), line("a", 3)), "", 9, 5},
			{hold("r", 3, line("a", 10)), problem.InsufficientStock, 9, 5},
			{hold("r", 4, line("a", 9)), "", 9, 9},
			{commit("r", 5), "", 0, 0},
			{hold("r", 6, line("a", 1)), problem.WrongState, 0, 0},
			{commit("r", 7), "", 0, 0},
			{release("r", 8), "", 9, 0},
		} {
			r := b.Do(t.Context(), []stock.Command{c.put})[0]
			wantCode(t, fmt.Sprintf("%+v", c.put), r.Err, c.code)
			stored := b.reservation(t, "r")
			if !reflect.DeepEqual(stored, r.Reservation) {
				t.Fatalf("after %+v it was\n%+v, and is stored as\n%+v", c.put, r.Reservation, stored)
			}
			if again := b.Do(t.Context(), []stock.Command{c.put})[0]; !reflect.DeepEqual(again, r) {
				t.Errorf("repeated, %+v is answered\n%+v, and was\n%+v", c.put, again, r)
			}
			b.wantLevel(t, "a", c.a, c.aReserved)
		}
		before := b.reservation(t, "r")
		again := backend{Store: b.reopen(t)}
		if after := again.reservation(t, "r"); !reflect.DeepEqual(after, before) {
			t.Errorf("after closing and opening it is\n%+v, and was\n%+v", after, before)
		}
		again.audit(t)
	})
}

func TestAReservationHasAsManyLinesAsAnOrderMayHave(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		var rows []stock.Command
		var lines []stock.Line
		for i := range stock.MaxLines {
			sku := fmt.Sprintf("%04d", i)
			rows = append(rows, stock.ImportRow{ImportID: "import", Row: int64(i), SKU: sku, Location: "main", OnHand: 1})
			lines = append(lines, line(sku, 1))
		}
		b.Do(t.Context(), rows)
		r := b.do(t, hold("r", 1, lines...)).Reservation
		if stored := b.reservation(t, "r"); !slices.Equal(stored.Lines, lines) || !reflect.DeepEqual(stored, r) {
			t.Errorf("%d lines are stored, %d were answered", len(stored.Lines), len(r.Lines))
		}
		b.do(t, hold("r", 2, line("0007", 1)))
		b.wantLevel(t, "0007", 1, 1)
		b.wantLevel(t, "0008", 1, 0)
	})
}

func TestThereIsNoSuchThing(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		_, err := b.Reservation(t.Context(), "none")
		wantCode(t, "reservation", err, problem.NotFound)
		_, err = b.Adjustment(t.Context(), "none")
		wantCode(t, "adjustment", err, problem.NotFound)
		invalid := hold("x", 1)
		wantCodes(t, b.Do(t.Context(), []stock.Command{stock.Expire{ID: "none"}, invalid}), "", problem.Invalid)
		if levels, err := b.Levels(t.Context(), []string{"none"}); err != nil || len(levels) != 0 {
			t.Errorf("levels %v, %v", levels, err)
		}
		if due, err := b.Due(t.Context(), time.Now(), 10); err != nil || len(due) != 0 {
			t.Errorf("due %v, %v", due, err)
		}
		if got := b.Do(t.Context(), nil); len(got) != 0 {
			t.Errorf("no command got %v", got)
		}
		// What was locked to be made, and was not, is not there.
		_, err = b.Reservation(t.Context(), "none")
		wantCode(t, "reservation", err, problem.NotFound)
		if all, next, err := b.Reservations(t.Context(), "", stock.Page{Limit: 1}); err != nil || len(all) != 0 || next != "" {
			t.Errorf("reservations %v, %q, %v", all, next, err)
		}
		if rows := b.dump(t); rows != "" {
			t.Errorf("something was stored: %s", rows)
		}
	})
}

func TestCommandsOfABatchSeeWhatTheOnesBeforeThemDid(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		one := int64(1)
		row := stock.ImportRow{ImportID: "i", Row: 1, SKU: "a", Location: "main", OnHand: 1, Name: "Lantern"}
		adjust := stock.Adjust{ID: "adjust", SKU: "a", Location: "main", Delta: &one, Reason: stock.ReasonReceived}
		results := b.Do(t.Context(), []stock.Command{
			row, hold("x", 1, line("a", 1)), hold("x", 1, line("a", 1)), hold("x", 1, line("a", 2)),
			hold("y", 1, line("a", 1)), release("x", 2), hold("z", 1, line("a", 1)), hold("x", 1, line("a", 1)),
			hold("y", 1, line("a", 1)), adjust, adjust, hold("y", 2, line("a", 1)), commit("z", 2), row,
		})
		wantCodes(t, results, "", "", "", problem.SeqReused,
			problem.InsufficientStock, "", "", problem.StaleSeq,
			problem.InsufficientStock, "", "", "", "", "")
		if !reflect.DeepEqual(results[1], results[2]) || !reflect.DeepEqual(results[9], results[10]) {
			t.Errorf("repeats are answered %+v and %+v", results[2], results[10])
		}
		b.wantLevel(t, "a", 1, 1)
		for id, state := range map[string]stock.State{"x": stock.Released, "y": stock.Held, "z": stock.Committed} {
			if r := b.reservation(t, id); r.State != state || r.Seq != 2 {
				t.Errorf("%s is %+v, want %s", id, r, state)
			}
		}
		entries, _, err := b.Ledger(t.Context(), "a", "", stock.Page{Limit: 50})
		var reasons []stock.Reason
		for _, e := range slices.Backward(entries) {
			reasons = append(reasons, e.Reason)
		}
		want := []stock.Reason{stock.ReasonImported, stock.ReasonHeld, stock.ReasonReleased, stock.ReasonHeld, stock.ReasonReceived,
			stock.ReasonHeld, stock.ReasonCommitted}
		if err != nil || !slices.Equal(reasons, want) {
			t.Errorf("the ledger says %v (%v), want %v", reasons, err, want)
		}
	})
}

// One takes the last unit and can't be stored: what was decided beside it, that
// there is none left, is worth nothing.
func TestWhatFailsInABatchDecidesNothingForItsNeighbours(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 1)
		b.poison(t, "poison")
		unit := line("a", 1)
		results := b.Do(t.Context(), []stock.Command{hold("poison", 1, unit), hold("b", 1, unit), hold("invalid", 1), hold("c", 1, unit)})
		wantCodes(t, results, problem.Unavailable, "", problem.Invalid, problem.InsufficientStock)
		if r := b.reservation(t, "b"); r.State != stock.Held || r.Last.Problem != nil {
			t.Errorf("the neighbour is %+v", r)
		}
		_, err := b.Reservation(t.Context(), "poison")
		wantCode(t, "the one that failed", err, problem.NotFound)
		b.wantLevel(t, "a", 1, 1)
		wantCodes(t, b.Do(t.Context(), []stock.Command{hold("b", 1, unit)}), "")
	})
}

func TestWhatNobodyWaitsForIsDropped(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, batch := range [][]stock.Command{{release("a", 1)}, {release("a", 1), release("b", 1)}} {
			for _, r := range b.Do(ctx, batch) {
				if !errors.Is(r.Err, context.Canceled) {
					t.Errorf("got %v", r.Err)
				}
			}
		}
		_, err := b.Reservation(ctx, "a")
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a read got %v", err)
		}
		if rows := b.dump(t); rows != "" {
			t.Errorf("something was stored: %s", rows)
		}
	})
}

// watched tells when it is first asked whether it is done: a batch asks that of
// its members just before it begins.
type watched struct {
	context.Context
	once  sync.Once
	asked chan struct{}
}

func (w *watched) Err() error {
	err := w.Context.Err()
	w.once.Do(func() { close(w.asked) })
	return err
}

func TestAHangUpAfterADecisionBeganChangesNothing(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 1)
		release := b.block(t)
		b.wantLevel(t, "a", 1, 0) // a read waits for nobody
		ctx, cancel := context.WithCancel(t.Context())
		w := &watched{Context: ctx, asked: make(chan struct{})}
		answered := make(chan error)
		go func() { answered <- b.Do(w, []stock.Command{hold("r", 1, line("a", 1))})[0].Err }()
		<-w.asked
		cancel()
		release()
		if err := <-answered; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		b.wantLevel(t, "a", 1, 1)
	})
}

func TestAReadSeesATransactionWholeOrNotAtAll(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 100)
		b.stocked(t, "b", 100)
		b.do(t, hold("r", 1, line("a", 1), line("b", 1)))
		const last = 30
		atOnce(4, func(i int) bool {
			if i == 0 {
				for seq := int64(2); seq <= last; seq++ {
					b.do(t, hold("r", seq, line("a", seq), line("b", seq)))
				}
				return true
			}
			for {
				r, err := b.replica(i).Reservation(t.Context(), "r")
				if err != nil || len(r.Lines) != 2 || r.Lines[0].Quantity != r.Seq || r.Lines[1].Quantity != r.Seq {
					t.Errorf("it reads %+v, %v", r, err)
					return false
				}
				levels, err := b.replica(i).Levels(t.Context(), []string{"a", "b"})
				if err != nil || levels[0].Reserved != levels[1].Reserved || levels[0].Reserved < r.Seq {
					t.Errorf("after seq %d the levels read %+v, %v", r.Seq, levels, err)
					return false
				}
				if r.Seq == last {
					return true
				}
			}
		})
	})
}

func TestManyAtOnceMakeOneReservation(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 100)
		results := atOnce(50, func(i int) stock.Result {
			return b.replica(i).Do(t.Context(), []stock.Command{hold("r", 1, line("a", 3))})[0]
		})
		for _, r := range results {
			if r.Err != nil || !reflect.DeepEqual(r, results[0]) {
				t.Errorf("got %+v", r)
			}
		}
		b.wantLevel(t, "a", 100, 3)
		if entries, _, err := b.Ledger(t.Context(), "", "r", stock.Page{Limit: 50}); err != nil || len(entries) != 1 {
			t.Errorf("the ledger has %+v, %v", entries, err)
		}
	})
}

func TestTheLastUnitsGoToAsManyAsThereAre(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 20)
		b.stocked(t, "b", 1000)
		take := func(i int) stock.Result {
			return b.replica(i).Do(t.Context(), []stock.Command{hold(fmt.Sprint("r", i), 1, line("b", 1), line("a", 1))})[0]
		}
		results := atOnce(200, take)
		held := 0
		for _, r := range results {
			switch problem.CodeOf(r.Err) {
			case "":
				held++
			case problem.InsufficientStock:
			default:
				t.Errorf("got %v", r.Err)
			}
		}
		if held != 20 {
			t.Errorf("%d got a unit of 20", held)
		}
		b.wantLevel(t, "a", 20, 20)
		b.wantLevel(t, "b", 1000, 20)
		// Whoever asks again, wherever, gets the same answer, also when there is more.
		b.stocked(t, "a", 500)
		for i, again := range atOnce(200, func(i int) stock.Result {
			return b.replica(i+1).Do(t.Context(), []stock.Command{hold(fmt.Sprint("r", i), 1, line("b", 1), line("a", 1))})[0]
		}) {
			if got, want := problem.CodeOf(again.Err), problem.CodeOf(results[i].Err); got != want || !reflect.DeepEqual(again.Reservation, results[i].Reservation) {
				t.Errorf("r%d: %q, and was %q", i, got, want)
			}
		}
	})
}

func TestOfSeveralSeqsAtOnceEachIsDecidedOnce(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 1000)
		atOnce(60, func(i int) stock.Result {
			seq := int64(i%20 + 1)
			r := b.replica(i).Do(t.Context(), []stock.Command{hold("r", seq, line("a", seq))})[0]
			if code := problem.CodeOf(r.Err); code != "" && code != problem.StaleSeq {
				t.Errorf("seq %d: %v", seq, r.Err)
			}
			return r
		})
		if r := b.reservation(t, "r"); r.Seq != 20 || r.Lines[0].Quantity != 20 {
			t.Errorf("it is %+v", r)
		}
		b.wantLevel(t, "a", 1000, 20)
	})
}

func TestAnAdjustmentIsMadeOnce(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		n := func(v int64) *int64 { return &v }
		b.stocked(t, "a", 5)
		b.do(t, hold("r", 1, line("a", 3)))
		for _, c := range []struct {
			adjust stock.Adjust
			code   problem.Code
			onHand int64
		}{
			{stock.Adjust{ID: "delta", SKU: "a", Delta: n(4), Reason: stock.ReasonReceived, Note: "a \"box\", Zürich"}, "", 9},
			{stock.Adjust{ID: "count", SKU: "a", OnHand: n(7), ExpectedOnHand: n(9), Reason: stock.ReasonCounted}, "", 7},
			{stock.Adjust{ID: "unexpected", SKU: "a", OnHand: n(7), ExpectedOnHand: n(9), Reason: stock.ReasonCounted}, problem.PreconditionFailed, 7},
			{stock.Adjust{ID: "too-little", SKU: "a", Delta: n(-5), Reason: stock.ReasonLost}, problem.BelowReserved, 7},
			{stock.Adjust{ID: "new", SKU: "n", OnHand: n(0), Reason: stock.ReasonCounted}, "", 0},
		} {
			c.adjust.Location = stock.MainLocation
			// Many at once, at every replica.
			results := atOnce(10, func(i int) stock.Result { return b.replica(i).Do(t.Context(), []stock.Command{c.adjust})[0] })
			stored, err := b.Adjustment(t.Context(), c.adjust.ID)
			if err != nil || !reflect.DeepEqual(stored.Adjust, c.adjust) || stored.Level.OnHand != c.onHand {
				t.Errorf("%s is stored as %+v, %v", c.adjust.ID, stored, err)
			}
			for _, r := range results {
				wantCode(t, c.adjust.ID, r.Err, c.code)
				if !reflect.DeepEqual(r.Adjustment, stored) || c.code == "" && r.Level != stored.Level {
					t.Errorf("%s is answered\n%+v, and stored as\n%+v", c.adjust.ID, r, stored)
				}
			}
			other := c.adjust
			other.Note += "!"
			wantCode(t, "another one", b.Do(t.Context(), []stock.Command{other})[0].Err, problem.KeyReused)
		}
		b.wantLevel(t, "a", 7, 3)
		b.wantLevel(t, "n", 0, 0)
	})
}

func TestAnImportSetsWhatIsNotTrueYet(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		row := func(row int64, sku, name string, onHand int64) stock.ImportRow {
			return stock.ImportRow{ImportID: "i", Row: row, SKU: sku, Location: "main", Name: name, OnHand: onHand}
		}
		for _, c := range []struct {
			row     stock.ImportRow
			changed bool
			version int64
		}{
			{row(1, "a", "White Lantern", 6), true, 1}, {row(2, "a", "White Lantern", 6), false, 1}, {row(3, "a", "", 6), false, 1},
			{row(4, "a", "Red Lantern", 6), true, 2}, {row(5, "a", "Black Lantern", 8), true, 3}, {row(6, "empty", "", 0), true, 1},
			{row(7, "empty", "", 0), false, 1},
		} {
			r := b.do(t, c.row)
			levels, err := b.Levels(t.Context(), []string{c.row.SKU})
			if err != nil || r.Changed != c.changed || len(levels) != 1 || levels[0] != r.Level || r.Level.Version != c.version || r.Level.OnHand != c.row.OnHand {
				t.Errorf("%+v: %+v; stored is %+v, %v", c.row, r, levels, err)
			}
		}
		b.do(t, hold("r", 1, line("a", 2)))
		wantCodes(t, b.Do(t.Context(), []stock.Command{row(8, "a", "", 1), row(9, "b", "", 1)}), problem.BelowReserved, "")
		b.wantLevel(t, "a", 8, 2)
	})
}

func TestAReleaseLeavesATombstone(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 1)
		if r := b.do(t, release("r", 2)).Reservation; r.State != stock.Released || r.Seq != 2 || r.Lines != nil {
			t.Errorf("it is %+v", r)
		}
		wantCodes(t, b.Do(t.Context(), []stock.Command{hold("r", 1, line("a", 1)), hold("r", 3, line("a", 1)), commit("r", 4), release("r", 5)}),
			problem.StaleSeq, problem.WrongState, problem.WrongState, "")
		b.wantLevel(t, "a", 1, 0)
		if entries, _, err := b.Ledger(t.Context(), "", "r", stock.Page{Limit: 10}); err != nil || len(entries) != 0 {
			t.Errorf("the ledger has %+v, %v", entries, err)
		}
	})
}

func TestAHoldThatRanOutIsWrittenDownWhereItsStockIsWanted(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 10)
		b.stocked(t, "b", 10)
		for i := range 10 { // each holds one of a and one of b
			b.do(t, hold(fmt.Sprint("old", i), 1, line("a", 1), line("b", 1)))
		}
		wantCodes(t, b.Do(t.Context(), []stock.Command{hold("early", 1, line("a", 1))}), problem.InsufficientStock)
		time.Sleep(stock.DefaultHold * time.Second)

		// It reads as what it is, whether or not that is written.
		if r := b.reservation(t, "old3"); r.At(time.Now()).State != stock.Expired {
			t.Errorf("it reads as %+v", r)
		}
		for state, want := range map[stock.State]int{stock.Expired: 10, stock.Held: 0, stock.None: 1, "": 11} {
			if list, _, err := b.Reservations(t.Context(), state, stock.Page{Limit: 50}); err != nil || len(list) != want {
				t.Errorf("%q: %v (%v), want %d", state, reservationIDs(list), err, want)
			}
		}
		wantCodes(t, b.Do(t.Context(), []stock.Command{commit("old3", 2), hold("old4", 2, line("a", 1))}),
			problem.ReservationExpired, problem.ReservationExpired)

		results := atOnce(15, func(i int) stock.Result {
			return b.replica(i).Do(t.Context(), []stock.Command{hold(fmt.Sprint("new", i), 1, line("a", 1))})[0]
		})
		held := 0
		for _, r := range results {
			if r.Err == nil {
				held++
			}
		}
		if held != 10 {
			t.Errorf("%d got one of 10", held)
		}
		b.wantLevel(t, "a", 10, 10)
		for i := range 10 {
			if r := b.reservation(t, fmt.Sprint("old", i)); r.State != stock.Expired || len(r.Lines) != 2 {
				t.Errorf("it is %+v", r)
			}
		}
		b.wantLevel(t, "b", 10, 0)
	})
}

func TestTheSweeperFindsWhatIsDueOldestFirst(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 100)
		for i := range 6 {
			b.do(t, hold(fmt.Sprint("r", 9-i), 1, line("a", 1)))
			time.Sleep(time.Second)
		}
		b.do(t, commit("r7", 2))
		b.do(t, release("r6", 2))
		b.do(t, hold("r8", 2, line("a", 1))) // held anew
		want := []string{"r9", "r5", "r4"}
		due := func(limit int) []string {
			t.Helper()
			ids, err := b.Due(t.Context(), time.Now(), limit)
			if err != nil {
				t.Fatal(err)
			}
			return ids
		}
		if early := due(10); len(early) != 0 {
			t.Errorf("before their time: %v", early)
		}
		time.Sleep(stock.DefaultHold*time.Second - time.Second)
		if got := due(10); !slices.Equal(got, want) {
			t.Errorf("due are %v, want %v", got, want)
		}
		if got := due(2); !slices.Equal(got, want[:2]) {
			t.Errorf("the first two due are %v, want %v", got, want[:2])
		}
		// Two sweepers at once.
		var expire []stock.Command
		for _, id := range append(due(10), "r8", "r7") {
			expire = append(expire, stock.Expire{ID: id})
		}
		for _, results := range atOnce(4, func(i int) []stock.Result { return b.replica(i).Do(t.Context(), expire) }) {
			wantCodes(t, results, "", "", "", "", "")
			if results[0].Reservation.State != stock.Expired || results[3].Reservation.State != stock.Held || results[4].Reservation.State != stock.Committed {
				t.Errorf("they were told %+v", results)
			}
		}
		if again := due(10); len(again) != 0 {
			t.Errorf("due again: %v", again)
		}
		b.wantLevel(t, "a", 99, 1)
	})
}

func TestOfConfirmAndExpiryOneWins(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		const holds = 20
		b.stocked(t, "a", holds)
		var puts, commits, expiries []stock.Command
		for i := range holds {
			id := fmt.Sprintf("r%02d", i)
			put := hold(id, 1, line("a", 1))
			put.HoldSeconds = int64(1 + i%2)
			puts, commits, expiries = append(puts, put), append(commits, commit(id, 2)), append(expiries, stock.Expire{ID: id})
		}
		b.Do(t.Context(), puts)
		time.Sleep(time.Second) // half of them are due
		atOnce(2*holds, func(i int) []stock.Result {
			if i%2 == 0 {
				return b.replica(0).Do(t.Context(), commits[i/2:i/2+1])
			}
			return b.replica(1).Do(t.Context(), expiries[i/2:i/2+1])
		})
		for i := range holds {
			want, code := stock.Expired, problem.ReservationExpired
			if i%2 == 1 {
				want, code = stock.Committed, ""
			}
			if r := b.reservation(t, fmt.Sprintf("r%02d", i)); r.State != want {
				t.Errorf("%s is %+v, want %s", r.ID, r, want)
			}
			wantCodes(t, b.Do(t.Context(), commits[i:i+1]), code)
		}
		b.wantLevel(t, "a", holds/2, 0)
	})
}

// names are in the order of their bytes, which is no language's.
var names = []string{"-", ".", "0", "00", "1", "10", "9", "A", "B", "Z", "_", "a", "a-b", "a.b", "aB", "ab", "b", "z"}

func TestListsAreInTheOrderOfBytes(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		var rows, holds []stock.Command
		for i, sku := range names {
			for j, location := range names {
				rows = append(rows, stock.ImportRow{ImportID: "i", Row: int64(i*len(names) + j), SKU: sku, Location: location, OnHand: 1})
			}
			holds = append(holds, hold(sku, 1, stock.Line{SKU: sku, Location: "a", Quantity: 1}, stock.Line{SKU: sku, Location: "B", Quantity: 1}))
		}
		slices.Reverse(rows)
		b.Do(t.Context(), rows)
		b.Do(t.Context(), holds)

		still := func([]stock.Level) {}
		all := pages(t, 50, func(p stock.Page) ([]stock.Level, string, error) { return b.AllLevels(t.Context(), p) }, still)
		if len(all) != len(rows) || !slices.IsSortedFunc(all, func(a, b stock.Level) int { return a.Key().Compare(b.Key()) }) {
			t.Errorf("%d levels, want %d in order: %v", len(all), len(rows), all)
		}
		some, err := b.Levels(t.Context(), []string{"z", "A", "none", "_"})
		if err != nil || len(some) != 3*len(names) || !slices.IsSortedFunc(some, func(a, b stock.Level) int { return a.Key().Compare(b.Key()) }) {
			t.Errorf("%d levels of three SKUs (%v): %v", len(some), err, some)
		}
		newest := pages(t, 4, func(p stock.Page) ([]stock.Reservation, string, error) { return b.Reservations(t.Context(), "", p) }, func([]stock.Reservation) {})
		got := reservationIDs(newest)
		slices.Reverse(got)
		if !slices.Equal(got, names) {
			t.Errorf("reservations of one moment are listed as %q", got)
		}
		for _, r := range newest {
			if r.Lines[0].Location != "B" || r.Lines[1].Location != "a" {
				t.Errorf("%s has its lines as %+v", r.ID, r.Lines)
			}
		}
	})
}

func TestPagesHoldStillWhileReservationsArrive(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 1000)
		var want []string // newest first; those of one moment by id
		for i := range 20 {
			id := fmt.Sprintf("r%02d", i)
			b.do(t, hold(id, 1, line("a", 1)))
			want = append([]string{id}, want...)
			if i%3 == 0 { // and the others at the same moment
				time.Sleep(time.Millisecond)
			}
		}
		changed := 0
		got := pages(t, 4, func(p stock.Page) ([]stock.Reservation, string, error) { return b.Reservations(t.Context(), "", p) },
			func(sofar []stock.Reservation) {
				time.Sleep(time.Millisecond)
				b.do(t, hold(fmt.Sprint("new", len(sofar)), 1, line("a", 1)))
				b.do(t, release(want[len(sofar)-1], 2))
				changed++
			})
		if !slices.Equal(reservationIDs(got), want) {
			t.Errorf("the pages had\n%v, want\n%v", reservationIDs(got), want)
		}
		for state, n := range map[stock.State]int{stock.Released: changed, stock.Held: 20, stock.Committed: 0} {
			list := pages(t, 3, func(p stock.Page) ([]stock.Reservation, string, error) { return b.Reservations(t.Context(), state, p) },
				func([]stock.Reservation) {})
			if len(list) != n || slices.ContainsFunc(list, func(r stock.Reservation) bool { return r.State != state }) {
				t.Errorf("%s are %v, want %d", state, reservationIDs(list), n)
			}
		}

		var before []stock.Entry // of the ledger, whole
		before, _, err := b.Ledger(t.Context(), "", "", stock.Page{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		entries := pages(t, 7, func(p stock.Page) ([]stock.Entry, string, error) { return b.Ledger(t.Context(), "", "", p) },
			func(sofar []stock.Entry) { b.stocked(t, fmt.Sprint("new", len(sofar)), 1) })
		if !slices.Equal(entries, before) || !slices.IsSortedFunc(entries, func(a, b stock.Entry) int { return int(b.ID - a.ID) }) {
			t.Errorf("the pages had\n%v, want\n%v", entries, before)
		}
	})
}

func TestTheLedgerIsFilteredBySKUAndRef(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 10)
		b.stocked(t, "b", 10)
		b.do(t, hold("r", 1, line("a", 1), line("b", 2)))
		b.do(t, hold("s", 1, line("a", 3)))
		b.do(t, release("r", 2))
		for _, c := range []struct {
			sku, ref string
			want     []string
		}{
			{"", "", []string{"released b -2", "released a -1", "held a 3", "held b 2", "held a 1", "imported b 0", "imported a 0"}},
			{"b", "", []string{"released b -2", "held b 2", "imported b 0"}},
			{"", "r", []string{"released b -2", "released a -1", "held b 2", "held a 1"}},
			{"a", "r", []string{"released a -1", "held a 1"}},
			{"none", "", nil}, {"", "none", nil},
		} {
			entries, next, err := b.Ledger(t.Context(), c.sku, c.ref, stock.Page{Limit: 7})
			var got []string
			for _, e := range entries {
				got = append(got, fmt.Sprintf("%s %s %d", e.Reason, e.SKU, e.ReservedDelta))
			}
			if err != nil || next != "" || !slices.Equal(got, c.want) {
				t.Errorf("%q, %q: %q, then %q (%v); want %q", c.sku, c.ref, got, next, err, c.want)
			}
		}
	})
}

func TestACursorThatNoListGaveIsInvalid(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 1)
		b.do(t, hold("r", 1, line("a", 1)))
		lists := map[string]func(stock.Page) (int, error){
			"reservations": func(p stock.Page) (int, error) { l, _, err := b.Reservations(t.Context(), "", p); return len(l), err },
			"levels":       func(p stock.Page) (int, error) { l, _, err := b.AllLevels(t.Context(), p); return len(l), err },
			"ledger":       func(p stock.Page) (int, error) { l, _, err := b.Ledger(t.Context(), "", "", p); return len(l), err },
		}
		for name, list := range lists {
			for _, cursor := range []string{"x", "bm9uZQ", "W10", "WyJhIiwxXQ", "W251bGw"} {
				_, err := list(stock.Page{Cursor: cursor, Limit: 4})
				wantCode(t, name+" after "+cursor, err, problem.Invalid)
			}
		}
		// Made up, and the right shape: a page, wherever it begins, or invalid.
		for name, cursors := range map[string][][]any{
			"reservations": {{-1 << 63, "r"}, {-300_000_000_000_000, "r"}, {1<<63 - 1, "r"}, {1 << 53, "a\x00"}, {0, "'"}},
			"levels":       {{"main", "a\x00"}, {"\x00", ""}, {"'", "\""}},
			"ledger":       {{-1 << 63}, {1<<63 - 1}, {0}},
		} {
			for _, cursor := range cursors {
				_, err := lists[name](stock.Page{Cursor: database.EncodeCursor(cursor...), Limit: 4})
				if code := problem.CodeOf(err); code != "" && code != problem.Invalid {
					t.Errorf("%s after %q: %v", name, cursor, err)
				}
			}
		}
	})
}

func TestTheAuditFindsWhatContradicts(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 10)
		b.stocked(t, "b", 10)
		b.do(t, hold("held", 1, line("a", 1)))
		b.do(t, hold("taken", 1, line("b", 2)))
		b.do(t, commit("taken", 2))
		for _, c := range []struct {
			do, undo string
			want     []string
		}{
			{"UPDATE levels SET on_hand = on_hand + 1 WHERE sku = 'a'", "UPDATE levels SET on_hand = on_hand - 1 WHERE sku = 'a'",
				[]string{"main/a: on hand against the ledger's sum: expected 10, found 11"}},
			{"UPDATE levels SET reserved = reserved + 1 WHERE sku = 'b'", "UPDATE levels SET reserved = reserved - 1 WHERE sku = 'b'",
				[]string{"main/b: reserved against the ledger's sum: expected 0, found 1", "main/b: reserved against what is held: expected 0, found 1"}},
			{"UPDATE reservations SET state = 'expired' WHERE id = 'held'", "UPDATE reservations SET state = 'held' WHERE id = 'held'",
				[]string{"held main/a: a reservation's effect on reserved: expected 0, found 1", "main/a: reserved against what is held: expected 0, found 1"}},
			{"UPDATE reservation_lines SET quantity = 3 WHERE reservation_id = 'taken'", "UPDATE reservation_lines SET quantity = 2 WHERE reservation_id = 'taken'",
				[]string{"taken main/b: a reservation's effect on hand: expected -3, found -2"}},
			{`INSERT INTO ledger (at, location, sku, on_hand_delta, reserved_delta, on_hand, reserved, reason, ref, seq)
				SELECT at, location, sku, 0, 0, on_hand + 5, reserved + 6, reason, 'forged', 1 FROM ledger WHERE ref = 'held'`, "",
				[]string{"main/a entry 6: the ledger's running on hand: expected 10, found 15", "main/a entry 6: the ledger's running reserved: expected 1, found 7"}},
		} {
			b.audit(t)
			if err := b.exec(t.Context(), c.do); err != nil {
				t.Fatalf("%s: %v", c.do, err)
			}
			var got []string
			if err := b.Audit(t.Context(), func(d stock.Difference) { got = append(got, d.String()) }); err != nil {
				t.Error(err)
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("after %s it reports %q, want %q", c.do, got, c.want)
			}
			if c.undo == "" {
				return // nothing is ever taken out of the ledger
			}
			if err := b.exec(t.Context(), c.undo); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestLedgerAndOutcomesAreNeverChanged(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 10)
		b.do(t, hold("r", 1, line("a", 1)))
		before := b.dump(t)
		for _, statement := range []string{
			"UPDATE ledger SET on_hand = 11", "DELETE FROM ledger", "UPDATE outcomes SET problem = NULL", "DELETE FROM outcomes",
		} {
			if err := b.exec(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "never changed") {
				t.Errorf("%s: %v", statement, err)
			}
		}
		// Nor can a level be brought where it may not be.
		for _, statement := range []string{"UPDATE levels SET reserved = -1", "UPDATE levels SET reserved = 11"} {
			if err := b.exec(t.Context(), statement); err == nil {
				t.Errorf("%s was done", statement)
			}
		}
		if after := b.dump(t); after != before {
			t.Errorf("it left\n%s, and there was\n%s", after, before)
		}
	})
}

func TestAFullDiskLosesNothing(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 1_000_000)
		before := b.dump(t)
		free := b.fill(t)
		var many []stock.Command
		for i := range 200 {
			many = append(many, hold(fmt.Sprint("r", i), 1, line("a", 1)))
		}
		// Where each is decided alone, the first few may find room on a page.
		refused := 0
		for _, r := range b.Do(t.Context(), many) {
			if r.Err != nil {
				wantCode(t, "without room", r.Err, problem.Unavailable)
				refused++
			}
		}
		b.audit(t)
		if refused == 0 {
			t.Errorf("all had room; it left\n%s, and there was\n%s", b.dump(t), before)
		}
		free()
		for _, r := range b.Do(t.Context(), many) {
			if r.Err != nil {
				t.Errorf("with room again: %v", r.Err)
			}
		}
		b.wantLevel(t, "a", 1_000_000, 200)
	})
}

func TestAClosedStoreIsUnavailable(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		if err := errors.Join(b.Close(), b.Close()); err != nil {
			t.Errorf("closing it twice: %v", err)
		}
		wantCodes(t, b.Do(t.Context(), []stock.Command{release("r", 1)}), problem.Unavailable)
		_, err := b.Reservation(t.Context(), "r")
		wantCode(t, "reservation", err, problem.Unavailable)
		_, err = b.Due(t.Context(), time.Now(), 1)
		wantCode(t, "due", err, problem.Unavailable)
	})
}
