package order

import (
	"context"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/problem"
)

func TestOrderLifecycle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		// The intent is committed before anything is sent. The store can be read
		// meanwhile, so no lock is held.
		h.client.onPut.set(func(ctx context.Context, r Request, deliver func() (Reservation, error)) (Reservation, error) {
			o, err := h.store.Order(ctx, r.ID)
			if err != nil || o.Intent == nil || !reflect.DeepEqual(request(o), r) {
				t.Errorf("while %+v is sent, the order is %+v, %v", r, o, err)
			}
			return deliver()
		})
		answer, err := h.Place(t.Context(), placeCommand("order-1"))
		o := h.wantSettled(answer, err)
		if !answer.Created || o.State != Placed || o.Total != 250 || o.Version != 2 || !o.HoldExpiresAt.Equal(time.Now().Add(600*time.Second)) {
			t.Errorf("the placed order is %+v", answer)
		}
		time.Sleep(time.Minute)
		o = h.wantSettled(h.Amend(t.Context(), Amend{ID: "order-1", Lines: amendedLines}))
		if o.State != Placed || o.Total != 450 || o.Version != 4 || !o.HoldExpiresAt.Equal(time.Now().Add(600*time.Second)) {
			t.Errorf("the amended order is %+v", o)
		}
		o = h.wantSettled(h.Confirm(t.Context(), Confirm{ID: "order-1"}))
		if o.State != Confirmed || o.Version != 6 || !o.HoldExpiresAt.IsZero() || h.client.onHand[levelKey{MainLocation, "a"}] != 5 {
			t.Errorf("the confirmed order is %+v, with %v on hand", o, h.client.onHand)
		}
		o = h.wantSettled(h.Cancel(t.Context(), Cancel{ID: "order-1"}))
		if o.State != Cancelled || o.Version != 8 || h.client.onHand[levelKey{MainLocation, "a"}] != 10 {
			t.Errorf("the cancelled order is %+v, with %v on hand", o, h.client.onHand)
		}
		h.wantRequests("1 held", "2 held", "3 committed", "4 released")
		if got, err := h.Order(t.Context(), "order-1"); err != nil || !reflect.DeepEqual(got, o) {
			t.Errorf("reading the order gives %+v, %v", got, err)
		}
		h.wantAlarms()
	})
}

// A repeat of a settled operation is answered without asking inventory.
func TestRepeatsOfSettledOperations(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	first := h.wantSettled(h.Place(t.Context(), placeCommand("order-1")))
	answer, err := h.Place(t.Context(), placeCommand("order-1"))
	if again := h.wantSettled(answer, err); answer.Created || !reflect.DeepEqual(again, first) {
		t.Errorf("the repeat got %+v, want the current order %+v", answer, first)
	}
	other := placeCommand("order-1")
	other.Customer = "Bob"
	_, err = h.Place(t.Context(), other)
	wantCode(t, err, problem.KeyReused)

	confirmed := h.wantSettled(h.Confirm(t.Context(), Confirm{ID: "order-1"}))
	if again := h.wantSettled(h.Confirm(t.Context(), Confirm{ID: "order-1", IfMatch: Precondition{Given: true, Versions: []int64{1}}})); !reflect.DeepEqual(again, confirmed) {
		t.Errorf("the repeated confirm got %+v, want %+v", again, confirmed)
	}
	// A repeated place still gets the current order.
	if again := h.wantSettled(h.Place(t.Context(), placeCommand("order-1"))); again.State != Confirmed {
		t.Errorf("the repeated place got %+v", again)
	}
	_, err = h.Amend(t.Context(), Amend{ID: "order-1", Lines: amendedLines})
	wantCode(t, err, problem.WrongState)
	h.wantSettled(h.Cancel(t.Context(), Cancel{ID: "order-1"}))
	h.wantSettled(h.Cancel(t.Context(), Cancel{ID: "order-1", IfMatch: Precondition{Given: true}}))
	_, err = h.Confirm(t.Context(), Confirm{ID: "order-1"})
	wantCode(t, err, problem.WrongState)
	h.wantRequests("1 held", "2 committed", "3 released")

	for _, change := range []func() error{
		func() error { _, err := h.Amend(t.Context(), Amend{ID: "none", Lines: amendedLines}); return err },
		func() error { _, err := h.Confirm(t.Context(), Confirm{ID: "none"}); return err },
		func() error { _, err := h.Cancel(t.Context(), Cancel{ID: "none"}); return err },
		func() error { _, err := h.Order(t.Context(), "none"); return err },
		func() error { _, err := h.Protocol.Reservation(t.Context(), "none"); return err },
	} {
		wantCode(t, change(), problem.NotFound)
	}
}

