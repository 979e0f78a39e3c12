package order

import (
	"context"
	"reflect"
	"testing"
	"testing/synctest"

	"roundtrip/internal/problem"
)

// A repeat joins the pending operation if it has the same content. It joins even if
// its If-Match is the version before the pending operation, which has moved the
// version.
func TestJoinComesBeforeIfMatch(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*harness, Precondition) (Response, error){
		"amend": func(h *harness, m Precondition) (Response, error) {
			return h.Amend(h.t.Context(), Amend{ID: "order-1", Lines: amendedLines, IfMatch: m})
		},
		"confirm": func(h *harness, m Precondition) (Response, error) {
			return h.Confirm(h.t.Context(), Confirm{ID: "order-1", IfMatch: m})
		},
		"cancel": func(h *harness, m Precondition) (Response, error) {
			return h.Cancel(h.t.Context(), Cancel{ID: "order-1", IfMatch: m})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			seen := Precondition{Given: true, Versions: []int64{h.wantSettled(h.Place(t.Context(), placeCommand("order-1"))).Version}}
			restore := h.dropReplies()
			h.wantUnknown(change(h, seen))
			restore()
			h.wantSettled(change(h, seen))
			sent := h.client.requests()
			if len(sent) != 3 || sent[1] != sent[2] {
				t.Errorf("the requests are %v, want the same seq twice", sent)
			}
			// The operation is settled now, and the version has moved.
			_, err := h.Amend(t.Context(), Amend{ID: "order-1", Lines: otherLines, IfMatch: seen})
			wantCode(t, err, problem.PreconditionFailed)
		})
	}
}

// An operation first settles the pending one.
func TestOperationSettlesThePendingOneFirst(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	restore := h.dropRequests()
	h.wantUnknown(h.Place(t.Context(), placeCommand("order-1")))
	restore()
	o := h.wantSettled(h.Confirm(t.Context(), Confirm{ID: "order-1"}))
	if o.State != Confirmed || o.Seq != 2 {
		t.Errorf("the order is %+v", o)
	}
	h.wantRequests("1 held", "1 held", "2 committed")

	// After that there may be nothing left to do.
	c := placeCommand("order-2")
	c.Lines = otherLines
	restore = h.dropRequests()
	h.wantUnknown(h.Place(t.Context(), c))
	restore()
	_, err := h.Confirm(t.Context(), Confirm{ID: "order-2"})
	wantCode(t, err, problem.WrongState)
	h.wantState("order-2", Rejected, "")

	// A precondition that held while the operation was pending may not hold any
	// more.
	restore = h.dropRequests()
	pending := h.wantUnknown(h.Place(t.Context(), placeCommand("order-3")))
	restore()
	_, err = h.Confirm(t.Context(), Confirm{ID: "order-3", IfMatch: Precondition{Given: true, Versions: []int64{pending.Version}}})
	wantCode(t, err, problem.PreconditionFailed)
	h.wantState("order-3", Placed, "")
}

func TestOperationPendingWhileThePendingOneStaysUnsettled(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.wantSettled(h.Place(t.Context(), placeCommand("order-1")))
	h.dropRequests()
	before := h.wantUnknown(h.Amend(t.Context(), Amend{ID: "order-1", Lines: amendedLines}))
	for _, c := range []func() error{
		func() error { _, err := h.Confirm(t.Context(), Confirm{ID: "order-1"}); return err },
		func() error {
			_, err := h.Amend(t.Context(), Amend{ID: "order-1", Lines: otherLines})
			return err
		},
	} {
		err := c()
		wantCode(t, err, problem.OperationPending)
		if wait, again := problem.From(err).Wait(); !again || wait <= 0 {
			t.Errorf("%v does not say when to retry", err)
		}
	}
	if after := h.order("order-1"); !reflect.DeepEqual(after, before) {
		t.Errorf("the order is %+v, was %+v", after, before)
	}
	h.wantRequests("1 held", "2 held", "2 held", "2 held")
}

// Another caller records a new intent while the first one is being settled.
func TestOperationHelpsOnlyOnce(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.wantSettled(h.Place(t.Context(), placeCommand("order-1")))
	restore := h.dropRequests()
	h.wantUnknown(h.Amend(t.Context(), Amend{ID: "order-1", Lines: amendedLines}))
	restore()
	h.store.after.set(func(ctx context.Context, c Command) error {
		if s, ok := c.(RecordOutcome); ok && s.Seq == 2 {
			h.store.after.set(nil)
			h.dropRequests()
			h.wantUnknown(h.Amend(ctx, Amend{ID: "order-1", Lines: placedLines}))
		}
		return nil
	})
	_, err := h.Confirm(t.Context(), Confirm{ID: "order-1"})
	wantCode(t, err, problem.OperationPending)
	h.wantRequests("1 held", "2 held", "2 held", "3 held")
}

