package store

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
	"roundtrip/test/support/stores"
)

func TestDueHoldsExpireWhenTheirStockIsNeeded(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 10)
		b.stocked(t, "b", 10)
		for i := range 10 { // each holds one of a and one of b
			b.do(t, hold(fmt.Sprint("old", i), 1, line("a", 1), line("b", 1)))
		}
		wantCodes(t, b.Do(t.Context(), []stock.Command{hold("early", 1, line("a", 1))}), problem.InsufficientStock)
		time.Sleep(stock.DefaultHold * time.Second)

		// A due hold reads as expired, even if its expiry is not written yet.
		if r := b.reservation(t, "old3"); r.At(time.Now()).State != stock.Expired {
			t.Errorf("the due hold reads as %+v", r)
		}
		for state, want := range map[stock.State]int{stock.Expired: 10, stock.Held: 0, stock.None: 1, "": 11} {
			if list, _, err := b.Reservations(t.Context(), state, stock.Page{Limit: 50}); err != nil || len(list) != want {
				t.Errorf("%q: %v (%v), want %d", state, reservationIDs(list), err, want)
			}
		}
		wantCodes(t, b.Do(t.Context(), []stock.Command{committed("old3", 2), hold("old4", 2, line("a", 1))}),
			problem.ReservationExpired, problem.ReservationExpired)

		results := stores.AtOnce(15, func(i int) stock.Result {
			return b.Replica(i).Do(t.Context(), []stock.Command{hold(fmt.Sprint("new", i), 1, line("a", 1))})[0]
		})
		held := 0
		for _, r := range results {
			if r.Err == nil {
				held++
			}
		}
		if held != 10 {
			t.Errorf("%d holds succeeded for 10 units", held)
		}
		b.wantLevel(t, "a", 10, 10)
		for i := range 10 {
			if r := b.reservation(t, fmt.Sprint("old", i)); r.State != stock.Expired || len(r.Lines) != 2 {
				t.Errorf("the old hold is %+v", r)
			}
		}
		b.wantLevel(t, "b", 10, 0)
	})
}

func TestDueListsHoldsOldestFirst(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 100)
		for i := range 6 {
			b.do(t, hold(fmt.Sprint("r", 9-i), 1, line("a", 1)))
			time.Sleep(time.Second)
		}
		b.do(t, committed("r7", 2))
		b.do(t, release("r6", 2))
		b.do(t, hold("r8", 2, line("a", 1))) // extends the hold
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
			t.Errorf("due too early: %v", early)
		}
		time.Sleep(stock.DefaultHold*time.Second - time.Second)
		if got := due(10); !slices.Equal(got, want) {
			t.Errorf("the due holds are %v, want %v", got, want)
		}
		if got := due(2); !slices.Equal(got, want[:2]) {
			t.Errorf("the first two due are %v, want %v", got, want[:2])
		}
		// Four sweepers at the same time.
		var expire []stock.Command
		for _, id := range append(due(10), "r8", "r7") {
			expire = append(expire, stock.Expire{ID: id})
		}
		for _, results := range stores.AtOnce(4, func(i int) []stock.Result { return b.Replica(i).Do(t.Context(), expire) }) {
			wantCodes(t, results, "", "", "", "", "")
			if results[0].Reservation.State != stock.Expired || results[3].Reservation.State != stock.Held || results[4].Reservation.State != stock.Committed {
				t.Errorf("the results are %+v", results)
			}
		}
		if again := due(10); len(again) != 0 {
			t.Errorf("still due: %v", again)
		}
		b.wantLevel(t, "a", 99, 1)
	})
}

func TestConfirmRacesExpiry(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		const holds = 20
		b.stocked(t, "a", holds)
		var puts, commits, expiries []stock.Command
		for i := range holds {
			id := fmt.Sprintf("r%02d", i)
			put := hold(id, 1, line("a", 1))
			put.HoldSeconds = int64(1 + i%2)
			puts, commits, expiries = append(puts, put), append(commits, committed(id, 2)), append(expiries, stock.Expire{ID: id})
		}
		b.Do(t.Context(), puts)
		time.Sleep(time.Second) // half of the holds are due
		stores.AtOnce(2*holds, func(i int) []stock.Result {
			if i%2 == 0 {
				return b.Replica(0).Do(t.Context(), commits[i/2:i/2+1])
			}
			return b.Replica(1).Do(t.Context(), expiries[i/2:i/2+1])
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
