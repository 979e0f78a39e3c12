package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

// fakeServices are the data of both services. A test changes them during a
// comparison in beforeRead.
type fakeServices struct {
	orders       map[string]order.Order
	reservations map[string]order.Reservation
	// beforeRead, if set, is called before every read of orders.
	beforeRead func()
	// singleReads counts the reservations that were read one by one.
	singleReads atomic.Int64
	// pageSize is the size of a page. backwards lists reservations in reverse
	// order.
	pageSize  int
	backwards bool
	err       error
}

func (s *fakeServices) read() {
	if s.beforeRead != nil {
		s.beforeRead()
	}
}

func (s *fakeServices) Order(_ context.Context, id string) (order.Order, error) {
	s.read()
	o, ok := s.orders[id]
	if !ok {
		return o, problem.New(problem.NotFound, "")
	}
	return o, nil
}

func (s *fakeServices) Orders(_ context.Context, _ order.State, _ string, p order.Page) ([]order.Order, string, error) {
	s.read()
	page, next := pageOf(s.orders, s.pageSize, false, p.Cursor)
	return page, next, nil
}

func (s *fakeServices) Reservations(_ context.Context, cursor string) ([]order.Reservation, string, error) {
	page, next := pageOf(s.reservations, s.pageSize, s.backwards, cursor)
	return page, next, s.err
}

func (s *fakeServices) GetReservation(ctx context.Context, _ int, id string) (order.Reservation, error) {
	s.singleReads.Add(1)
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

// pageOf returns a page of m in the order of its keys, and the next cursor: the
// number of items read.
func pageOf[T any](m map[string]T, size int, backwards bool, cursor string) (page []T, next string) {
	ids := slices.Sorted(maps.Keys(m))
	if backwards {
		slices.Reverse(ids)
	}
	from, _ := strconv.Atoi(cursor)
	to := min(from+size, len(ids))
	for _, id := range ids[from:to] {
		page = append(page, m[id])
	}
	if to < len(ids) {
		next = strconv.Itoa(to)
	}
	return page, next
}

func newFakeServices() *fakeServices {
	return &fakeServices{orders: map[string]order.Order{}, reservations: map[string]order.Reservation{}, pageSize: 1}
}

// add adds an order and its reservation. They agree if their states do.
func (s *fakeServices) add(id string, state order.State, reservation order.ReservationState) order.Order {
	s.orders[id] = order.Order{ID: id, State: state, Version: 2, Seq: 2, Lines: []order.Line{
		{SKU: "b", Location: "main", Quantity: 2, UnitPrice: 5}, {SKU: "a", Location: "north", Quantity: 1}, {SKU: "b", Location: "main", Quantity: 3},
	}}
	s.reservations[id] = order.Reservation{ID: id, Seq: 2, State: reservation, Lines: []order.Demand{
		{SKU: "b", Location: "main", Quantity: 5}, {SKU: "a", Location: "north", Quantity: 1},
	}}
	return s.orders[id]
}

// addPending adds an order with an intent of this seq and age. Its reservation is
// at seq 2.
func (s *fakeServices) addPending(id string, seq int64, age time.Duration) {
	o := s.add(id, order.Placed, order.ReservationCommitted)
	o.Seq, o.Intent = seq, &order.Intent{Operation: order.ConfirmOperation, Seq: seq, Since: time.Now().Add(-age)}
	s.orders[id] = o
}

// result is the report, and the line of each difference.
type result struct {
	Report
	lines []string
}

// reconcile compares, and repairs if repair is set.
func reconcile(t *testing.T, s *fakeServices, repair Repair) result {
	t.Helper()
	var out result
	var err error
	out.Report, err = Reconciliation{Orders: s, Inventory: s, Repair: repair, OnDifference: func(line string) { out.lines = append(out.lines, line) }}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if out.Differences != len(out.lines) || repair == nil && out.Remaining != out.Differences {
		t.Errorf("the report is %+v, the lines are %q", out.Report, out.lines)
	}
	return out
}

func TestStatesThatAgree(t *testing.T) {
	t.Parallel()
	agreeing := map[order.State][]order.ReservationState{
		order.Placed:    {order.ReservationHeld, order.ReservationExpired},
		order.Confirmed: {order.ReservationCommitted},
		order.Pending:   {order.ReservationNone, order.ReservationReleased, order.ReservationExpired},
		order.Rejected:  {order.ReservationNone, order.ReservationReleased, order.ReservationExpired},
		order.Cancelled: {order.ReservationNone, order.ReservationReleased, order.ReservationExpired},
		order.Expired:   {order.ReservationNone, order.ReservationReleased, order.ReservationExpired},
	}
	for _, state := range order.States() {
		for _, reservation := range []order.ReservationState{order.ReservationNone, order.ReservationHeld, order.ReservationCommitted, order.ReservationReleased, order.ReservationExpired} {
			t.Run(fmt.Sprintf("%s and %s", state, reservation), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					s := newFakeServices()
					s.add("x", state, reservation)
					r := reconcile(t, s, nil)
					agree := slices.Contains(agreeing[state], reservation)
					if agree != (r.Differences == 0) || r.Orders != 1 || r.Reservations != 1 {
						t.Errorf("the report is %+v", r)
					}
					if want := fmt.Sprintf("x: the order is %s, the reservation is %s", state, reservation); !agree && r.lines[0] != want {
						t.Errorf("the line is %q, want %q", r.lines[0], want)
					}
				})
			})
		}
	}
}

