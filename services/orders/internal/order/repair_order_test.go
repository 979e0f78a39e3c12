package order

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/problem"
)

// repair reads the order and then the reservation, and repairs, as "orders audit
// --repair" does.
func (h *harness) repair(ctx context.Context, id string) (Order, error) {
	return repair(ctx, h.store, h.client, id)
}

func repair(ctx context.Context, store Store, inventory Inventory, id string) (Order, error) {
	o, err := store.Order(ctx, id)
	if problem.CodeOf(err) == problem.NotFound {
		o, err = Order{ID: id}, nil
	}
	if err != nil {
		return o, err
	}
	r, err := inventory.Reservation(ctx, id)
	if problem.CodeOf(err) == problem.NotFound {
		r, err = Reservation{ID: id, State: ReservationNone}, nil
	}
	if err != nil {
		return o, err
	}
	return RepairOrder(ctx, store, inventory, o, r)
}

// A repair first asks inventory for the outcome of the pending operation. If there
// is one, it settles the operation as usual.
func TestRepairSettlesThePendingOperationFirst(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		// decided are the requests that inventory decided and that orders has lost.
		decided []Request
		onPut   func(r Request, deliver func() (Reservation, error)) (Reservation, error)
		want    State
		// outcome is how the amend under seq 2 ended; "" means that it did not.
		outcome OutcomeKind
		code    problem.Code
		fails   problem.Code
	}{
		"inventory has its outcome": {
			decided: []Request{{ID: "order-1", Seq: 2, State: ReservationHeld, HoldSeconds: 600, Lines: []Demand{{"c", MainLocation, 1}}}},
			want:    Placed, outcome: OutcomeRejected, code: problem.InsufficientStock,
		},
		"inventory has another request under its seq": {
			decided: []Request{{ID: "order-1", Seq: 2, State: ReservationCommitted}}, want: Confirmed, outcome: OutcomeSuperseded,
		},
		"inventory has decided a later seq": {
			decided: []Request{{ID: "order-1", Seq: 2, State: ReservationCommitted}, {ID: "order-1", Seq: 3, State: ReservationReleased}},
			want:    Cancelled, outcome: OutcomeSuperseded,
		},
		"inventory never received it": {want: Placed, fails: problem.OperationPending},
		"inventory does not answer": {
			decided: []Request{{ID: "order-1", Seq: 2, State: ReservationCommitted}}, want: Placed, fails: problem.Unavailable,
			onPut: func(Request, func() (Reservation, error)) (Reservation, error) {
				return Reservation{}, connectionLost()
			},
		},
		"inventory gives an unexplained answer": {
			decided: []Request{{ID: "order-1", Seq: 2, State: ReservationCommitted}}, want: Placed, fails: problem.Internal,
			onPut: func(Request, func() (Reservation, error)) (Reservation, error) { return Reservation{}, nil },
		},
		"inventory answers stale-seq": {
			decided: []Request{{ID: "order-1", Seq: 2, State: ReservationCommitted}}, want: Placed, fails: problem.StaleSeq,
			onPut: func(Request, func() (Reservation, error)) (Reservation, error) {
				return Reservation{}, problem.New(problem.StaleSeq, "")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t)
				h.mustPlace("order-1")
				for _, r := range c.decided {
					_, _ = h.client.put(r)
				}
				restore := h.dropRequests()
				h.wantUnknown(h.Amend(t.Context(), Amend{ID: "order-1", Lines: otherLines}))
				restore()
				if c.onPut != nil {
					h.client.onPut.set(func(_ context.Context, r Request, deliver func() (Reservation, error)) (Reservation, error) {
						return c.onPut(r, deliver)
					})
				}
				o, err := h.repair(t.Context(), "order-1")
				if problem.CodeOf(err) != c.fails {
					t.Fatalf("the repair returned %v, want %q", err, c.fails)
				}
				stored := h.order("order-1")
				if stored.State != c.want || (stored.Intent == nil) != (c.outcome != "") || err == nil && !reflect.DeepEqual(o, stored) {
					t.Errorf("the order is %+v, the repair returned %+v; want %s", stored, o, c.want)
				}
				if end, _ := h.store.Settlement(t.Context(), "order-1", 2); end.Outcome != c.outcome || problem.CodeOf(asError(end.Problem)) != c.code {
					t.Errorf("the amend ended %+v, want %q %q", end, c.outcome, c.code)
				}
			})
		})
	}
}

