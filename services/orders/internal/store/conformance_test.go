package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/database"
	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

// backend is an empty store on one database, and what its tests do to that
// database behind the store's back.
type backend struct {
	order.Store
	// replicas are the stores that work on this database, the one above first:
	// two, where a database can have more than one.
	replicas []order.Store
	// poison makes the database refuse every write of one order.
	poison func(t *testing.T, id string)
	// fill leaves the database no room to grow until free is called.
	fill func(t *testing.T) (free func())
	// block makes every write wait, and no read, until release is called.
	block func(t *testing.T) (release func())
	// dump is every row of every table, as text.
	dump func(t *testing.T) string
	// reopen closes the store and opens it again on the same data.
	reopen func(t *testing.T) order.Store
}

// databases are what the suite in this file runs against: whatever keeps orders
// has to pass it. Each makes an empty database and returns how to open it.
var databases = map[string]func(*testing.T) (open func(*testing.T) backend){"sqlite": sqliteDatabase, "postgres": postgresDatabase}

func conform(t *testing.T, test func(*testing.T, backend)) {
	t.Parallel()
	for name, create := range databases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, create(t)(t))
		})
	}
}

// conformInVirtualTime is conform where time passes at once.
func conformInVirtualTime(t *testing.T, test func(*testing.T, backend)) {
	t.Parallel()
	for name, create := range databases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			open := create(t)
			synctest.Test(t, func(t *testing.T) { test(t, open(t)) })
		})
	}
}

// replica is one of the stores, each in its turn.
func (b backend) replica(i int) order.Store { return b.replicas[i%len(b.replicas)] }

func closeStore(t *testing.T, s order.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
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

// settle is the outcome of an intent: done, and the reservation is as it was asked.
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

// do gives the store one command that has to succeed.
func (b backend) do(t *testing.T, c order.Command) order.Result {
	t.Helper()
	r := b.Do(t.Context(), []order.Command{c})[0]
	if r.Err != nil {
		t.Fatalf("%#v: %v", c, r.Err)
	}
	return r
}

// placed makes an order that is placed.
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

func TestAnOrderIsReadAsItWasWritten(t *testing.T) {
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
				t.Fatalf("after %#v it was\n%+v, and is stored as\n%+v", c, decided, stored)
			}
		}
		before := b.order(t, "a")
		again := backend{Store: b.reopen(t)}
		if after := again.order(t, "a"); !reflect.DeepEqual(after, before) {
			t.Errorf("after closing and opening it is\n%+v, and was\n%+v", after, before)
		}
	})
}

func TestThereIsNoSuchOrder(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		_, err := b.Order(t.Context(), "none")
		wantCode(t, "order", err, problem.NotFound)
		for _, c := range []order.Command{
			amend("none", 1), order.Confirm{ID: "none"}, order.Cancel{ID: "none"}, order.GiveUp{ID: "none", Seq: 1},
			order.Expire{ID: "none", Seq: 1}, settle("none", 1, order.PlaceOperation, order.ReservationHeld),
		} {
			wantCode(t, fmt.Sprintf("%T", c), b.Do(t.Context(), []order.Command{c})[0].Err, problem.NotFound)
		}
		if rows := b.dump(t); rows != "" {
			t.Errorf("something was stored: %s", rows)
		}
	})
}

func TestCommandsOfABatchSeeWhatTheOnesBeforeThemDid(t *testing.T) {
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

func TestWhatFailsInABatchHarmsNobodyElse(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.poison(t, "poison")
		invalid := place("x")
		invalid.Lines = nil
		results := b.Do(t.Context(), []order.Command{place("a"), place("poison"), invalid, place("b"), order.Cancel{ID: "a"}})
		wantCode(t, "the one that fails", results[1].Err, problem.Unavailable)
		wantCode(t, "the invalid one", results[2].Err, problem.Invalid)
		for i, id := range map[int]string{0: "a", 3: "b"} {
			if r := results[i]; r.Err != nil || !r.Created || r.Order.ID != id {
				t.Errorf("%s: %+v", id, r)
			}
		}
		if r := results[4]; r.Err != nil || r.Seq != 2 {
			t.Errorf("the command after the one that failed: %+v", r)
		}
		all, _, err := b.Orders(t.Context(), "", "", order.Page{Limit: 10})
		if got := ids(all); err != nil || len(got) != 2 || slices.Contains(got, "poison") {
			t.Errorf("stored are %v, %v", got, err)
		}
	})
}