func TestEveryKindOfDifference(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFakeServices()
		for i := range 20 {
			s.add(fmt.Sprintf("fine-%02d", i), order.Placed, order.ReservationHeld)
		}
		s.add("lines", order.Confirmed, order.ReservationCommitted)
		s.reservations["lines"].Lines[0].Quantity++
		s.add("lines-of-a-cancelled", order.Cancelled, order.ReservationReleased) // the lines of a cancelled order do not count
		s.reservations["lines-of-a-cancelled"].Lines[0].Quantity++
		s.add("seq", order.Placed, order.ReservationHeld)
		r := s.reservations["seq"]
		r.Seq = 3
		s.reservations["seq"] = r
		s.add("unheard-of", order.Placed, order.ReservationHeld)
		delete(s.reservations, "unheard-of")
		s.add("unknown", order.Placed, order.ReservationHeld)
		delete(s.orders, "unknown")
		ahead := s.add("inventory-put-back", order.Placed, order.ReservationHeld)
		ahead.Seq, ahead.Last = 3, &order.Settlement{Operation: order.AmendOperation, Seq: 3, Outcome: order.OutcomeDone}
		s.orders["inventory-put-back"] = ahead
		ahead.ID, ahead.Seq = "repaired", 4
		s.add("repaired", order.Placed, order.ReservationHeld)
		s.orders["repaired"] = ahead
		s.addPending("in-flight", 3, 0)
		s.addPending("in-flight-for-long", 3, time.Hour)
		s.addPending("just-decided", 2, 0)
		s.addPending("decided-for-long", 2, time.Hour)
		s.addPending("passed-by", 1, 0)

		report := reconcile(t, s, nil)
		want := []string{
			"decided-for-long: its confirm under seq 2 is not settled, and inventory has decided seq 2",
			"inventory-put-back: the order's seq is 3, the reservation's is 2",
			"lines: the order's lines are main/b:5 north/a:1, the reservation's are main/b:6 north/a:1",
			"passed-by: its confirm under seq 1 is not settled, and inventory has decided seq 2",
			"seq: the order's seq is 2, the reservation's is 3",
			"unheard-of: the order is placed, but inventory does not know it",
			"unknown: inventory has a reservation, but there is no such order",
		}
		if !slices.Equal(report.lines, want) {
			t.Errorf("the lines are\n%s\nwant\n%s", strings.Join(report.lines, "\n"), strings.Join(want, "\n"))
		}
		if report.Orders != 31 || report.Reservations != 31 || report.Unsettled != 5 {
			t.Errorf("the report is %+v", report.Report)
		}
	})
}

func TestManyOrdersAreComparedPageByPage(t *testing.T) {
	t.Parallel()
	for name, backwards := range map[string]bool{"lists of the same order": false, "lists that meet too late": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newFakeServices()
				s.pageSize, s.backwards = 2000, backwards
				const fine = 2 * maxWaiting
				for i := range fine {
					s.add(fmt.Sprintf("fine-%05d", i), order.Placed, order.ReservationHeld)
				}
				s.add("differs", order.Placed, order.ReservationCommitted)
				r := reconcile(t, s, nil)
				if r.Differences != 1 || r.Orders != fine+1 || r.Reservations != fine+1 {
					t.Errorf("the report is %+v", r)
				}
				if asked := s.singleReads.Load(); backwards != (asked > maxWaiting) || !backwards && asked != 2 {
					t.Errorf("%d reservations were read one by one", asked)
				}
			})
		})
	}
}

