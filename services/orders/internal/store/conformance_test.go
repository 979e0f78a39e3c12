package store

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"roundtrip/internal/commit"
	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
	"roundtrip/test/support/stores"
)

// backend is an empty store on one database.
type backend struct {
	order.Store
	*stores.Backend[order.Store]
}

var service = stores.Service[order.Store]{Name: "orders", Schema: Schema(), New: New, Tables: []string{"orders", "intents"}}

func conform(t *testing.T, test func(*testing.T, backend)) {
	service.Conform(t, func(t *testing.T, b *stores.Backend[order.Store]) { test(t, backend{b.Store, b}) })
}

func conformInVirtualTime(t *testing.T, test func(*testing.T, backend)) {
	service.ConformInVirtualTime(t, func(t *testing.T, b *stores.Backend[order.Store]) { test(t, backend{b.Store, b}) })
}

func postgresBackend(t *testing.T, address string) backend {
	t.Helper()
	b := service.Backend(t, address)
	return backend{b.Store, b}
}

// panics is a valid command that panics when it is decided.
type panics struct{ order.Command }

func (panics) Validate() error { return nil }
func (panics) OrderID() string { panic("test panic") }

func TestCommits(t *testing.T) {
	t.Parallel()
	invalid := place("rejected")
	invalid.Lines = nil
	stores.Commits[order.Store, order.Command, order.Result]{
		Service:  service,
		Setup:    func(*testing.T, order.Store) {},
		Change:   func(id string) order.Command { return place(id) },
		Rejected: invalid,
		Panics:   panics{},
		Err:      func(r order.Result) error { return r.Err },
		Changed: func(t *testing.T, s order.Store, id string) bool {
			t.Helper()
			o, err := s.Order(t.Context(), id)
			if err != nil && problem.CodeOf(err) != problem.NotFound {
				t.Fatal(err)
			}
			return err == nil && o.Version == 1 && o.Seq == 1 && o.Intent != nil
		},
		Table: "orders", Column: "id", AfterUnknown: commit.DecideAgain,
	}.Run(t)
}

func TestClosedStoreIsUnavailable(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		stores.Close(t, b.Store)
		_, err := b.Order(t.Context(), "a")
		wantCode(t, "order", err, problem.Unavailable)
		_, err = b.LeaseUnsettled(t.Context(), time.Now(), time.Second, 1)
		wantCode(t, "lease", err, problem.Unavailable)
	})
}

func TestReadDoesNotWaitForWrites(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.placed(t, "a")
		release := b.Block(t, "orders")
		b.order(t, "a")
		release()
	})
}

func place(id string) order.Place {
	return order.Place{ID: id, Customer: "17850", Currency: "GBP", HoldSeconds: 900, Lines: []order.Line{
		{SKU: "85123A", Location: "main", Quantity: 6, UnitPrice: 255},
		{SKU: "85123A", Location: "main", Quantity: 2, UnitPrice: 0},
		{SKU: "71053", Location: "north", Quantity: 1, UnitPrice: 339},
	}}
}

func amend(id string, quantity int64) order.Amend {
	return order.Amend{ID: id, Lines: []order.Line{{SKU: "71053", Location: "main", Quantity: quantity, UnitPrice: 339}}}
}

// settle returns the command that records the outcome done for an intent. now is the
// reservation's state.
func settle(id string, seq int64, op order.Operation, now order.ReservationState) order.RecordOutcome {
	v := order.Outcome{Reservation: now}
	if now == order.ReservationHeld {
		v.ExpiresAt = time.Now().Add(15 * time.Minute).Truncate(time.Millisecond)
	}
	return order.RecordOutcome{ID: id, Seq: seq, Operation: op, Outcome: v}
}

func rejected(id string, seq int64, op order.Operation, now order.ReservationState, why *problem.Problem) order.RecordOutcome {
	return order.RecordOutcome{ID: id, Seq: seq, Operation: op, Outcome: order.Outcome{Rejection: why, Reservation: now}}
}

// do runs one command, which must succeed.
func (b backend) do(t *testing.T, c order.Command) order.Result {
	t.Helper()
	r := b.Do(t.Context(), []order.Command{c})[0]
	if r.Err != nil {
		t.Fatalf("%#v: %v", c, r.Err)
	}
	return r
}

// placed makes a placed order.
func (b backend) placed(t *testing.T, id string) order.Order {
	t.Helper()
	b.do(t, place(id))
	return b.do(t, settle(id, 1, order.PlaceOperation, order.ReservationHeld)).Order
}

