package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"roundtrip/internal/commit"
	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
	"roundtrip/test/support/stores"
)

// backend is an empty store on one database.
type backend struct {
	stock.Store
	*stores.Backend[stock.Store]
}

var service = stores.Service[stock.Store]{
	Name: "inventory", Schema: Schema(), New: New,
	Tables: []string{"levels", "reservations", "reservation_lines", "outcomes", "ledger", "adjustments"},
	// Rows that were inserted to be locked, and then not used.
	Placeholders: map[string]string{"levels": "version = 0", "reservations": "seq = 0"},
}

func conform(t *testing.T, test func(*testing.T, backend)) {
	service.Conform(t, func(t *testing.T, b *stores.Backend[stock.Store]) { test(t, backend{b.Store, b}) })
}

func conformInVirtualTime(t *testing.T, test func(*testing.T, backend)) {
	service.ConformInVirtualTime(t, func(t *testing.T, b *stores.Backend[stock.Store]) { test(t, backend{b.Store, b}) })
}

func postgresBackend(t *testing.T, address string) backend {
	t.Helper()
	b := service.Backend(t, address)
	return backend{b.Store, b}
}

// panics is a valid command that panics when it is decided.
type panics struct{ stock.Command }

func (panics) Validate() error    { return nil }
func (panics) Needs() stock.Needs { panic("test panic") }

func TestCommits(t *testing.T) {
	t.Parallel()
	stores.Commits[stock.Store, stock.Command, stock.Result]{
		Service:  service,
		Setup:    func(t *testing.T, s stock.Store) { t.Helper(); backend{Store: s}.stocked(t, "a", 1_000_000) },
		Change:   func(id string) stock.Command { return hold(id, 1, line("a", 1)) },
		Rejected: hold("rejected", 1),
		Panics:   panics{},
		Err:      func(r stock.Result) error { return r.Err },
		Changed: func(t *testing.T, s stock.Store, id string) bool {
			t.Helper()
			entries, _, err := s.Ledger(t.Context(), "", id, stock.Page{Limit: 5})
			if err != nil {
				t.Fatal(err)
			}
			return len(entries) == 1
		},
		Table: "outcomes", Column: "reservation_id", AfterUnknown: commit.AskAgain,
	}.Run(t)
}

func TestClosedStoreIsUnavailable(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		stores.Close(t, b.Store)
		_, err := b.Reservation(t.Context(), "r")
		wantCode(t, "reservation", err, problem.Unavailable)
		_, err = b.Due(t.Context(), time.Now(), 1)
		wantCode(t, "due", err, problem.Unavailable)
	})
}

func TestReadReturnsTheErrorOfACancelledContext(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.Reservation(ctx, "a"); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestReadDoesNotWaitForWrites(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 1)
		release := b.Block(t, "levels", "reservations")
		b.wantLevel(t, "a", 1, 0)
		release()
	})
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

func committed(id string, seq int64) stock.Put {
	return stock.Put{ID: id, Seq: seq, State: stock.Committed}
}

func release(id string, seq int64) stock.Put {
	return stock.Put{ID: id, Seq: seq, State: stock.Released}
}

// do runs one command, which must succeed.
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

// wantLevel compares the level of a SKU at main, and audits the store.
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

// wantCodes compares the codes of the answers to a batch.
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

func TestReservationIsReadAsWritten(t *testing.T) {
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
			{committed("r", 5), "", 0, 0},
			{hold("r", 6, line("a", 1)), problem.WrongState, 0, 0},
			{committed("r", 7), "", 0, 0},
			{release("r", 8), "", 9, 0},
		} {
			r := b.Do(t.Context(), []stock.Command{c.put})[0]
			wantCode(t, fmt.Sprintf("%+v", c.put), r.Err, c.code)
			stored := b.reservation(t, "r")
			if !reflect.DeepEqual(stored, r.Reservation) {
				t.Fatalf("after %+v the reservation was\n%+v, and is stored as\n%+v", c.put, r.Reservation, stored)
			}
			if again := b.Do(t.Context(), []stock.Command{c.put})[0]; !reflect.DeepEqual(again, r) {
				t.Errorf("the repeat of %+v is answered\n%+v, want\n%+v", c.put, again, r)
			}
			b.wantLevel(t, "a", c.a, c.aReserved)
		}
		before := b.reservation(t, "r")
		again := backend{Store: b.Reopen(t)}
		if after := again.reservation(t, "r"); !reflect.DeepEqual(after, before) {
			t.Errorf("after closing and opening the reservation is\n%+v, and was\n%+v", after, before)
		}
		again.audit(t)
	})
}

