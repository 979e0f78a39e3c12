package order

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

func TestSettlerResendsTheSameRequest(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*harness) func(){
		"the request was lost": (*harness).dropRequests,
		"the reply was lost":   (*harness).dropReplies,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t)
				restore := lose(h)
				h.mustPlace("order-1")
				restore()
				h.client.onPut.set(func(ctx context.Context, r Request, deliver func() (Reservation, error)) (Reservation, error) {
					if age := time.Since(h.order("order-1").Intent.Since); age <= settleAfter {
						t.Errorf("the intent is resent after %s, while its caller may still wait", age)
					}
					if left, ok := exchange.Remaining(ctx); !ok || left != exchange.DefaultTimeout-outcomeReserve {
						t.Errorf("the exchange has %s", left)
					}
					if exchange.RequestID(ctx) == "" {
						t.Error("the exchange has no request id")
					}
					return deliver()
				})
				defer h.runSettler(discardLogger())()
				advance(settleAfter)
				h.wantState("order-1", Pending, PlaceOperation)
				advance(2 * settleEvery)
				h.wantState("order-1", Placed, "")
				h.wantRequests("1 held", "1 held")
				advance(time.Minute)
				h.wantRequests("1 held", "1 held")
				h.wantAlarms()
			})
		})
	}
}

// Only places are given up, and not before 30 seconds. Stock that inventory held
// for them comes back.
func TestSettlerGivesUpOldPlaces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		for _, id := range []string{"amend", "confirm", "cancel"} {
			h.mustPlace(id)
		}
		restore := h.dropReplies()
		h.mustPlace("held")
		restore()
		restore = h.dropRequests()
		h.mustPlace("lost")
		h.mustPlace("customer")
		h.wantUnknown(h.Amend(t.Context(), Amend{ID: "amend", Lines: []Line{{SKU: "a", Location: MainLocation, Quantity: 1}}}))
		h.wantUnknown(h.Confirm(t.Context(), Confirm{ID: "confirm"}))
		h.wantUnknown(h.Cancel(t.Context(), Cancel{ID: "cancel"}))

		defer h.runSettler(discardLogger())()
		advance(giveUpAfter)
		for _, id := range []string{"held", "lost", "customer"} {
			h.wantState(id, Pending, PlaceOperation)
		}
		advance(lease + 2*settleEvery)
		for _, id := range []string{"held", "lost", "customer"} {
			h.wantState(id, Pending, GiveUpOperation)
		}
		advance(time.Minute)
		h.wantState("held", Pending, GiveUpOperation)
		h.wantState("amend", Placed, AmendOperation)
		h.wantState("confirm", Placed, ConfirmOperation)
		h.wantState("cancel", Placed, CancelOperation)
		if h.client.reservations["held"].state != ReservationHeld {
			t.Fatal("inventory has not held the stock of the place whose reply was lost")
		}

		// A caller's cancel supersedes the settler's.
		o := h.wantUnknown(h.Cancel(t.Context(), Cancel{ID: "customer"}))
		if o.Intent.Seq != 3 || o.Intent.Operation != CancelOperation {
			t.Errorf("after the caller's cancel the intent is %+v", o.Intent)
		}

		restore()
		advance(lease + 2*settleEvery)
		h.wantState("held", Rejected, "")
		h.wantState("lost", Rejected, "")
		h.wantState("customer", Cancelled, "")
		h.wantState("amend", Placed, "")
		h.wantState("confirm", Confirmed, "")
		h.wantState("cancel", Cancelled, "")
		for _, id := range []string{"held", "lost"} {
			if res := h.client.reservations[id]; res.state != ReservationReleased || res.seq != 2 {
				t.Errorf("the reservation of %s is %s at %d", id, res.state, res.seq)
			}
			_, err := h.Place(t.Context(), placeCommand(id))
			wantCode(t, err, problem.GivenUp)
			if last := h.order(id).Last; last.Operation != PlaceOperation || last.Outcome != OutcomeRejected {
				t.Errorf("%s has the last operation %+v", id, last)
			}
		}
		// The lost place arrives late, and changes nothing.
		_, err := h.client.put(request(Order{ID: "lost", HoldSeconds: 600, Intent: &Intent{Operation: PlaceOperation, Seq: 1, Lines: placedLines}}))
		wantCode(t, err, problem.StaleSeq)
		if res := h.client.reservations["lost"]; res.state != ReservationReleased {
			t.Errorf("the late place made the reservation %s", res.state)
		}
		h.wantAlarms()
	})
}