func TestWhatNobodyWaitsForIsDropped(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, batch := range [][]order.Command{{place("a")}, {place("a"), place("b")}} {
			for _, r := range b.Do(ctx, batch) {
				if !errors.Is(r.Err, context.Canceled) {
					t.Errorf("got %v", r.Err)
				}
			}
		}
		if rows := b.dump(t); rows != "" {
			t.Errorf("something was stored: %s", rows)
		}
		if got := b.Do(t.Context(), nil); len(got) != 0 {
			t.Errorf("no command got %v", got)
		}
	})
}

// watched tells when it is first asked whether it is done: a batch asks that of
// its members just before it begins.
type watched struct {
	context.Context
	once  sync.Once
	asked chan struct{}
}

func (w *watched) Err() error {
	err := w.Context.Err()
	w.once.Do(func() { close(w.asked) })
	return err
}

func TestAHangUpAfterADecisionBeganChangesNothing(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.placed(t, "a")
		release := b.block(t)
		b.order(t, "a") // a read waits for nobody
		ctx, cancel := context.WithCancel(t.Context())
		w := &watched{Context: ctx, asked: make(chan struct{})}
		answered := make(chan error)
		go func() { answered <- b.Do(w, []order.Command{amend("a", 2)})[0].Err }()
		<-w.asked
		cancel()
		release()
		if err := <-answered; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if o := b.order(t, "a"); o.Intent == nil || o.Seq != 2 {
			t.Errorf("it is %+v", o)
		}
	})
}

func TestManyAtOnceMakeOneOrder(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		const callers = 50
		results := atOnce(callers, func(i int) order.Result { return b.replica(i).Do(t.Context(), []order.Command{place("a")})[0] })
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
			t.Errorf("%d were told that they created it; it is %+v", created, o)
		}
	})
}