func TestReservationMayHaveMaxLines(t *testing.T) {
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
			t.Errorf("%d lines are stored, and the answer has %d", len(stored.Lines), len(r.Lines))
		}
		b.do(t, hold("r", 2, line("0007", 1)))
		b.wantLevel(t, "0007", 1, 1)
		b.wantLevel(t, "0008", 1, 0)
	})
}

func TestUnknownIDIsNotFound(t *testing.T) {
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
			t.Errorf("a batch without commands got %v", got)
		}
		// A reservation whose row was only inserted to be locked does not exist.
		_, err = b.Reservation(t.Context(), "none")
		wantCode(t, "reservation", err, problem.NotFound)
		if all, next, err := b.Reservations(t.Context(), "", stock.Page{Limit: 1}); err != nil || len(all) != 0 || next != "" {
			t.Errorf("reservations %v, %q, %v", all, next, err)
		}
		if rows := b.Dump(t); rows != "" {
			t.Errorf("rows were stored: %s", rows)
		}
	})
}

func TestCommandsOfABatchSeeEarlierChanges(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		one := int64(1)
		row := stock.ImportRow{ImportID: "i", Row: 1, SKU: "a", Location: "main", OnHand: 1, Name: "Lantern"}
		adjust := stock.Adjust{ID: "adjust", SKU: "a", Location: "main", Delta: &one, Reason: stock.ReasonReceived}
		results := b.Do(t.Context(), []stock.Command{
			row, hold("x", 1, line("a", 1)), hold("x", 1, line("a", 1)), hold("x", 1, line("a", 2)),
			hold("y", 1, line("a", 1)), release("x", 2), hold("z", 1, line("a", 1)), hold("x", 1, line("a", 1)),
			hold("y", 1, line("a", 1)), adjust, adjust, hold("y", 2, line("a", 1)), committed("z", 2), row,
		})
		wantCodes(t, results, "", "", "", problem.SeqReused,
			problem.InsufficientStock, "", "", problem.StaleSeq,
			problem.InsufficientStock, "", "", "", "", "")
		if !reflect.DeepEqual(results[1], results[2]) || !reflect.DeepEqual(results[9], results[10]) {
			t.Errorf("the repeats got %+v and %+v", results[2], results[10])
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
			t.Errorf("the ledger has %v (%v), want %v", reasons, err, want)
		}
	})
}

// One command takes the last unit and can't be stored. So the other commands of its
// batch are decided again, because the unit is still available.
func TestFailedCommandDoesNotHarmItsBatch(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 1)
		b.Poison(t, "outcomes", "reservation_id", "poison")
		unit := line("a", 1)
		results := b.Do(t.Context(), []stock.Command{hold("poison", 1, unit), hold("b", 1, unit), hold("invalid", 1), hold("c", 1, unit)})
		wantCodes(t, results, problem.Unavailable, "", problem.Invalid, problem.InsufficientStock)
		if r := b.reservation(t, "b"); r.State != stock.Held || r.Last.Problem != nil {
			t.Errorf("the other reservation is %+v", r)
		}
		_, err := b.Reservation(t.Context(), "poison")
		wantCode(t, "the failed command", err, problem.NotFound)
		b.wantLevel(t, "a", 1, 1)
		wantCodes(t, b.Do(t.Context(), []stock.Command{hold("b", 1, unit)}), "")
	})
}

func TestReadSeesAllOfATransactionOrNone(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 100)
		b.stocked(t, "b", 100)
		b.do(t, hold("r", 1, line("a", 1), line("b", 1)))
		const last = 30
		stores.AtOnce(4, func(i int) bool {
			if i == 0 {
				for seq := int64(2); seq <= last; seq++ {
					b.do(t, hold("r", seq, line("a", seq), line("b", seq)))
				}
				return true
			}
			for {
				r, err := b.Replica(i).Reservation(t.Context(), "r")
				if err != nil || len(r.Lines) != 2 || r.Lines[0].Quantity != r.Seq || r.Lines[1].Quantity != r.Seq {
					t.Errorf("the reservation reads as %+v, %v", r, err)
					return false
				}
				levels, err := b.Replica(i).Levels(t.Context(), []string{"a", "b"})
				if err != nil || levels[0].Reserved != levels[1].Reserved || levels[0].Reserved < r.Seq {
					t.Errorf("after seq %d the levels are %+v, %v", r.Seq, levels, err)
					return false
				}
				if r.Seq == last {
					return true
				}
			}
		})
	})
}

