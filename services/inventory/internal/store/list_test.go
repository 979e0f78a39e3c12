package store

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"roundtrip/internal/database"
	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
)

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

func TestListsAreInByteOrder(t *testing.T) {
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
			t.Errorf("reservations of the same time are listed as %q", got)
		}
		for _, r := range newest {
			if r.Lines[0].Location != "B" || r.Lines[1].Location != "a" {
				t.Errorf("%s has its lines as %+v", r.ID, r.Lines)
			}
		}
	})
}

func TestPagesAreStableWhileReservationsArrive(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 1000)
		var want []string // newest first; reservations of the same time by id
		for i := range 20 {
			id := fmt.Sprintf("r%02d", i)
			b.do(t, hold(id, 1, line("a", 1)))
			want = append([]string{id}, want...)
			if i%3 == 0 { // the other reservations have the same time
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
				t.Errorf("the %s reservations are %v, want %d", state, reservationIDs(list), n)
			}
		}

		var before []stock.Entry // the whole ledger
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

func TestLedgerFiltersBySKUAndRef(t *testing.T) {
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

func TestForgedCursorsAreInvalid(t *testing.T) {
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
		// Forged cursors with the right structure give some page, or are invalid.
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
