package store

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
	"roundtrip/test/support/stores"
)

func TestGivenUpPlaceIsRejected(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.do(t, place("a"))
		for _, r := range stores.AtOnce(10, func(i int) order.Result {
			return b.Replica(i).Do(t.Context(), []order.Command{order.GiveUp{ID: "a", Seq: 1}})[0]
		}) {
			if r.Err != nil || r.Seq != 2 || r.Order.Intent == nil || r.Order.Intent.Operation != order.GiveUpOperation {
				t.Errorf("got %+v", r)
			}
		}
		wantCode(t, "another operation", b.Do(t.Context(), []order.Command{order.Confirm{ID: "a"}})[0].Err, problem.OperationPending)
		b.do(t, settle("a", 1, order.PlaceOperation, order.ReservationHeld)) // late
		o := b.do(t, settle("a", 2, order.GiveUpOperation, order.ReservationReleased)).Order
		if stored := b.order(t, "a"); !reflect.DeepEqual(stored, o) || o.State != order.Rejected || o.Last.Problem.Code != problem.GivenUp {
			t.Errorf("the order is %+v, and stored as %+v", o, stored)
		}
		if s, err := b.Settlement(t.Context(), "a", 1); err != nil || s.Outcome != order.OutcomeSuperseded {
			t.Errorf("the place ended %+v, %v", s, err)
		}
		if s, err := b.Settlement(t.Context(), "a", 2); err != nil || s.Outcome != order.OutcomeRejected || s.Problem.Code != problem.GivenUp {
			t.Errorf("the give-up ended %+v, %v", s, err)
		}
	})
}

func TestUnsettledOrderHasOneLeaseAtATime(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		const orders, lease = 40, 10 * time.Second
		for i := range orders {
			b.do(t, place(fmt.Sprintf("o%02d", i)))
			time.Sleep(time.Millisecond)
		}
		b.placed(t, "settled")
		takeAll := func(before time.Time) (taken []string) {
			var mu sync.Mutex
			stores.AtOnce(4, func(i int) bool {
				for {
					batch, err := b.Replica(i).LeaseUnsettled(t.Context(), before, lease, 7)
					if err != nil {
						t.Error(err)
					}
					if len(batch) == 0 {
						return true
					}
					for _, o := range batch {
						if o.Intent == nil || o.Intent.Operation != order.PlaceOperation || len(o.Intent.Lines) != 3 {
							t.Errorf("leased without its intent: %+v", o)
						}
					}
					mu.Lock()
					taken = append(taken, ids(batch)...)
					mu.Unlock()
				}
			})
			slices.Sort(taken)
			return taken
		}
		if early := takeAll(time.Now().Add(-time.Minute)); early != nil {
			t.Errorf("leased too early: %v", early)
		}
		oldest, err := b.LeaseUnsettled(t.Context(), time.Now(), lease, 1)
		if err != nil || len(oldest) != 1 || oldest[0].ID != "o00" {
			t.Errorf("the oldest is %v, %v", ids(oldest), err)
		}
		before := b.order(t, "o00")
		if rest := takeAll(time.Now()); len(rest) != orders-1 || len(slices.Compact(rest)) != orders-1 || rest[0] != "o01" {
			t.Errorf("%d orders were leased: %v", len(rest), rest)
		}
		if again := takeAll(time.Now()); again != nil {
			t.Errorf("leased again: %v", again)
		}
		if after := b.order(t, "o00"); !reflect.DeepEqual(after, before) {
			t.Errorf("a lease changed the order: %+v", after)
		}
		b.do(t, settle("o07", 1, order.PlaceOperation, order.ReservationHeld))
		time.Sleep(lease)
		if back := takeAll(time.Now()); len(back) != orders-1 || slices.Contains(back, "o07") {
			t.Errorf("after the lease %d orders were leased: %v", len(back), back)
		}
	})
}

func TestOrderWithExpiredHoldIsLeased(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		const lease = 10 * time.Second
		take := func() []string {
			t.Helper()
			taken, err := b.LeaseExpiredHolds(t.Context(), time.Now(), lease, 2)
			if err != nil {
				t.Fatal(err)
			}
			return ids(taken)
		}
		for _, id := range []string{"old", "older-confirming", "confirmed"} {
			b.placed(t, id)
			time.Sleep(time.Millisecond)
		}
		b.do(t, order.Confirm{ID: "older-confirming"})
		b.do(t, order.Confirm{ID: "confirmed"})
		b.do(t, settle("confirmed", 2, order.ConfirmOperation, order.ReservationCommitted))
		b.do(t, place("pending"))
		time.Sleep(10 * time.Minute)
		b.placed(t, "young")
		b.placed(t, "young-2")
		if early := take(); early != nil {
			t.Errorf("leased too early: %v", early)
		}
		time.Sleep(6 * time.Minute)
		if due := take(); !slices.Equal(due, []string{"old"}) {
			t.Errorf("the orders that are due are %v", due)
		}
		if again := take(); again != nil {
			t.Errorf("leased again: %v", again)
		}
		time.Sleep(lease)
		if back := take(); !slices.Equal(back, []string{"old"}) {
			t.Errorf("after the lease: %v", back)
		}
		b.do(t, order.Expire{ID: "old", Seq: 1})
		b.do(t, rejected("older-confirming", 2, order.ConfirmOperation, order.ReservationExpired, problem.New(problem.ReservationExpired, "")))
		time.Sleep(10 * time.Minute)
		if due := take(); !slices.Equal(due, []string{"young", "young-2"}) {
			t.Errorf("the orders that are due are %v", due)
		}
	})
}

func TestCountUnsettled(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		want := func(count int64, oldest time.Time) {
			t.Helper()
			if n, since, err := b.CountUnsettled(t.Context()); err != nil || n != count || !since.Equal(oldest) {
				t.Errorf("%d since %v (%v), want %d since %v", n, since, err, count, oldest)
			}
		}
		want(0, time.Time{})
		first := b.do(t, place("a")).Order.CreatedAt
		time.Sleep(time.Second)
		second := b.do(t, place("b")).Order.CreatedAt
		want(2, first)
		b.do(t, settle("a", 1, order.PlaceOperation, order.ReservationHeld))
		want(1, second)
		b.do(t, settle("b", 1, order.PlaceOperation, order.ReservationNone))
		want(0, time.Time{})
	})
}
