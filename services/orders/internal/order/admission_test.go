package order

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

// A deadline that is too short and an overload are answered before the intent is
// recorded.
func TestRefusedPlaceRecordsNothing(t *testing.T) {
	t.Parallel()
	within := func(t *testing.T, left time.Duration) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), left)
		t.Cleanup(cancel)
		return ctx
	}
	for name, test := range map[string]struct {
		prepare func(h *harness)
		left    time.Duration
		change  func(*Place)
		want    problem.Code
	}{
		"too little time": {func(*harness) {}, outcomeReserve + exchange.MinTimeout - time.Millisecond, func(*Place) {}, problem.DeadlineExceeded},
		"no time":         {func(*harness) {}, time.Nanosecond, func(*Place) {}, problem.DeadlineExceeded},
		"unreachable":     {func(h *harness) { h.unreachable.Store(true) }, time.Second, func(*Place) {}, problem.Unavailable},
		"invalid":         {func(*harness) {}, time.Second, func(c *Place) { c.Currency = "" }, problem.Invalid},
		"the store fails": {func(h *harness) {
			h.store.before.set(func(context.Context, Command) error { return problem.New(problem.Unavailable, "The disk is full.") })
		}, time.Second, func(*Place) {}, problem.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t)
				test.prepare(h)
				c := placeCommand("order-1")
				test.change(&c)
				_, err := h.Place(within(t, test.left), c)
				wantCode(t, err, test.want)
				if len(h.store.orders) > 0 {
					t.Errorf("the store has %+v, want nothing", h.store.orders)
				}
				h.wantRequests()
			})
		})
	}
	t.Run("just enough time", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t)
			h.client.onPut.set(func(ctx context.Context, _ Request, deliver func() (Reservation, error)) (Reservation, error) {
				if left, ok := exchange.Remaining(ctx); !ok || left != exchange.MinTimeout {
					t.Errorf("the exchange has %s, want the deadline less the reserve for the outcome", left)
				}
				return deliver()
			})
			h.wantSettled(h.Place(within(t, outcomeReserve+exchange.MinTimeout), placeCommand("order-1")))
		})
	})
	t.Run("hang-up before the intent", func(t *testing.T) {
		t.Parallel()
		h := newHarness(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h.Place(ctx, placeCommand("order-1")); !errors.Is(err, context.Canceled) {
			t.Errorf("the answer is %v", err)
		}
		if len(h.store.orders) > 0 {
			t.Errorf("the store has %+v, want nothing", h.store.orders)
		}
	})
}

// While inventory is unreachable, only a place that is not recorded yet is refused.
func TestUnreachableInventoryRefusesOnlyNewPlaces(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.wantSettled(h.Place(t.Context(), placeCommand("placed")))
	h.wantSettled(h.Place(t.Context(), placeCommand("amended")))
	restore := h.dropRequests()
	h.wantUnknown(h.Place(t.Context(), placeCommand("pending")))
	h.unreachable.Store(true)

	_, err := h.Place(t.Context(), placeCommand("new"))
	wantCode(t, err, problem.Unavailable)
	if _, ok := h.store.find("new"); ok {
		t.Error("a place is recorded while inventory is away")
	}
	h.wantSettled(h.Place(t.Context(), placeCommand("placed")))
	h.wantUnknown(h.Place(t.Context(), placeCommand("pending")))
	h.wantUnknown(h.Confirm(t.Context(), Confirm{ID: "placed"}))
	h.wantUnknown(h.Amend(t.Context(), Amend{ID: "amended", Lines: amendedLines}))
	h.wantUnknown(h.Cancel(t.Context(), Cancel{ID: "pending"}))

	restore()
	h.unreachable.Store(false)
	h.wantSettled(h.Confirm(t.Context(), Confirm{ID: "placed"}))
	h.wantSettled(h.Amend(t.Context(), Amend{ID: "amended", Lines: amendedLines}))
	h.wantSettled(h.Cancel(t.Context(), Cancel{ID: "pending"}))
}