func TestOfManyDifferentOperationsAtOnceOneIsWrittenDown(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.placed(t, "a")
		const callers = 50
		results := atOnce(callers, func(i int) order.Result {
			return b.replica(i).Do(t.Context(), []order.Command{amend("a", int64(i+1))})[0]
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

func TestOnlyTheFirstOutcomeIsWritten(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.do(t, place("a"))
		verdicts := []order.ReservationState{order.ReservationHeld, order.ReservationReleased, order.ReservationExpired, order.ReservationNone}
		results := atOnce(40, func(i int) order.Result {
			return b.replica(i).Do(t.Context(), []order.Command{settle("a", 1, order.PlaceOperation, verdicts[i%len(verdicts)])})[0]
		})
		first := b.order(t, "a")
		if first.Version != 2 || first.Intent != nil {
			t.Errorf("it is %+v", first)
		}
		for _, r := range results {
			if r.Err != nil || r.Order.State != first.State || r.Order.Version != 2 {
				t.Errorf("one was told %+v", r)
			}
		}

		// Neither an outcome of a seq that is superseded, nor a give-up or an expiry
		// that asked about another seq, changes anything.
		b.placed(t, "b")
		b.do(t, amend("b", 2))
		b.do(t, order.Cancel{ID: "b"})
		before := b.dump(t)
		for _, late := range []order.Command{
			settle("b", 1, order.PlaceOperation, order.ReservationHeld), settle("b", 2, order.AmendOperation, order.ReservationHeld),
			order.GiveUp{ID: "b", Seq: 1}, order.GiveUp{ID: "b", Seq: 3}, order.Expire{ID: "b", Seq: 1}, order.Expire{ID: "b", Seq: 3},
		} {
			b.do(t, late)
			if after := b.dump(t); after != before {
				t.Errorf("%#v changed\n%s into\n%s", late, before, after)
			}
		}
	})
}

func TestEveryOperationsEndIsKept(t *testing.T) {
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

func TestPagesHoldStillWhileOrdersArrive(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		var want []string // newest first; orders of one moment by id
		for i := range 30 {
			id := fmt.Sprintf("o%02d", i)
			b.do(t, place(id))
			want = append([]string{id}, want...)
			if i%3 == 0 { // and the others at the same moment
				time.Sleep(time.Millisecond)
			}
		}
		list := func(state order.State, customer string, between func(page int)) (all []string) {
			for page := (order.Page{Limit: 4}); ; {
				orders, next, err := b.Orders(t.Context(), state, customer, page)
				if err != nil || len(orders) > page.Limit || next != "" && len(orders) < page.Limit {
					t.Fatalf("a page of %d, then %q: %v", len(orders), next, err)
				}
				all = append(all, ids(orders)...)
				if page.Cursor = next; next == "" {
					return all
				}
				between(len(all))
			}
		}
		got := list("", "", func(n int) {
			time.Sleep(time.Millisecond)
			b.do(t, place(fmt.Sprint("new", n)))
			b.do(t, settle(want[n-1], 1, order.PlaceOperation, order.ReservationHeld))
		})
		if !slices.Equal(got, want) {
			t.Errorf("the pages had\n%v, want\n%v", got, want)
		}

		other := place("other")
		other.Customer = "12583"
		b.do(t, other)
		still := func(int) {}
		for _, c := range []struct {
			state    order.State
			customer string
			want     int
		}{{order.Placed, "", 7}, {order.Pending, "", 31}, {"", "12583", 1}, {order.Placed, "17850", 7}, {order.Placed, "12583", 0}, {order.Expired, "", 0}} {
			if got := list(c.state, c.customer, still); len(got) != c.want {
				t.Errorf("%q of %q: %d orders, want %d", c.state, c.customer, len(got), c.want)
			}
		}
		for _, cursor := range []string{"x", "bm9uZQ", "W10", "WyJhIiwiYiJd"} {
			_, _, err := b.Orders(t.Context(), "", "", order.Page{Cursor: cursor, Limit: 4})
			wantCode(t, "cursor "+cursor, err, problem.Invalid)
		}
		// Made up, and beyond what a database takes for a time.
		for _, created := range []int64{-1 << 63, -300_000_000_000_000, -1, 1<<63 - 1} {
			if _, _, err := b.Orders(t.Context(), "", "", order.Page{Cursor: database.EncodeCursor(created, "x"), Limit: 4}); err != nil {
				t.Errorf("cursor of %d: %v", created, err)
			}
		}
	})
}

func TestOrdersOfOneMomentAreListedInTheOrderOfBytes(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		want := []string{"z", "b", "ab", "aB", "a.b", "a-b", "a", "_", "Z", "B", "A", "9", "10", "1", "00", "0"}
		var places []order.Command
		for _, id := range want {
			places = append(places, place(id))
		}
		b.Do(t.Context(), places)
		var got []string
		for page := (order.Page{Limit: 3}); ; {
			orders, next, err := b.Orders(t.Context(), "", "", page)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, ids(orders)...)
			if page.Cursor = next; next == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("they are listed as\n%q, want\n%q", got, want)
		}
		// Made up, and the right shape: a page, wherever it begins.
		for at, n := range map[int64]int{-1 << 63: 0, 0: 0, 1<<63 - 1: len(want)} {
			list, _, err := b.Orders(t.Context(), "", "", order.Page{Cursor: database.EncodeCursor(at, "x"), Limit: 50})
			if err != nil || len(list) != n {
				t.Errorf("before %d: %d orders (%v), want %d", at, len(list), err, n)
			}
		}
	})
}

