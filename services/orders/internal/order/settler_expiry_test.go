package order

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/problem"
)

// An order is marked expired when inventory says that the hold of its seq has
// expired.
func TestSettlerMarksExpiredHolds(t *testing.T) {
	t.Parallel()
	const hold = 600 * time.Second
	t.Run("inventory says that it has expired", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t)
			h.mustPlace("order-1")
			h.mustPlace("confirmed")
			h.wantSettled(h.Confirm(t.Context(), Confirm{ID: "confirmed"}))
			defer h.runSettler(discardLogger())()
			advance(hold)
			h.wantState("order-1", Placed, "")
			advance(2 * settleEvery)
			h.wantState("order-1", Expired, "")
			h.wantState("confirmed", Confirmed, "")
			o := h.order("order-1")
			if o.Version != 3 || o.Seq != 1 || !o.HoldExpiresAt.Equal(o.CreatedAt.Add(hold)) {
				t.Errorf("the order is %+v", o)
			}
			_, err := h.Confirm(t.Context(), Confirm{ID: "order-1"})
			wantCode(t, err, problem.ReservationExpired)
			// The settler only read the reservation.
			h.wantRequests("1 held", "1 held", "2 committed")
		})
	})
	for name, answer := range map[string]func(Reservation) (Reservation, error){
		"inventory says that it is held": func(r Reservation) (Reservation, error) { r.State = ReservationHeld; return r, nil },
		"an answer for another order":    func(r Reservation) (Reservation, error) { r.ID = "order-2"; return r, nil },
		"an answer for another seq":      func(r Reservation) (Reservation, error) { r.Seq++; return r, nil },
		"no answer":                      func(r Reservation) (Reservation, error) { return r, connectionLost() },
		"an unknown reservation": func(r Reservation) (Reservation, error) {
			return Reservation{}, problem.New(problem.NotFound, "")
		},
		"a released reservation": func(r Reservation) (Reservation, error) { r.State = ReservationReleased; return r, nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t)
				h.mustPlace("order-1")
				asked := 0
				h.client.onGet.set(func(_ context.Context, _ string, deliver func() (Reservation, error)) (Reservation, error) {
					asked++
					r, err := deliver()
					if err != nil || r.State != ReservationExpired {
						t.Errorf("the reservation is %+v, %v", r, err)
					}
					return answer(r)
				})
				defer h.runSettler(discardLogger())()
				advance(hold + 3*lease)
				h.wantState("order-1", Placed, "")
				if asked == 0 || asked > 3 {
					t.Errorf("inventory was asked %d times in 3 leases", asked)
				}
				h.client.onGet.set(nil)
				advance(lease + settleEvery)
				h.wantState("order-1", Expired, "")
				h.wantAlarms()
			})
		})
	}
	// An operation is recorded between inventory's answer and the mark.
	for name, meanwhile := range map[string]struct {
		do      func(ctx context.Context, h *harness)
		want    State
		pending Operation
	}{
		"a confirm is recorded meanwhile": {func(ctx context.Context, h *harness) {
			h.dropRequests()
			h.wantUnknown(h.Confirm(ctx, Confirm{ID: "order-1"}))
		}, Placed, ConfirmOperation},
		"an amend is settled meanwhile": {func(ctx context.Context, h *harness) {
			// Inventory's clock is behind that of orders, and the hold is still
			// valid.
			h.client.reservations["order-1"].state = ReservationHeld
			h.client.reservations["order-1"].expires = time.Now().Add(time.Minute)
			h.wantSettled(h.Amend(ctx, Amend{ID: "order-1", Lines: amendedLines}))
		}, Placed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t)
				h.mustPlace("order-1")
				marked := false
				h.store.before.set(func(ctx context.Context, c Command) error {
					if _, ok := c.(Expire); ok && !marked {
						marked = true
						meanwhile.do(ctx, h)
					}
					return nil
				})
				defer h.runSettler(discardLogger())()
				advance(hold + 2*settleEvery)
				if !marked {
					t.Fatal("the settler never tried to mark the order")
				}
				h.wantState("order-1", meanwhile.want, meanwhile.pending)
			})
		})
	}
}