// A cancel does not wait for the pending operation. It takes the next seq, so the
// pending request comes too late.
func TestCancelSupersedes(t *testing.T) {
	t.Parallel()
	t.Run("place that arrives late", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t)
			arrive := make(chan struct{})
			h.client.onPut.set(func(_ context.Context, r Request, deliver func() (Reservation, error)) (Reservation, error) {
				if r.Seq == 1 {
					<-arrive
				}
				return deliver()
			})
			var place Response
			var placeErr error
			go func() { place, placeErr = h.Place(t.Context(), placeCommand("order-1")) }()
			synctest.Wait()
			if o := h.wantSettled(h.Cancel(t.Context(), Cancel{ID: "order-1"})); o.State != Cancelled || o.Seq != 2 {
				t.Errorf("the cancelled order is %+v", o)
			}
			close(arrive)
			synctest.Wait()
			// The caller of the place gets the order as it is now: cancelled.
			if o := h.wantSettled(place, placeErr); o.State != Cancelled || !place.Created {
				t.Errorf("the place got %+v", place)
			}
			if r, err := h.client.get("order-1"); err != nil || r.State != ReservationReleased || r.Seq != 2 {
				t.Errorf("the reservation is %+v, %v", r, err)
			}
			h.wantAlarms() // stale-seq is expected here
		})
	})
	t.Run("amend that arrives late", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t)
			h.wantSettled(h.Place(t.Context(), placeCommand("order-1")))
			arrive := make(chan struct{})
			h.client.onPut.set(func(_ context.Context, r Request, deliver func() (Reservation, error)) (Reservation, error) {
				if r.Seq == 2 {
					<-arrive
				}
				return deliver()
			})
			var amendErr error
			go func() { _, amendErr = h.Amend(t.Context(), Amend{ID: "order-1", Lines: amendedLines}) }()
			synctest.Wait()
			h.wantSettled(h.Cancel(t.Context(), Cancel{ID: "order-1"}))
			close(arrive)
			synctest.Wait()
			wantCode(t, amendErr, problem.WrongState)
			if end, err := h.store.Settlement(t.Context(), "order-1", 2); err != nil || end.Outcome != OutcomeSuperseded {
				t.Errorf("the amend ended %+v, %v", end, err)
			}
			h.wantAlarms()
		})
	})
	t.Run("before the reply arrives, and stays unsettled itself", func(t *testing.T) {
		t.Parallel()
		h := newHarness(t)
		h.wantSettled(h.Place(t.Context(), placeCommand("order-1")))
		h.client.onPut.set(func(ctx context.Context, r Request, deliver func() (Reservation, error)) (Reservation, error) {
			if r.State == ReservationReleased {
				return Reservation{}, connectionLost()
			}
			reply, err := deliver()
			h.wantUnknown(h.Cancel(ctx, Cancel{ID: "order-1"}))
			return reply, err
		})
		if o := h.wantUnknown(h.Confirm(t.Context(), Confirm{ID: "order-1"})); o.Intent == nil || o.Intent.Operation != CancelOperation {
			t.Errorf("the confirm got %+v", o)
		}
		h.client.onPut.set(nil)
		h.wantSettled(h.Cancel(t.Context(), Cancel{ID: "order-1"}))
		if h.client.onHand[levelKey{MainLocation, "a"}] != 10 {
			t.Errorf("the committed goods did not come back: %v", h.client.onHand)
		}
		h.wantRequests("1 held", "2 committed", "3 released", "3 released")
	})
}

// A caller learns how its own operation ended, even if another caller has changed the
// order since.
func TestCallerLearnsHowItsOwnOperationEnded(t *testing.T) {
	t.Parallel()
	t.Run("done", func(t *testing.T) {
		t.Parallel()
		h := newHarness(t)
		h.wantSettled(h.Place(t.Context(), placeCommand("order-1")))
		h.client.onPut.set(func(ctx context.Context, _ Request, deliver func() (Reservation, error)) (Reservation, error) {
			reply, err := deliver()
			h.client.onPut.set(nil)
			h.wantSettled(h.Confirm(ctx, Confirm{ID: "order-1"})) // joins, and settles it first
			h.wantSettled(h.Cancel(ctx, Cancel{ID: "order-1"}))
			return reply, err
		})
		if o := h.wantSettled(h.Confirm(t.Context(), Confirm{ID: "order-1"})); o.State != Cancelled {
			t.Errorf("the confirm got %+v, want the current order", o)
		}
		h.wantRequests("1 held", "2 committed", "2 committed", "3 released")
	})
	t.Run("rejected", func(t *testing.T) {
		t.Parallel()
		h := newHarness(t)
		h.wantSettled(h.Place(t.Context(), placeCommand("order-1")))
		h.client.onPut.set(func(ctx context.Context, _ Request, deliver func() (Reservation, error)) (Reservation, error) {
			reply, err := deliver()
			h.client.onPut.set(nil)
			_, other := h.Amend(ctx, Amend{ID: "order-1", Lines: otherLines})
			wantCode(t, other, problem.InsufficientStock)
			h.wantSettled(h.Confirm(ctx, Confirm{ID: "order-1"}))
			return reply, err
		})
		_, err := h.Amend(t.Context(), Amend{ID: "order-1", Lines: otherLines})
		wantCode(t, err, problem.InsufficientStock)
		if len(problem.From(err).Shortages) != 1 {
			t.Errorf("the rejection is %+v, want it as it was stored", err)
		}
		h.wantState("order-1", Confirmed, "")
	})
	t.Run("stale-seq, after another caller settled it", func(t *testing.T) {
		t.Parallel()
		h := newHarness(t)
		h.wantSettled(h.Place(t.Context(), placeCommand("order-1")))
		h.client.onPut.set(func(ctx context.Context, _ Request, deliver func() (Reservation, error)) (Reservation, error) {
			h.client.onPut.set(nil)
			h.wantSettled(h.Amend(ctx, Amend{ID: "order-1", Lines: amendedLines}))
			h.wantSettled(h.Confirm(ctx, Confirm{ID: "order-1"}))
			return deliver()
		})
		h.wantSettled(h.Amend(t.Context(), Amend{ID: "order-1", Lines: amendedLines}))
		h.wantAlarms()
	})
}