func TestAPlaceThatIsGivenUpEndsRejected(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.do(t, place("a"))
		for _, r := range atOnce(10, func(i int) order.Result {
			return b.replica(i).Do(t.Context(), []order.Command{order.GiveUp{ID: "a", Seq: 1}})[0]
		}) {
			if r.Err != nil || r.Seq != 2 || r.Order.Intent == nil || r.Order.Intent.Operation != order.GiveUpOperation {
				t.Errorf("got %+v", r)
			}
		}
		wantCode(t, "another operation", b.Do(t.Context(), []order.Command{order.Confirm{ID: "a"}})[0].Err, problem.OperationPending)
		b.do(t, settle("a", 1, order.PlaceOperation, order.ReservationHeld)) // late
		o := b.do(t, settle("a", 2, order.GiveUpOperation, order.ReservationReleased)).Order
		if stored := b.order(t, "a"); !reflect.DeepEqual(stored, o) || o.State != order.Rejected || o.Last.Problem.Code != problem.GivenUp {
			t.Errorf("it is %+v, and stored as %+v", o, stored)
		}
		if s, err := b.Settlement(t.Context(), "a", 1); err != nil || s.Outcome != order.OutcomeSuperseded {
			t.Errorf("its place ended %+v, %v", s, err)
		}
		if s, err := b.Settlement(t.Context(), "a", 2); err != nil || s.Outcome != order.OutcomeRejected || s.Problem.Code != problem.GivenUp {
			t.Errorf("its end is %+v, %v", s, err)
		}
	})
}

func TestAnUnsettledOrderIsLeasedToOneTakerAtATime(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		const orders, lease = 40, 10 * time.Second
		for i := range orders {
			b.do(t, place(fmt.Sprintf("o%02d", i)))
			time.Sleep(time.Millisecond)
		}
		b.placed(t, "settled")
		takeAll := func(before time.Time) (taken []string) {
			var mu sync.Mutex
			atOnce(4, func(i int) bool {
				for {
					batch, err := b.replica(i).LeaseUnsettled(t.Context(), before, lease, 7)
					if err != nil {
						t.Error(err)
					}
					if len(batch) == 0 {
						return true
					}
					for _, o := range batch {
						if o.Intent == nil || o.Intent.Operation != order.PlaceOperation || len(o.Intent.Lines) != 3 {
							t.Errorf("taken without its intent: %+v", o)
						}
					}
					mu.Lock()
					taken = append(taken, ids(batch)...)
					mu.Unlock()
				}
			})
			slices.Sort(taken)
			return taken
		}
		if early := takeAll(time.Now().Add(-time.Minute)); early != nil {
			t.Errorf("too young, and taken: %v", early)
		}
		oldest, err := b.LeaseUnsettled(t.Context(), time.Now(), lease, 1)
		if err != nil || len(oldest) != 1 || oldest[0].ID != "o00" {
			t.Errorf("the oldest is %v, %v", ids(oldest), err)
		}
		before := b.order(t, "o00")
		if rest := takeAll(time.Now()); len(rest) != orders-1 || len(slices.Compact(rest)) != orders-1 || rest[0] != "o01" {
			t.Errorf("%d were taken: %v", len(rest), rest)
		}
		if again := takeAll(time.Now()); again != nil {
			t.Errorf("taken again: %v", again)
		}
		if after := b.order(t, "o00"); !reflect.DeepEqual(after, before) {
			t.Errorf("a lease changed the order: %+v", after)
		}
		b.do(t, settle("o07", 1, order.PlaceOperation, order.ReservationHeld))
		time.Sleep(lease)
		if back := takeAll(time.Now()); len(back) != orders-1 || slices.Contains(back, "o07") {
			t.Errorf("after the lease %d were taken: %v", len(back), back)
		}
	})
}

