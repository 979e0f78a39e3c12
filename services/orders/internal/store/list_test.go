package store

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"roundtrip/internal/database"
	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

func TestPagesAreStableWhileOrdersArrive(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		var want []string // newest first; orders of the same time by id
		for i := range 30 {
			id := fmt.Sprintf("o%02d", i)
			b.do(t, place(id))
			want = append([]string{id}, want...)
			if i%3 == 0 { // the other orders have the same time
				time.Sleep(time.Millisecond)
			}
		}
		list := func(state order.State, customer string, between func(page int)) (all []string) {
			for page := (order.Page{Limit: 4}); ; {
				orders, next, err := b.Orders(t.Context(), state, customer, page)
				if err != nil || len(orders) > page.Limit || next != "" && len(orders) < page.Limit {
					t.Fatalf("a page of %d, then %q: %v", len(orders), next, err)
				}
				all = append(all, ids(orders)...)
				if page.Cursor = next; next == "" {
					return all
				}
				between(len(all))
			}
		}
		got := list("", "", func(n int) {
			time.Sleep(time.Millisecond)
			b.do(t, place(fmt.Sprint("new", n)))
			b.do(t, settle(want[n-1], 1, order.PlaceOperation, order.ReservationHeld))
		})
		if !slices.Equal(got, want) {
			t.Errorf("the pages had\n%v, want\n%v", got, want)
		}

		other := place("other")
		other.Customer = "12583"
		b.do(t, other)
		still := func(int) {}
		for _, c := range []struct {
			state    order.State
			customer string
			want     int
		}{{order.Placed, "", 7}, {order.Pending, "", 31}, {"", "12583", 1}, {order.Placed, "17850", 7}, {order.Placed, "12583", 0}, {order.Expired, "", 0}} {
			if got := list(c.state, c.customer, still); len(got) != c.want {
				t.Errorf("%q of %q: %d orders, want %d", c.state, c.customer, len(got), c.want)
			}
		}
		for _, cursor := range []string{"x", "bm9uZQ", "W10", "WyJhIiwiYiJd"} {
			_, _, err := b.Orders(t.Context(), "", "", order.Page{Cursor: cursor, Limit: 4})
			wantCode(t, "cursor "+cursor, err, problem.Invalid)
		}
		// Forged cursors, with times outside the range of a database.
		for _, created := range []int64{-1 << 63, -300_000_000_000_000, -1, 1<<63 - 1} {
			if _, _, err := b.Orders(t.Context(), "", "", order.Page{Cursor: database.EncodeCursor(created, "x"), Limit: 4}); err != nil {
				t.Errorf("cursor of %d: %v", created, err)
			}
		}
	})
}

func TestOrdersOfTheSameTimeAreSortedByBytes(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		want := []string{"z", "b", "ab", "aB", "a.b", "a-b", "a", "_", "Z", "B", "A", "9", "10", "1", "00", "0"}
		var places []order.Command
		for _, id := range want {
			places = append(places, place(id))
		}
		b.Do(t.Context(), places)
		var got []string
		for page := (order.Page{Limit: 3}); ; {
			orders, next, err := b.Orders(t.Context(), "", "", page)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, ids(orders)...)
			if page.Cursor = next; next == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("the list is\n%q, want\n%q", got, want)
		}
		// A forged cursor of the right form gets a page.
		for at, n := range map[int64]int{-1 << 63: 0, 0: 0, 1<<63 - 1: len(want)} {
			list, _, err := b.Orders(t.Context(), "", "", order.Page{Cursor: database.EncodeCursor(at, "x"), Limit: 50})
			if err != nil || len(list) != n {
				t.Errorf("before %d: %d orders (%v), want %d", at, len(list), err, n)
			}
		}
	})
}