func asError(p *problem.Problem) error {
	if p == nil {
		return nil
	}
	return p
}

// After a repair the next operation is decided, and an expired hold is marked, as
// usual.
func TestOperationsAfterARepair(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ repaired, next State }{{Placed, Confirmed}, {Placed, Cancelled}, {Placed, Expired}, {Confirmed, Cancelled}} {
		for name, diverge := range map[string]func(*harness){
			"orders has lost it":  func(h *harness) { delete(h.store.orders, "order-1"); delete(h.store.intents, "order-1") },
			"inventory is behind": func(h *harness) { h.client.reservations["order-1"].seq-- },
			"inventory is ahead":  func(h *harness) { h.client.reservations["order-1"].seq += 3 },
			"they agree":          func(*harness) {},
		} {
			t.Run(fmt.Sprintf("%s, from %s to %s", name, c.repaired, c.next), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					h := newHarness(t)
					h.mustPlace("order-1")
					h.wantSettled(h.Amend(t.Context(), Amend{ID: "order-1", Lines: amendedLines}))
					if c.repaired == Confirmed {
						h.wantSettled(h.Confirm(t.Context(), Confirm{ID: "order-1"}))
					}
					diverge(h)
					o, err := h.repair(t.Context(), "order-1")
					if err != nil || o.State != c.repaired {
						t.Fatalf("the repaired order is %+v, %v", o, err)
					}
					switch c.next {
					case Confirmed:
						h.wantSettled(h.Confirm(t.Context(), Confirm{ID: "order-1"}))
					case Cancelled:
						h.wantSettled(h.Cancel(t.Context(), Cancel{ID: "order-1"}))
					case Expired:
						defer h.runSettler(discardLogger())()
						advance(600*time.Second + 2*settleEvery)
					}
					o = h.order("order-1")
					if r, err := h.client.get("order-1"); err != nil || Differences(o, r) != nil || o.State != c.next {
						t.Errorf("in the end the order is %+v and the reservation %+v, %v", o, r, err)
					}
					h.wantAlarms()
				})
			})
		}
	}
}

// A caller waits for an operation that a repair supersedes. It does not get a
// success, even if the repair gives the order the seq of that operation.
func TestRepairDoesNotAnswerAWaitingCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		h.mustPlace("order-1")
		if _, err := h.client.put(Request{ID: "order-1", Seq: 2, State: ReservationCommitted}); err != nil {
			t.Fatal(err)
		}
		h.client.onPut.set(func(ctx context.Context, r Request, deliver func() (Reservation, error)) (Reservation, error) {
			h.client.onPut.set(nil)
			if _, err := h.repair(ctx, "order-1"); err != nil {
				t.Error(err)
			}
			return deliver()
		})
		answer, err := h.Amend(t.Context(), Amend{ID: "order-1", Lines: otherLines})
		if problem.CodeOf(err) != problem.WrongState {
			t.Errorf("the amend got %+v, %v", answer, err)
		}
		if o := h.order("order-1"); o.State != Confirmed || o.Last.Seq != 2 {
			t.Errorf("the order is %+v", o)
		}
	})
}

func TestRepairIgnoresAnAnswerForAnotherOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		h.mustPlace("order-1")
		was := h.order("order-1")
		other := inventorySays(ReservationCommitted, 4)
		other.ID = "order-2"
		if _, err := RepairOrder(t.Context(), h.store, h.client, was, other); !errors.Is(err, ErrUnexplained) {
			t.Errorf("the repair returned %v", err)
		}
		if o := h.order("order-1"); !reflect.DeepEqual(o, was) {
			t.Errorf("the order is %+v", o)
		}
	})
}