func TestAPlacedOrderWhoseHoldRanOutIsTaken(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		const lease = 10 * time.Second
		take := func() []string {
			t.Helper()
			taken, err := b.LeaseExpiredHolds(t.Context(), time.Now(), lease, 2)
			if err != nil {
				t.Fatal(err)
			}
			return ids(taken)
		}
		for _, id := range []string{"old", "older-confirming", "confirmed"} {
			b.placed(t, id)
			time.Sleep(time.Millisecond)
		}
		b.do(t, order.Confirm{ID: "older-confirming"})
		b.do(t, order.Confirm{ID: "confirmed"})
		b.do(t, settle("confirmed", 2, order.ConfirmOperation, order.ReservationCommitted))
		b.do(t, place("pending"))
		time.Sleep(10 * time.Minute)
		b.placed(t, "young")
		b.placed(t, "young-2")
		if early := take(); early != nil {
			t.Errorf("before its time: %v", early)
		}
		time.Sleep(6 * time.Minute)
		if due := take(); !slices.Equal(due, []string{"old"}) {
			t.Errorf("due are %v", due)
		}
		if again := take(); again != nil {
			t.Errorf("leased, and taken: %v", again)
		}
		time.Sleep(lease)
		if back := take(); !slices.Equal(back, []string{"old"}) {
			t.Errorf("after the lease: %v", back)
		}
		b.do(t, order.Expire{ID: "old", Seq: 1})
		b.do(t, rejected("older-confirming", 2, order.ConfirmOperation, order.ReservationExpired, problem.New(problem.ReservationExpired, "")))
		time.Sleep(10 * time.Minute)
		if due := take(); !slices.Equal(due, []string{"young", "young-2"}) {
			t.Errorf("due are %v", due)
		}
	})
}

func TestUnsettledCountsWhatIsOpen(t *testing.T) {
	conformInVirtualTime(t, func(t *testing.T, b backend) {
		want := func(count int64, oldest time.Time) {
			t.Helper()
			if n, since, err := b.CountUnsettled(t.Context()); err != nil || n != count || !since.Equal(oldest) {
				t.Errorf("%d since %v (%v), want %d since %v", n, since, err, count, oldest)
			}
		}
		want(0, time.Time{})
		first := b.do(t, place("a")).Order.CreatedAt
		time.Sleep(time.Second)
		second := b.do(t, place("b")).Order.CreatedAt
		want(2, first)
		b.do(t, settle("a", 1, order.PlaceOperation, order.ReservationHeld))
		want(1, second)
		b.do(t, settle("b", 1, order.PlaceOperation, order.ReservationNone))
		want(0, time.Time{})
	})
}

func TestAFullDiskLosesNothing(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.placed(t, "a")
		before := b.dump(t)
		free := b.fill(t)
		large := place("large")
		for range order.MaxLines - 3 {
			large.Lines = append(large.Lines, order.Line{SKU: "71053", Location: "main", Quantity: 1, UnitPrice: 1})
		}
		for _, batch := range [][]order.Command{{large}, {large, large}} {
			for _, r := range b.Do(t.Context(), batch) {
				wantCode(t, "without room", r.Err, problem.Unavailable)
			}
		}
		if after := b.dump(t); after != before {
			t.Errorf("it left\n%s, and there was\n%s", after, before)
		}
		free()
		if r := b.do(t, large); !r.Created {
			t.Errorf("with room again: %+v", r)
		}
	})
}

func TestAClosedStoreIsUnavailable(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		if err := errors.Join(b.Close(), b.Close()); err != nil {
			t.Errorf("closing it twice: %v", err)
		}
		wantCode(t, "do", b.Do(t.Context(), []order.Command{place("a")})[0].Err, problem.Unavailable)
		_, err := b.Order(t.Context(), "a")
		wantCode(t, "order", err, problem.Unavailable)
		_, err = b.LeaseUnsettled(t.Context(), time.Now(), time.Second, 1)
		wantCode(t, "take", err, problem.Unavailable)
	})
}

// atOnce calls f in n goroutines and returns what each gave.
func atOnce[T any](n int, f func(i int) T) []T {
	out := make([]T, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { out[i] = f(i) })
	}
	all.Wait()
	return out
}