// A rejected place gets every shortage. A repeat gets the same problem, even if
// there is stock by then.
func TestRejectionIsFinal(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	c := placeCommand("order-1")
	c.Lines = []Line{{SKU: "a", Location: MainLocation, Quantity: 11}, {SKU: "x", Location: MainLocation, Quantity: 1}}
	_, first := h.Place(t.Context(), c)
	wantCode(t, first, problem.InsufficientStock)
	want := []problem.Shortage{{SKU: "a", Location: MainLocation, Requested: 11, Available: 10}, {SKU: "x", Location: MainLocation, Requested: 1, Available: 0}}
	if got := problem.From(first); !slices.Equal(got.Shortages, want) || got.Current != nil {
		t.Errorf("the answer is %+v, want the shortages %+v", got, want)
	}
	h.client.onHand[levelKey{MainLocation, "a"}], h.client.onHand[levelKey{MainLocation, "x"}] = 100, 100
	_, again := h.Place(t.Context(), c)
	if !reflect.DeepEqual(problem.From(again), problem.From(first)) {
		t.Errorf("the repeat got %+v, want %+v", again, first)
	}
	h.wantState("order-1", Rejected, "")
	_, err := h.Cancel(t.Context(), Cancel{ID: "order-1"})
	wantCode(t, err, problem.WrongState)
	h.wantRequests("1 held")

	// A rejected amend leaves the order as it was.
	before := h.wantSettled(h.Place(t.Context(), placeCommand("order-2")))
	_, err = h.Amend(t.Context(), Amend{ID: "order-2", Lines: []Line{{SKU: "a", Location: MainLocation, Quantity: 101}}})
	wantCode(t, err, problem.InsufficientStock)
	after := h.order("order-2")
	if !slices.Equal(after.Lines, before.Lines) || after.Total != before.Total || after.State != Placed || !after.HoldExpiresAt.Equal(before.HoldExpiresAt) {
		t.Errorf("after the rejected amend the order is %+v, was %+v", after, before)
	}
	if after.Last.Outcome != OutcomeRejected || after.Last.Problem.Code != problem.InsufficientStock {
		t.Errorf("the last operation is %+v", after.Last)
	}
}

// Reads ask inventory. A problem that would mean nothing to the caller becomes
// unavailable.
func TestReadsFromInventory(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.wantSettled(h.Place(t.Context(), placeCommand("order-1")))
	r, err := h.Protocol.Reservation(t.Context(), "order-1")
	if err != nil || r.State != ReservationHeld || r.Seq != 1 || len(r.Lines) != 2 {
		t.Errorf("the reservation is %+v, %v", r, err)
	}
	_, err = h.Protocol.Reservation(t.Context(), "no/id")
	wantCode(t, err, problem.Invalid)
	_, err = h.Order(t.Context(), "no/id")
	wantCode(t, err, problem.Invalid)

	h.client.stock = func(_ context.Context, skus []string) ([]Level, error) {
		return []Level{{skus[0], MainLocation, 3}}, nil
	}
	if levels, err := h.Availability(t.Context(), []string{"a"}); err != nil || !slices.Equal(levels, []Level{{"a", MainLocation, 3}}) {
		t.Errorf("the availability is %v, %v", levels, err)
	}

	var answer Reservation
	var failure error
	h.client.onGet.set(func(context.Context, string, func() (Reservation, error)) (Reservation, error) {
		return answer, failure
	})
	h.client.stock = func(context.Context, []string) ([]Level, error) { return nil, failure }
	for _, test := range []struct {
		err                error
		reservation, stock problem.Code
	}{
		{problem.New(problem.NotFound, ""), problem.NotFound, problem.Unavailable},
		{problem.New(problem.Unavailable, ""), problem.Unavailable, problem.Unavailable},
		{problem.New(problem.Overloaded, ""), problem.Overloaded, problem.Overloaded},
		{problem.New(problem.DeadlineExceeded, ""), problem.DeadlineExceeded, problem.DeadlineExceeded},
		{problem.New(problem.Forbidden, ""), problem.Unavailable, problem.Unavailable},
		{problem.New(problem.Invalid, ""), problem.Unavailable, problem.Unavailable},
		{problem.New(problem.Internal, ""), problem.Unavailable, problem.Unavailable},
		{problem.New("sold-out", ""), problem.Unavailable, problem.Unavailable},
		{problem.Wrap(ErrUnexplained, problem.Internal, ""), problem.Unavailable, problem.Unavailable},
	} {
		failure = test.err
		_, err := h.Protocol.Reservation(t.Context(), "order-1")
		wantCode(t, err, test.reservation)
		_, err = h.Availability(t.Context(), []string{"a"})
		wantCode(t, err, test.stock)
	}
	answer, failure = Reservation{ID: "order-2", Seq: 1, State: ReservationHeld}, nil
	_, err = h.Protocol.Reservation(t.Context(), "order-1")
	wantCode(t, err, problem.Unavailable)

	h.client.stock = func(context.Context, []string) ([]Level, error) { return []Level{{"b", MainLocation, 3}}, nil }
	_, err = h.Availability(t.Context(), []string{"a"})
	wantCode(t, err, problem.Unavailable)
	h.wantAlarms()
}
