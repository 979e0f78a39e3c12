package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

// sides are both services' data. What a test changes meanwhile, it changes in look.
type sides struct {
	orders       map[string]order.Order
	reservations map[string]order.Reservation
	// look is called before anything is read for the n-th time.
	look  func(n int64)
	looks atomic.Int64
	err   error
}

func (s *sides) looked() {
	if n := s.looks.Add(1); s.look != nil {
		s.look(n)
	}
}

func (s *sides) Order(_ context.Context, id string) (order.Order, error) {
	s.looked()
	o, ok := s.orders[id]
	if !ok {
		return o, problem.New(problem.NotFound, "")
	}
	return o, nil
}

// Orders gives one order a page.
func (s *sides) Orders(_ context.Context, _ order.State, _ string, p order.Page) ([]order.Order, string, error) {
	s.looked()
	id, next := nextOf(s.orders, p.Cursor)
	if id == "" {
		return nil, "", nil
	}
	return []order.Order{s.orders[id]}, next, nil
}

// Reservations gives one reservation a page.
func (s *sides) Reservations(_ context.Context, cursor string) ([]order.Reservation, string, error) {
	id, next := nextOf(s.reservations, cursor)
	if id == "" {
		return nil, "", s.err
	}
	return []order.Reservation{s.reservations[id]}, next, s.err
}

func (s *sides) GetReservation(ctx context.Context, _ int, id string) (order.Reservation, error) {
	if _, ok := ctx.Deadline(); !ok {
		return order.Reservation{}, errors.New("inventory is asked without a deadline")
	}
	if s.err != nil {
		return order.Reservation{}, s.err
	}
	r, ok := s.reservations[id]
	if !ok {
		return r, problem.New(problem.NotFound, "")
	}
	return r, nil
}

// nextOf is the first key after a cursor, and the cursor of what follows.
func nextOf[T any](m map[string]T, cursor string) (id, next string) {
	var ids []string
	for id := range m {
		if id > cursor {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	if len(ids) == 0 {
		return "", ""
	}
	if len(ids) > 1 {
		next = ids[0]
	}
	return ids[0], next
}

func newSides() *sides {
	return &sides{orders: map[string]order.Order{}, reservations: map[string]order.Reservation{}}
}

// add adds an order and its reservation, which agree where the states do.
func (s *sides) add(id string, state order.State, reservation order.ReservationState) {
	s.orders[id] = order.Order{ID: id, State: state, Seq: 2, Lines: []order.Line{
		{SKU: "b", Location: "main", Quantity: 2, UnitPrice: 5}, {SKU: "a", Location: "north", Quantity: 1}, {SKU: "b", Location: "main", Quantity: 3},
	}}
	s.reservations[id] = order.Reservation{ID: id, Seq: 2, State: reservation, Lines: []order.Demand{
		{SKU: "b", Location: "main", Quantity: 5}, {SKU: "a", Location: "north", Quantity: 1},
	}}
}

func run(t *testing.T, s *sides) Report {
	t.Helper()
	r, err := Run(t.Context(), s, s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEveryPairOfStates(t *testing.T) {
	t.Parallel()
	agreeing := map[order.State][]order.ReservationState{
		order.Placed:    {order.Held, order.Lapsed},
		order.Confirmed: {order.Committed},
		order.Pending:   {order.None, order.Released, order.Lapsed},
		order.Rejected:  {order.None, order.Released, order.Lapsed},
		order.Cancelled: {order.None, order.Released, order.Lapsed},
		order.Expired:   {order.None, order.Released, order.Lapsed},
	}
	for _, state := range order.States() {
		for _, reservation := range []order.ReservationState{order.None, order.Held, order.Committed, order.Released, order.Lapsed} {
			t.Run(fmt.Sprintf("%s and %s", state, reservation), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					s := newSides()
					s.add("x", state, reservation)
					r := run(t, s)
					agree := slices.Contains(agreeing[state], reservation)
					if agree != (len(r.Differences) == 0) || r.Orders != 1 || r.Reservations != 1 {
						t.Errorf("reported %+v", r)
					}
					if want := fmt.Sprintf("x: the order is %s, the reservation is %s", state, reservation); !agree && r.Differences[0] != want {
						t.Errorf("reported %q, want %q", r.Differences[0], want)
					}
				})
			})
		}
	}
}

func TestEveryKindOfDifference(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSides()
		for i := range 20 {
			s.add(fmt.Sprintf("fine-%02d", i), order.Placed, order.Held)
		}
		s.add("lines", order.Confirmed, order.Committed)
		s.reservations["lines"].Lines[0].Quantity++
		s.add("lines-of-a-cancelled", order.Cancelled, order.Released) // hold nothing, so they can't differ
		s.reservations["lines-of-a-cancelled"].Lines[0].Quantity++
		s.add("seq", order.Placed, order.Held)
		r := s.reservations["seq"]
		r.Seq = 3
		s.reservations["seq"] = r
		s.add("unheard-of", order.Placed, order.Held)
		delete(s.reservations, "unheard-of")
		s.add("unknown", order.Placed, order.Held)
		delete(s.orders, "unknown")
		s.add("in-flight", order.Placed, order.Committed)
		o := s.orders["in-flight"]
		o.Intent = &order.Intent{Operation: order.ConfirmOperation, Seq: 3}
		s.orders["in-flight"] = o

		report := run(t, s)
		want := []string{
			"lines: the order's lines are main/b:5 north/a:1, the reservation's are main/b:6 north/a:1",
			"seq: the order's seq is 2, the reservation's is 3",
			"unheard-of: the order is placed, and inventory has never heard of it",
			"unknown: inventory has a reservation, and there is no such order",
		}
		if !slices.Equal(report.Differences, want) {
			t.Errorf("reported\n%s\nwant\n%s", strings.Join(report.Differences, "\n"), strings.Join(want, "\n"))
		}
		if report.Orders != 25 || report.Reservations != 25 || report.Unsettled != 1 {
			t.Errorf("counted %+v", report)
		}
	})
}

func TestWhatMovedMeanwhileIsNoDifference(t *testing.T) {
	t.Parallel()
	for name, settle := range map[string]func(*sides){
		"it was settled": func(s *sides) { s.add("x", order.Confirmed, order.Committed) },
		"the next operation began": func(s *sides) {
			o := s.orders["x"]
			o.Intent = &order.Intent{Operation: order.CancelOperation, Seq: 3}
			s.orders["x"] = o
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSides()
				s.add("x", order.Placed, order.Committed)
				began := time.Now()
				s.look = func(int64) {
					if time.Since(began) > 0 {
						settle(s)
					}
				}
				if r := run(t, s); len(r.Differences) != 0 {
					t.Errorf("reported %v", r.Differences)
				}
				if time.Since(began) < 5*time.Second {
					t.Error("it did not give what is in flight the time to settle")
				}
			})
		})
	}
}

func TestAnAuditThatCannotBeCarriedOutIsAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSides()
		s.add("x", order.Placed, order.Held)
		s.err = problem.New(problem.Unavailable, "")
		if r, err := Run(t.Context(), s, s); problem.CodeOf(err) != problem.Unavailable {
			t.Errorf("got %+v, %v", r, err)
		}
		s.err = nil
		s.add("x", order.Placed, order.Committed)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if r, err := Run(ctx, s, s); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stopped while it waited: %+v, %v", r, err)
		}
	})
}