func TestChangeDuringTheComparisonIsNoDifference(t *testing.T) {
	t.Parallel()
	for name, settle := range map[string]func(*fakeServices){
		"it was settled": func(s *fakeServices) { s.add("x", order.Confirmed, order.ReservationCommitted) },
		"the next operation began": func(s *fakeServices) {
			o := s.orders["x"]
			o.Intent = &order.Intent{Operation: order.CancelOperation, Seq: 3}
			s.orders["x"] = o
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newFakeServices()
				s.add("x", order.Placed, order.ReservationCommitted)
				began := time.Now()
				s.beforeRead = func() {
					if time.Since(began) > 0 {
						settle(s)
					}
				}
				if r := reconcile(t, s, nil); r.Differences != 0 {
					t.Errorf("the lines are %v", r.lines)
				}
				if time.Since(began) < 5*time.Second {
					t.Error("the comparison did not wait for operations in flight")
				}
			})
		})
	}
}

func TestFailedReconciliationIsAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFakeServices()
		s.add("x", order.Placed, order.ReservationHeld)
		s.err = problem.New(problem.Unavailable, "")
		a := Reconciliation{Orders: s, Inventory: s, OnDifference: func(line string) { t.Errorf("unexpected line %q", line) }}
		if r, err := a.Run(t.Context()); problem.CodeOf(err) != problem.Unavailable {
			t.Errorf("got %+v, %v", r, err)
		}
		s.err = nil
		s.reservations["x"] = order.Reservation{ID: "y", Seq: 2, State: order.ReservationHeld}
		if r, err := a.Run(t.Context()); !errors.Is(err, order.ErrUnexplained) {
			t.Errorf("after an answer for another order: %+v, %v", r, err)
		}
		s.add("x", order.Placed, order.ReservationCommitted)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if r, err := a.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after a deadline: %+v, %v", r, err)
		}
	})
}

// A repair gets the order and reservation that were read, one order at a time. Each
// line says how its difference was repaired.
func TestReportSaysHowEachDifferenceWasRepaired(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFakeServices()
		s.add("repaired", order.Placed, order.ReservationCommitted)
		s.add("fine", order.Placed, order.ReservationHeld)
		s.addPending("in-flight", 3, 0)
		s.addPending("decided", 2, 0) // a repair may settle what the settler has not
		s.add("moves", order.Placed, order.ReservationCommitted)
		s.add("refused", order.Placed, order.ReservationReleased)
		s.add("twofold", order.Placed, order.ReservationHeld)
		r := s.reservations["twofold"]
		r.Seq, r.Lines = 3, r.Lines[:1]
		s.reservations["twofold"] = r
		s.add("unknown", order.Placed, order.ReservationHeld)
		delete(s.orders, "unknown")

		var asked []string
		report := reconcile(t, s, func(ctx context.Context, o order.Order, r order.Reservation) (order.Order, error) {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("an order is repaired without a deadline")
			}
			if was := s.orders[o.ID]; o.ID != r.ID || was.ID != "" && o.Seq != was.Seq || r.State != s.reservations[o.ID].State {
				t.Errorf("the repair got the order %+v and the reservation %+v", o, r)
			}
			asked = append(asked, o.ID)
			switch o.ID {
			case "moves":
				return o, problem.New(problem.PreconditionFailed, "The order's version is 9.")
			case "refused":
				return o, problem.New(problem.Unavailable, "The database is closed.")
			case "twofold":
				o.Total = 25
				return o, nil
			}
			return order.Order{ID: o.ID, State: order.Confirmed, Total: 10}, nil
		})
		want := []string{
			"decided: its confirm under seq 2 is not settled, and inventory has decided seq 2; repaired: it was placed and is confirmed, for a total of 10",
			"moves: the order is placed, the reservation is committed; not repaired: the order has changed meanwhile",
			"refused: the order is placed, the reservation is released; NOT repaired: unavailable: The database is closed.",
			"repaired: the order is placed, the reservation is committed; repaired: it was placed and is confirmed, for a total of 10",
			"twofold: the order's seq is 2, the reservation's is 3; repaired: it is still placed, for a total of 25",
			"twofold: the order's lines are main/b:5 north/a:1, the reservation's are main/b:5; repaired: it is still placed, for a total of 25",
			"unknown: inventory has a reservation, but there is no such order; created again as confirmed; its customer, currency and prices are lost",
		}
		if !slices.Equal(report.lines, want) {
			t.Errorf("the lines are\n%s\nwant\n%s", strings.Join(report.lines, "\n"), strings.Join(want, "\n"))
		}
		if want := []string{"decided", "moves", "refused", "repaired", "twofold", "unknown"}; !slices.Equal(asked, want) {
			t.Errorf("the repaired orders are %v, want %v", asked, want)
		}
		if report.Remaining != 2 {
			t.Errorf("%d differences remain, want 2", report.Remaining)
		}
	})
}