func (b backend) order(t *testing.T, id string) order.Order {
	t.Helper()
	o, err := b.Order(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func wantCode(t *testing.T, what string, err error, want problem.Code) {
	t.Helper()
	if got := problem.CodeOf(err); got != want {
		t.Errorf("%s: %q (%v), want %q", what, got, err, want)
	}
}

func ids(orders []order.Order) []string {
	var list []string
	for _, o := range orders {
		list = append(list, o.ID)
	}
	return list
}

func TestOrderIsReadAsWritten(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		short := problem.New(problem.InsufficientStock, "There is not enough.")
		short.Shortages = []problem.Shortage{{SKU: "71053", Location: "main", Requested: 9, Available: 1}}
		for _, c := range []order.Command{
			place("a"), settle("a", 1, order.PlaceOperation, order.ReservationHeld),
			amend("a", 9), rejected("a", 2, order.AmendOperation, order.ReservationHeld, short),
			amend("a", 3), settle("a", 3, order.AmendOperation, order.ReservationHeld),
			order.Confirm{ID: "a"}, settle("a", 4, order.ConfirmOperation, order.ReservationCommitted),
			order.Cancel{ID: "a"}, settle("a", 5, order.CancelOperation, order.ReservationReleased),
		} {
			decided := b.do(t, c).Order
			if stored := b.order(t, "a"); !reflect.DeepEqual(stored, decided) {
				t.Fatalf("after %#v the order was\n%+v, and is stored as\n%+v", c, decided, stored)
			}
		}
		before := b.order(t, "a")
		again := backend{Store: b.Reopen(t)}
		if after := again.order(t, "a"); !reflect.DeepEqual(after, before) {
			t.Errorf("after closing and opening the order is\n%+v, and was\n%+v", after, before)
		}
	})
}

func TestUnknownOrderIsNotFound(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		_, err := b.Order(t.Context(), "none")
		wantCode(t, "order", err, problem.NotFound)
		for _, c := range []order.Command{
			amend("none", 1), order.Confirm{ID: "none"}, order.Cancel{ID: "none"}, order.GiveUp{ID: "none", Seq: 1},
			order.Expire{ID: "none", Seq: 1}, settle("none", 1, order.PlaceOperation, order.ReservationHeld),
		} {
			wantCode(t, fmt.Sprintf("%T", c), b.Do(t.Context(), []order.Command{c})[0].Err, problem.NotFound)
		}
		if rows := b.Dump(t); rows != "" {
			t.Errorf("something was stored: %s", rows)
		}
	})
}

func TestCommandsOfABatchSeeEarlierChanges(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		other := place("a")
		other.Customer = "another"
		results := b.Do(t.Context(), []order.Command{
			place("a"), place("a"), other, amend("a", 1),
			place("b"), order.Cancel{ID: "a"}, settle("b", 1, order.PlaceOperation, order.ReservationHeld), order.Confirm{ID: "b"},
		})
		want := []struct {
			seq     int64
			created bool
			code    problem.Code
		}{
			{1, true, ""}, {1, false, ""}, {0, false, problem.KeyReused}, {0, false, problem.OperationPending},
			{1, true, ""}, {2, false, ""}, {1, false, ""}, {2, false, ""},
		}
		for i, w := range want {
			r := results[i]
			if r.Seq != w.seq || r.Created != w.created || problem.CodeOf(r.Err) != w.code {
				t.Errorf("command %d: seq %d, created %v, %v; want %+v", i, r.Seq, r.Created, r.Err, w)
			}
		}
		if a := b.order(t, "a"); a.State != order.Pending || a.Intent == nil || a.Intent.Operation != order.CancelOperation || a.Version != 2 {
			t.Errorf("a is %+v", a)
		}
		if o := b.order(t, "b"); o.State != order.Placed || o.Intent == nil || o.Intent.Operation != order.ConfirmOperation || o.Version != 3 {
			t.Errorf("b is %+v", o)
		}
		if s, err := b.Settlement(t.Context(), "a", 1); err != nil || s.Outcome != order.OutcomeSuperseded {
			t.Errorf("a's place ended %+v, %v", s, err)
		}
		if s, err := b.Settlement(t.Context(), "b", 1); err != nil || s.Outcome != order.OutcomeDone {
			t.Errorf("b's place ended %+v, %v", s, err)
		}
	})
}

func TestFailedCommandDoesNotHarmItsBatch(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.Poison(t, "orders", "id", "poison")
		invalid := place("x")
		invalid.Lines = nil
		results := b.Do(t.Context(), []order.Command{place("a"), place("poison"), invalid, place("b"), order.Cancel{ID: "a"}})
		wantCode(t, "the command that fails", results[1].Err, problem.Unavailable)
		wantCode(t, "the invalid command", results[2].Err, problem.Invalid)
		for i, id := range map[int]string{0: "a", 3: "b"} {
			if r := results[i]; r.Err != nil || !r.Created || r.Order.ID != id {
				t.Errorf("%s: %+v", id, r)
			}
		}
		if r := results[4]; r.Err != nil || r.Seq != 2 {
			t.Errorf("the last command: %+v", r)
		}
		all, _, err := b.Orders(t.Context(), "", "", order.Page{Limit: 10})
		if got := ids(all); err != nil || len(got) != 2 || slices.Contains(got, "poison") {
			t.Errorf("the stored orders are %v, %v", got, err)
		}
	})
}