// A place is not given up if it settles or is cancelled after the settler has read
// it.
func TestSettlerGivesUpOnlyUnsettledPlaces(t *testing.T) {
	t.Parallel()
	for name, meanwhile := range map[string]struct {
		do   func(ctx context.Context, h *harness)
		want State
	}{
		"placed":    {func(ctx context.Context, h *harness) { h.wantSettled(h.Place(ctx, placeCommand("order-1"))) }, Placed},
		"cancelled": {func(ctx context.Context, h *harness) { h.wantSettled(h.Cancel(ctx, Cancel{ID: "order-1"})) }, Cancelled},
		"placed, with an unsettled amend": {func(ctx context.Context, h *harness) {
			h.wantSettled(h.Place(ctx, placeCommand("order-1")))
			restore := h.dropReplies()
			h.wantUnknown(h.Amend(ctx, Amend{ID: "order-1", Lines: amendedLines}))
			restore()
		}, Placed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t)
				restore := h.dropRequests()
				h.mustPlace("order-1")
				tried := false
				h.store.before.set(func(ctx context.Context, c Command) error {
					if _, ok := c.(GiveUp); ok && !tried {
						tried = true
						restore()
						meanwhile.do(ctx, h)
					}
					return nil
				})
				defer h.runSettler(discardLogger())()
				advance(giveUpAfter + lease + settleAfter + lease)
				if !tried {
					t.Fatal("the settler never tried to give up the place")
				}
				h.wantState("order-1", meanwhile.want, "")
				for _, in := range h.store.intents["order-1"] {
					if in.Operation == GiveUpOperation {
						t.Errorf("intent %d gives up a settled place", in.Seq)
					}
				}
			})
		})
	}
}

// Another process settles the intent before the settler leases its order.
func TestSettlerSkipsSettledIntents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		h.mustPlace("order-1")
		NewSettler(h.Protocol, settleEvery, giveUpAfter, discardLogger()).resend(t.Context(), h.order("order-1"))
		h.wantState("order-1", Placed, "")
		h.wantRequests("1 held")
	})
}

// Two settlers share the work, and each keeps to its own limit.
func TestSettlersShareTheWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		h.client.onHand[levelKey{MainLocation, "a"}], h.client.onHand[levelKey{"east", "b"}] = 1000, 1000
		restore := h.dropRequests()
		const n = 300
		for i := range n {
			h.mustPlace(fmt.Sprintf("order-%03d", i))
		}
		restore()
		var inFlight, most, resent atomic.Int64
		h.client.onPut.set(func(_ context.Context, _ Request, deliver func() (Reservation, error)) (Reservation, error) {
			most.Store(max(most.Load(), inFlight.Add(1)))
			resent.Add(1)
			time.Sleep(10 * time.Millisecond)
			inFlight.Add(-1)
			return deliver()
		})
		stopOne, stopOther := h.runSettler(discardLogger()), h.runSettler(discardLogger())
		advance(settleAfter + 2*settleEvery)
		stopOne()
		stopOther()
		for i := range n {
			h.wantState(fmt.Sprintf("order-%03d", i), Placed, "")
		}
		if resent.Load() != n {
			t.Errorf("%d intents were sent %d times", n, resent.Load())
		}
		if most.Load() > 2*settlerWorkers || most.Load() < settlerWorkers {
			t.Errorf("there were %d exchanges at once, want up to %d for each settler", most.Load(), settlerWorkers)
		}
	})
}

// An intent that inventory answers with stale-seq is resent once a lease, raises an
// alarm each time, and is never settled.
func TestSettlerNeverSettlesByStaleSeq(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		h.mustPlace("order-1")
		h.client.onPut.set(func(_ context.Context, r Request, _ func() (Reservation, error)) (Reservation, error) {
			stale := problem.New(problem.StaleSeq, "")
			stale.Current = &problem.Current{ID: r.ID, Seq: r.Seq + 5, State: "committed"}
			return Reservation{}, stale
		})
		h.wantUnknown(h.Confirm(t.Context(), Confirm{ID: "order-1"}))
		defer h.runSettler(discardLogger())()
		advance(10 * time.Minute)
		h.wantState("order-1", Placed, ConfirmOperation)
		h.alarms.mu.Lock()
		defer h.alarms.mu.Unlock()
		if n := len(h.alarms.reasons); n < 30 || n > 61 || slices.ContainsFunc(h.alarms.reasons, func(r string) bool { return r != "stale-seq" }) {
			t.Errorf("there were %d alarms in 60 leases: %v", n, h.alarms.reasons)
		}
	})
}

// A settler that is stopped finishes its exchange, so the outcome is recorded.
func TestSettlerFinishesItsExchangeBeforeItStops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		restore := h.dropRequests()
		h.mustPlace("order-1")
		restore()
		asking := make(chan struct{})
		h.client.onPut.set(func(ctx context.Context, _ Request, deliver func() (Reservation, error)) (Reservation, error) {
			close(asking)
			time.Sleep(time.Second)
			if ctx.Err() != nil {
				t.Error("the exchange is cancelled")
			}
			return deliver()
		})
		stop := h.runSettler(discardLogger())
		<-asking
		began := time.Now()
		stop()
		if took := time.Since(began); took != time.Second {
			t.Errorf("the settler took %s to stop, want 1s", took)
		}
		h.wantState("order-1", Placed, "")
	})
}

// The settler logs a database error and tries again.
func TestSettlerRetriesAfterADatabaseError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		restore := h.dropRequests()
		h.mustPlace("order-1")
		restore()
		h.store.read.set(func(context.Context) error { return problem.New(problem.Unavailable, "The disk is gone.") })
		var text bytes.Buffer
		stop := h.runSettler(slog.New(slog.NewTextHandler(&text, nil)))
		advance(10 * time.Second)
		h.wantState("order-1", Pending, PlaceOperation)
		h.store.read.set(nil)
		advance(2 * time.Second)
		h.wantState("order-1", Placed, "")
		stop()
		for _, want := range []string{"unsettled intents", "holds that ran out", "The disk is gone."} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("the log does not say %q", want)
			}
		}
	})
}
