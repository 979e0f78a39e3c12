package order

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"roundtrip/internal/problem"
)

// 50 callers send the same request at once. There is one order and one decision,
// and all get the same answer.
func TestConcurrentIdenticalPlacesMakeOneOrder(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	var callers sync.WaitGroup
	answers := make([]Response, 50)
	begin := make(chan struct{})
	for i := range answers {
		callers.Go(func() {
			<-begin
			var err error
			if answers[i], err = h.Place(t.Context(), placeCommand("order-1")); err != nil {
				t.Error(err)
			}
		})
	}
	close(begin)
	callers.Wait()
	created := 0
	for _, answer := range answers {
		if answer.Created {
			created++
		}
		if !answer.Settled || !reflect.DeepEqual(answer.Order, answers[0].Order) {
			t.Errorf("one caller got %+v, another %+v", answer, answers[0])
		}
	}
	if created != 1 || len(h.client.outcomes) != 1 {
		t.Errorf("%d callers created the order and inventory decided %d times, want 1 and 1", created, len(h.client.outcomes))
	}
	h.wantAlarms()
}

// Many callers run every operation on a few orders at once, while messages and
// commit results are lost. In the end orders and inventory agree.
func TestConcurrentOperationsUnderFaults(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	var n sync.Mutex
	count := 0
	every := func(k int) bool {
		n.Lock()
		defer n.Unlock()
		count++
		return count%k == 0
	}
	h.client.onPut.set(func(_ context.Context, _ Request, deliver func() (Reservation, error)) (Reservation, error) {
		if every(7) {
			return Reservation{}, connectionLost()
		}
		r, err := deliver()
		if every(5) {
			return Reservation{}, connectionLost()
		}
		return r, err
	})
	h.store.after.set(func(context.Context, Command) error {
		if every(11) {
			return problem.New(problem.Unavailable, "It may be recorded.")
		}
		return nil
	})
	var callers sync.WaitGroup
	ids := []string{"order-0", "order-1", "order-2", "order-3"}
	for caller := range 16 {
		callers.Go(func() {
			for i := range 25 {
				id := ids[(caller+i)%len(ids)]
				switch (caller*7 + i) % 9 {
				case 0:
					_, _ = h.Confirm(t.Context(), Confirm{ID: id})
				case 1, 2, 3:
					_, _ = h.Amend(t.Context(), Amend{ID: id, Lines: []Line{{SKU: "a", Location: MainLocation, Quantity: int64(1 + i%4)}}})
				case 4:
					if i > 20 {
						_, _ = h.Cancel(t.Context(), Cancel{ID: id})
					}
				default:
					_, _ = h.Place(t.Context(), placeCommand(id))
				}
			}
		})
	}
	callers.Wait()
	h.client.onPut.set(nil)
	h.store.after.set(nil)
	for _, id := range ids {
		o := h.order(id)
		if o.Intent != nil {
			o = h.settle(t.Context(), o)
		}
		if err := checkAgreement(o, h.client.reservations[id], time.Now()); err != nil {
			t.Error(err)
		}
	}
	h.wantAlarms()
}

// checkAgreement compares an order without an intent with its reservation
// (invariant 5).
func checkAgreement(o Order, res *fakeReservation, now time.Time) error {
	if o.Intent != nil {
		return fmt.Errorf("order %s still has the intent %+v", o.ID, o.Intent)
	}
	if res == nil {
		return fmt.Errorf("order %s is %s and has no reservation", o.ID, o.State)
	}
	state := res.state
	if state == ReservationHeld && !now.Before(res.expires) {
		state = ReservationExpired
	}
	want := map[ReservationState][]State{
		ReservationHeld: {Placed}, ReservationExpired: {Placed, Expired}, ReservationCommitted: {Confirmed}, ReservationNone: {Rejected}, ReservationReleased: {Cancelled},
	}[state]
	if state == ReservationReleased && o.Last.Problem != nil && o.Last.Problem.Code == problem.GivenUp {
		want = []State{Rejected}
	}
	repaired := o.Last.Seq < o.Seq && o.Seq > res.seq // a repair takes a new seq, above the reservation's
	if !slices.Contains(want, o.State) || o.Seq != res.seq && !repaired {
		return fmt.Errorf("order %s is %s at seq %d, its reservation %s at %d", o.ID, o.State, o.Seq, state, res.seq)
	}
	if state == ReservationNone || o.State == Cancelled || o.State == Rejected {
		return nil
	}
	lines := map[levelKey]int64{}
	for _, l := range o.Lines {
		lines[levelKey{l.Location, l.SKU}] += l.Quantity
	}
	if !reflect.DeepEqual(lines, res.lines) {
		return fmt.Errorf("order %s has the lines %v, its reservation %v", o.ID, lines, res.lines)
	}
	if o.State == Placed && !o.HoldExpiresAt.Equal(res.expires) {
		return fmt.Errorf("order %s has a hold until %s, its reservation until %s", o.ID, o.HoldExpiresAt, res.expires)
	}
	return nil
}