func TestConcurrentIdenticalPlacesMakeOneOrder(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		const callers = 50
		results := stores.AtOnce(callers, func(i int) order.Result { return b.Replica(i).Do(t.Context(), []order.Command{place("a")})[0] })
		created := 0
		for _, r := range results {
			if r.Err != nil || r.Seq != 1 || !reflect.DeepEqual(r.Order, results[0].Order) {
				t.Errorf("got %+v", r)
			}
			if r.Created {
				created++
			}
		}
		if o := b.order(t, "a"); created != 1 || o.Version != 1 || o.Seq != 1 {
			t.Errorf("%d callers created the order; it is %+v", created, o)
		}
	})
}

func TestOneOfManyConcurrentAmendsIsRecorded(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.placed(t, "a")
		const callers = 50
		results := stores.AtOnce(callers, func(i int) order.Result {
			return b.Replica(i).Do(t.Context(), []order.Command{amend("a", int64(i+1))})[0]
		})
		var won []int64
		for i, r := range results {
			switch problem.CodeOf(r.Err) {
			case "":
				won = append(won, int64(i+1))
			case problem.OperationPending:
			default:
				t.Errorf("got %v", r.Err)
			}
		}
		o := b.order(t, "a")
		if len(won) != 1 || o.Seq != 2 || o.Version != 3 || o.Intent == nil || o.Intent.Lines[0].Quantity != won[0] {
			t.Errorf("%v were accepted; the order is %+v", won, o)
		}
	})
}

func TestOnlyFirstOutcomeIsRecorded(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.do(t, place("a"))
		verdicts := []order.ReservationState{order.ReservationHeld, order.ReservationReleased, order.ReservationExpired, order.ReservationNone}
		results := stores.AtOnce(40, func(i int) order.Result {
			return b.Replica(i).Do(t.Context(), []order.Command{settle("a", 1, order.PlaceOperation, verdicts[i%len(verdicts)])})[0]
		})
		first := b.order(t, "a")
		if first.Version != 2 || first.Intent != nil {
			t.Errorf("the order is %+v", first)
		}
		for _, r := range results {
			if r.Err != nil || r.Order.State != first.State || r.Order.Version != 2 {
				t.Errorf("one caller got %+v", r)
			}
		}

		// These change nothing: an outcome of a superseded seq, and a give-up or an
		// expiry for another seq.
		b.placed(t, "b")
		b.do(t, amend("b", 2))
		b.do(t, order.Cancel{ID: "b"})
		before := b.Dump(t)
		for _, late := range []order.Command{
			settle("b", 1, order.PlaceOperation, order.ReservationHeld), settle("b", 2, order.AmendOperation, order.ReservationHeld),
			order.GiveUp{ID: "b", Seq: 1}, order.GiveUp{ID: "b", Seq: 3}, order.Expire{ID: "b", Seq: 1}, order.Expire{ID: "b", Seq: 3},
		} {
			b.do(t, late)
			if after := b.Dump(t); after != before {
				t.Errorf("%#v changed\n%s into\n%s", late, before, after)
			}
		}
	})
}

func TestEverySettlementIsStored(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		short := problem.New(problem.InsufficientStock, "There is not enough.")
		short.Shortages = []problem.Shortage{{SKU: "71053", Location: "main", Requested: 9, Available: 1}}
		for _, c := range []order.Command{
			place("a"), settle("a", 1, order.PlaceOperation, order.ReservationHeld),
			amend("a", 9), rejected("a", 2, order.AmendOperation, order.ReservationHeld, short),
			order.Confirm{ID: "a"}, order.Cancel{ID: "a"},
		} {
			b.do(t, c)
		}
		want := map[int64]order.Settlement{
			1: {Operation: order.PlaceOperation, Seq: 1, Outcome: order.OutcomeDone},
			2: {Operation: order.AmendOperation, Seq: 2, Outcome: order.OutcomeRejected, Problem: short},
			3: {Operation: order.ConfirmOperation, Seq: 3, Outcome: order.OutcomeSuperseded},
		}
		for seq, w := range want {
			if got, err := b.Settlement(t.Context(), "a", seq); err != nil || !reflect.DeepEqual(got, w) {
				t.Errorf("seq %d ended %+v, %v; want %+v", seq, got, err, w)
			}
		}
		for what, seq := range map[string]int64{"unsettled": 4, "never": 5, "no seq": 0} {
			_, err := b.Settlement(t.Context(), "a", seq)
			wantCode(t, what, err, problem.NotFound)
		}
		_, err := b.Settlement(t.Context(), "none", 1)
		wantCode(t, "no order", err, problem.NotFound)
	})
}