func TestConcurrentIdenticalHoldsTakeEffectOnce(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 100)
		results := stores.AtOnce(50, func(i int) stock.Result {
			return b.Replica(i).Do(t.Context(), []stock.Command{hold("r", 1, line("a", 3))})[0]
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

func TestConcurrentHoldsDoNotOversell(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 20)
		b.stocked(t, "b", 1000)
		take := func(i int) stock.Result {
			return b.Replica(i).Do(t.Context(), []stock.Command{hold(fmt.Sprint("r", i), 1, line("b", 1), line("a", 1))})[0]
		}
		results := stores.AtOnce(200, take)
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
			t.Errorf("%d holds succeeded for 20 units", held)
		}
		b.wantLevel(t, "a", 20, 20)
		b.wantLevel(t, "b", 1000, 20)
		// A repeat at any replica gets the same answer, even after the stock has grown.
		b.stocked(t, "a", 500)
		for i, again := range stores.AtOnce(200, func(i int) stock.Result {
			return b.Replica(i+1).Do(t.Context(), []stock.Command{hold(fmt.Sprint("r", i), 1, line("b", 1), line("a", 1))})[0]
		}) {
			if got, want := problem.CodeOf(again.Err), problem.CodeOf(results[i].Err); got != want || !reflect.DeepEqual(again.Reservation, results[i].Reservation) {
				t.Errorf("the repeat of r%d got %q, want %q", i, got, want)
			}
		}
	})
}

func TestConcurrentSeqsAreEachDecidedOnce(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 1000)
		stores.AtOnce(60, func(i int) stock.Result {
			seq := int64(i%20 + 1)
			r := b.Replica(i).Do(t.Context(), []stock.Command{hold("r", seq, line("a", seq))})[0]
			if code := problem.CodeOf(r.Err); code != "" && code != problem.StaleSeq {
				t.Errorf("seq %d: %v", seq, r.Err)
			}
			return r
		})
		if r := b.reservation(t, "r"); r.Seq != 20 || r.Lines[0].Quantity != 20 {
			t.Errorf("the reservation is %+v", r)
		}
		b.wantLevel(t, "a", 1000, 20)
	})
}

func TestAdjustmentTakesEffectOnce(t *testing.T) {
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
			// Many at the same time, on all replicas.
			results := stores.AtOnce(10, func(i int) stock.Result { return b.Replica(i).Do(t.Context(), []stock.Command{c.adjust})[0] })
			stored, err := b.Adjustment(t.Context(), c.adjust.ID)
			if err != nil || !reflect.DeepEqual(stored.Adjust, c.adjust) || stored.Level.OnHand != c.onHand {
				t.Errorf("%s is stored as %+v, %v", c.adjust.ID, stored, err)
			}
			for _, r := range results {
				wantCode(t, c.adjust.ID, r.Err, c.code)
				if !reflect.DeepEqual(r.Adjustment, stored) || c.code == "" && r.Level != stored.Level {
					t.Errorf("the answer to %s is\n%+v, and the stored adjustment is\n%+v", c.adjust.ID, r, stored)
				}
			}
			other := c.adjust
			other.Note += "!"
			wantCode(t, "another adjustment with the same id", b.Do(t.Context(), []stock.Command{other})[0].Err, problem.KeyReused)
		}
		b.wantLevel(t, "a", 7, 3)
		b.wantLevel(t, "n", 0, 0)
	})
}

func TestImportChangesOnlyLevelsThatDiffer(t *testing.T) {
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
				t.Errorf("%+v: %+v; the stored levels are %+v, %v", c.row, r, levels, err)
			}
		}
		b.do(t, hold("r", 1, line("a", 2)))
		wantCodes(t, b.Do(t.Context(), []stock.Command{row(8, "a", "", 1), row(9, "b", "", 1)}), problem.BelowReserved, "")
		b.wantLevel(t, "a", 8, 2)
	})
}

func TestReleaseLeavesATombstone(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 1)
		if r := b.do(t, release("r", 2)).Reservation; r.State != stock.Released || r.Seq != 2 || r.Lines != nil {
			t.Errorf("the tombstone is %+v", r)
		}
		wantCodes(t, b.Do(t.Context(), []stock.Command{hold("r", 1, line("a", 1)), hold("r", 3, line("a", 1)), committed("r", 4), release("r", 5)}),
			problem.StaleSeq, problem.WrongState, problem.WrongState, "")
		b.wantLevel(t, "a", 1, 0)
		if entries, _, err := b.Ledger(t.Context(), "", "r", stock.Page{Limit: 10}); err != nil || len(entries) != 0 {
			t.Errorf("the ledger has %+v, %v", entries, err)
		}
	})
}

// names are sorted by their bytes. No language sorts them in this order.
var names = []string{"-", ".", "0", "00", "1", "10", "9", "A", "B", "Z", "_", "a", "a-b", "a.b", "aB", "ab", "b", "z"}
