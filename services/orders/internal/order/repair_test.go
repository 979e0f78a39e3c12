package order

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"roundtrip/internal/problem"
)

// what inventory says about an order's placedLines, under a seq.
func says(state ReservationState, seq int64) Reservation {
	r := Reservation{ID: "order-1", Seq: seq, State: state}
	if state != ReservationNone {
		r.Lines = []Demand{{"b", "east", 1}, {"a", MainLocation, 2}}
	}
	if state == ReservationHeld || state == ReservationExpired {
		r.ExpiresAt = start.Add(15 * time.Minute)
	}
	return r
}

// Every reservation against every situation; the order's seq, and that of what is
// pending, is 3. A cell is a problem's code, the state that the order has
// afterwards, or "nothing" where the two agree and nothing is written.
func TestAdoptInEverySituation(t *testing.T) {
	t.Parallel()
	states := []ReservationState{ReservationNone, ReservationHeld, ReservationCommitted, ReservationReleased, ReservationExpired}
	for _, c := range []struct {
		inventory string
		seq       int64
		table     string
	}{
		{"is behind", 2, `
			missing           rejected           placed             confirmed          cancelled          expired
			pending/place     operation-pending  operation-pending  operation-pending  operation-pending  operation-pending
			pending/cancel    operation-pending  operation-pending  operation-pending  operation-pending  operation-pending
			pending/give-up   operation-pending  operation-pending  operation-pending  operation-pending  operation-pending
			placed/-          cancelled          placed             confirmed          cancelled          placed
			placed/amend      operation-pending  operation-pending  operation-pending  operation-pending  operation-pending
			placed/confirm    operation-pending  operation-pending  operation-pending  operation-pending  operation-pending
			placed/cancel     operation-pending  operation-pending  operation-pending  operation-pending  operation-pending
			confirmed/-       cancelled          placed             confirmed          cancelled          expired
			confirmed/cancel  operation-pending  operation-pending  operation-pending  operation-pending  operation-pending
			rejected/-        rejected           placed             confirmed          rejected           rejected
			cancelled/-       cancelled          placed             confirmed          cancelled          cancelled
			expired/-         expired            placed             confirmed          expired            expired`},
		{"has the same seq", 3, `
			missing           rejected           placed             confirmed          cancelled          expired
			pending/place     rejected           placed             confirmed          cancelled          expired
			pending/cancel    rejected           placed             confirmed          cancelled          expired
			pending/give-up   rejected           placed             confirmed          cancelled          expired
			placed/-          cancelled          nothing            confirmed          cancelled          nothing
			placed/amend      cancelled          placed             confirmed          cancelled          placed
			placed/confirm    cancelled          placed             confirmed          cancelled          placed
			placed/cancel     cancelled          placed             confirmed          cancelled          placed
			confirmed/-       cancelled          placed             nothing            cancelled          expired
			confirmed/cancel  cancelled          placed             confirmed          cancelled          expired
			rejected/-        nothing            placed             confirmed          nothing            nothing
			cancelled/-       nothing            placed             confirmed          nothing            nothing
			expired/-         nothing            placed             confirmed          nothing            nothing`},
		{"is ahead", 4, `
			missing           rejected           placed             confirmed          cancelled          expired
			pending/place     rejected           placed             confirmed          cancelled          expired
			pending/cancel    rejected           placed             confirmed          cancelled          expired
			pending/give-up   rejected           placed             confirmed          cancelled          expired
			placed/-          cancelled          placed             confirmed          cancelled          placed
			placed/amend      cancelled          placed             confirmed          cancelled          placed
			placed/confirm    cancelled          placed             confirmed          cancelled          placed
			placed/cancel     cancelled          placed             confirmed          cancelled          placed
			confirmed/-       cancelled          placed             confirmed          cancelled          expired
			confirmed/cancel  cancelled          placed             confirmed          cancelled          expired
			rejected/-        rejected           placed             confirmed          rejected           rejected
			cancelled/-       cancelled          placed             confirmed          cancelled          cancelled
			expired/-         expired            placed             confirmed          expired            expired`},
	} {
		t.Run("inventory "+c.inventory, func(t *testing.T) {
			t.Parallel()
			eachCell(t, len(states), c.table, func(t *testing.T, situation string, i int, cell string) {
				checkAdopted(t, situation, says(states[i], c.seq), cell)
			})
		})
	}
	t.Run("inventory has never heard of it", func(t *testing.T) {
		t.Parallel()
		eachCell(t, 1, `
			missing           not-found
			pending/place     operation-pending
			pending/cancel    operation-pending
			pending/give-up   operation-pending
			placed/-          cancelled
			placed/amend      operation-pending
			placed/confirm    operation-pending
			placed/cancel     operation-pending
			confirmed/-       cancelled
			confirmed/cancel  operation-pending
			rejected/-        rejected
			cancelled/-       cancelled
			expired/-         expired`, func(t *testing.T, situation string, _ int, cell string) {
			checkAdopted(t, situation, says(ReservationNone, 0), cell)
		})
	})
	t.Run("the order has changed since", func(t *testing.T) {
		t.Parallel()
		for _, situation := range situations {
			for _, state := range states {
				for version, want := range map[int64]problem.Code{0: problem.PreconditionFailed, 6: problem.PreconditionFailed, 8: problem.PreconditionFailed} {
					before := settledIn(situation)
					if before == nil {
						if want = problem.NotFound; version == 0 {
							continue // it was not there either
						}
					}
					book := NewUnitOfWork(start, orders(before))
					got := book.Decide(Repair{ID: "order-1", Version: version, Reservation: says(state, 4)})
					if problem.CodeOf(got.Err) != want || !book.Changes().Empty() {
						t.Errorf("%s read at version %d: %v and %+v written, want %s", situation, version, got.Err, book.Changes(), want)
					}
				}
			}
		}
	})
}

// settledIn is in, where inventory gave the outcome that an order without an
// intent has; nil is missing.
func settledIn(situation string) *Order {
	o := in(situation)
	if o != nil && o.Intent == nil {
		o.Last.Seq = o.Seq
	}
	return o
}

func orders(o *Order) []Order {
	if o == nil {
		return nil
	}
	return []Order{*o}
}

// eachCell runs a check for each cell of a table that has a line for each situation.
func eachCell(t *testing.T, columns int, table string, check func(t *testing.T, situation string, column int, cell string)) {
	t.Helper()
	var seen []string
	for line := range strings.Lines(strings.TrimSpace(table)) {
		cells := strings.Fields(line)
		if len(cells) != columns+1 {
			t.Fatalf("%q has %d cells for %d columns", line, len(cells)-1, columns)
		}
		seen = append(seen, cells[0])
		for i, cell := range cells[1:] {
			t.Run(fmt.Sprint(cells[0], " ", i), func(t *testing.T) { check(t, cells[0], i, cell) })
		}
	}
	if !slices.Equal(seen, situations) {
		t.Errorf("the table has the situations %v, want %v", seen, situations)
	}
}

func checkAdopted(t *testing.T, situation string, r Reservation, cell string) {
	t.Helper()
	before := settledIn(situation)
	c := Repair{ID: "order-1", Reservation: r}
	if before != nil {
		c.Version = before.Version
	}
	book := NewUnitOfWork(start, orders(before))
	got, changes := book.Decide(c), book.Changes()
	if cell == "nothing" || !slices.Contains(States(), State(cell)) {
		if code := string(problem.CodeOf(got.Err)); cell == "nothing" && code != "" || cell != "nothing" && code != cell {
			t.Errorf("the result is %v, want %s", got.Err, cell)
		}
		if cell == "nothing" && !reflect.DeepEqual(got.Order, *before) {
			t.Errorf("the order is %+v, was %+v", got.Order, *before)
		}
		if !changes.Empty() || len(changes.Created)+len(changes.Closed)+len(changes.Opened) > 0 {
			t.Errorf("written is %+v, want nothing", changes)
		}
		return
	}

	if got.Err != nil || got.Created != (before == nil) {
		t.Fatalf("the result is %+v", got)
	}
	made := Order{
		ID: "order-1", Customer: "unknown", Currency: "XXX", HoldSeconds: DefaultHold, CreatedAt: start,
		Lines: []Line{{"b", "east", 1, 0}, {"a", MainLocation, 2, 0}},
	}
	if r.State == ReservationNone {
		made.Lines = nil
	}
	if before == nil {
		before = &made
	}
	want := *before
	want.State, want.Version, want.UpdatedAt, want.Intent = State(cell), before.Version+1, start, nil
	want.Seq = max(before.Seq, r.Seq) + 1
	switch {
	case want.State != Placed && want.State != Expired:
		want.HoldExpiresAt = time.Time{}
	case r.State == ReservationHeld || r.State == ReservationExpired:
		want.HoldExpiresAt = start.Add(15 * time.Minute)
	}
	if before.State != want.State && (r.State != ReservationNone || before.State == "" || before.State == Pending) {
		want.Last = &Settlement{Seq: r.Seq, Outcome: OutcomeDone, Operation: map[State]Operation{
			Placed: PlaceOperation, Expired: PlaceOperation, Confirmed: ConfirmOperation, Cancelled: CancelOperation, Rejected: PlaceOperation,
		}[want.State]}
		if want.State == Rejected {
			want.Last.Outcome, want.Last.Problem = OutcomeRejected, got.Order.Last.Problem
			if problem.CodeOf(want.Last.Problem) != problem.GivenUp {
				t.Errorf("it was rejected for %v", want.Last.Problem)
			}
		}
	}
	if !reflect.DeepEqual(got.Order, want) {
		t.Errorf("the order is\n%+v %+v, want\n%+v %+v", got.Order, got.Order.Last, want, want.Last)
	}
	var closed []ClosedIntent
	if in := before.Intent; in != nil {
		closed = []ClosedIntent{{"order-1", Settlement{Operation: in.Operation, Seq: in.Seq, Outcome: OutcomeSuperseded}}}
	}
	if !reflect.DeepEqual(changes.Closed, closed) || len(changes.Opened) > 0 || len(changes.Orders) != 1 || changes.Created["order-1"] != got.Created {
		t.Errorf("written is %+v", changes)
	}

	// Once more is no more.
	c.Version = got.Order.Version
	book = NewUnitOfWork(start, []Order{got.Order})
	if again := book.Decide(c); again.Err != nil || !reflect.DeepEqual(again.Order, got.Order) || !book.Changes().Empty() {
		t.Errorf("a second time makes it %+v", again)
	}
	if found := Differences(got.Order, r); found != nil {
		t.Errorf("afterwards there is still a difference: %v", found)
	}
}

// Inventory knows no prices. What is known of them is kept.
func TestAdoptedLinesKeepTheirPrices(t *testing.T) {
	t.Parallel()
	many := []Line{{"a", MainLocation, 2, 100}, {"a", MainLocation, 3, 90}, {"b", "east", 1, 50}}
	for name, c := range map[string]struct {
		order, pending []Line
		held           []Demand
		want           []Line
	}{
		"what was ordered": {many, nil, []Demand{{"b", "east", 1}, {"a", MainLocation, 5}}, many},
		"what was pending": {placedLines, many, []Demand{{"b", "east", 1}, {"a", MainLocation, 5}}, many},
		"what was ordered, not what is pending": {
			many, amendedLines, []Demand{{"a", MainLocation, 5}, {"b", "east", 1}}, many,
		},
		"another quantity": {many, nil, []Demand{{"a", MainLocation, 7}}, []Line{{"a", MainLocation, 7, 100}}},
		"another location": {many, nil, []Demand{{"b", "west", 4}}, []Line{{"b", "west", 4, 50}}},
		"another thing":    {many, nil, []Demand{{"c", "west", 4}, {"b", "east", 2}}, []Line{{"b", "east", 2, 50}, {"c", "west", 4, 0}}},
		"the price of what is pending": {
			placedLines, amendedLines, []Demand{{"a", MainLocation, 6}}, []Line{{"a", MainLocation, 6, 90}},
		},
		"more than one line may ask for": {
			nil, nil, []Demand{{"a", MainLocation, 2*MaxQuantity + 1}},
			[]Line{{"a", MainLocation, MaxQuantity, 0}, {"a", MainLocation, MaxQuantity, 0}, {"a", MainLocation, 1, 0}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := settledIn("placed/-")
			o.Lines = c.order
			if c.pending != nil {
				o.Intent = &Intent{Operation: AmendOperation, Seq: 3, Lines: c.pending}
			}
			r := says(ReservationHeld, 4)
			r.Lines = c.held
			got := NewUnitOfWork(start, []Order{*o}).Decide(Repair{ID: "order-1", Version: 7, Reservation: r})
			sum, _ := total(c.want)
			if got.Err != nil || !slices.Equal(got.Order.Lines, c.want) || got.Order.Total != sum {
				t.Errorf("the lines are %v for %d (%v), want %v for %d", got.Order.Lines, got.Order.Total, got.Err, c.want, sum)
			}
		})
	}
	t.Run("a tombstone never had any", func(t *testing.T) {
		t.Parallel()
		r := says(ReservationReleased, 4)
		r.Lines = nil
		got := NewUnitOfWork(start, []Order{*settledIn("placed/-")}).Decide(Repair{ID: "order-1", Version: 7, Reservation: r})
		if got.Err != nil || !slices.Equal(got.Order.Lines, placedLines) {
			t.Errorf("the lines are %v (%v)", got.Order.Lines, got.Err)
		}
	})
	t.Run("what can't be counted is left alone", func(t *testing.T) {
		t.Parallel()
		o := settledIn("placed/-")
		o.Lines = []Line{{"a", MainLocation, 1, MaxUnitPrice}}
		r := says(ReservationHeld, 4)
		r.Lines = []Demand{{"a", MainLocation, 2000 * MaxQuantity}}
		book := NewUnitOfWork(start, []Order{*o})
		if got := book.Decide(Repair{ID: "order-1", Version: 7, Reservation: r}); problem.CodeOf(got.Err) != problem.Invalid || !book.Changes().Empty() {
			t.Errorf("the result is %+v", got)
		}
	})
}

// repair is what an audit does: it reads the order, then asks inventory.
func (p *pair) repair(ctx context.Context, id string) (Order, error) {
	return repair(ctx, p.store, p.wire, id)
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

// What inventory has decided under a pending seq is asked for before anything is
// adopted: if it is the outcome, it settles, with all that it says.
func TestRepairOfWhatIsPending(t *testing.T) {
	t.Parallel()
	amend := func(p *pair) {
		p.unknown(p.Amend(p.t.Context(), Amend{ID: "order-1", Lines: otherLines}))
	}
	for name, c := range map[string]struct {
		pending func(*pair)
		// lost is what inventory decided for the orders that is no more.
		lost  []Request
		carry func(r Request, arrive func() (Reservation, error)) (Reservation, error)
		want  State
		// outcome is how the amend under seq 2 ended; "" is not at all.
		outcome OutcomeKind
		code    problem.Code
		fails   problem.Code
	}{
		"it was done": {
			pending: amend,
			lost:    []Request{{ID: "order-1", Seq: 2, State: ReservationHeld, HoldSeconds: 600, Lines: []Demand{{"c", MainLocation, 1}}}},
			want:    Placed, outcome: OutcomeRejected, code: problem.InsufficientStock,
		},
		"the seq was used for another": {
			pending: amend, lost: []Request{{ID: "order-1", Seq: 2, State: ReservationCommitted}}, want: Confirmed, outcome: OutcomeSuperseded,
		},
		"inventory is past it": {
			pending: amend, lost: []Request{{ID: "order-1", Seq: 2, State: ReservationCommitted}, {ID: "order-1", Seq: 3, State: ReservationReleased}},
			want: Cancelled, outcome: OutcomeSuperseded,
		},
		"it never came": {pending: amend, want: Placed, fails: problem.OperationPending},
		"inventory can't say": {
			pending: amend, lost: []Request{{ID: "order-1", Seq: 2, State: ReservationCommitted}}, want: Placed, fails: problem.Unavailable,
			carry: func(Request, func() (Reservation, error)) (Reservation, error) { return Reservation{}, lost() },
		},
		"inventory's answer can't be explained": {
			pending: amend, lost: []Request{{ID: "order-1", Seq: 2, State: ReservationCommitted}}, want: Placed, fails: problem.Internal,
			carry: func(Request, func() (Reservation, error)) (Reservation, error) { return Reservation{}, nil },
		},
		"inventory has moved on meanwhile": {
			pending: amend, lost: []Request{{ID: "order-1", Seq: 2, State: ReservationCommitted}}, want: Placed, fails: problem.StaleSeq,
			carry: func(Request, func() (Reservation, error)) (Reservation, error) {
				return Reservation{}, problem.New(problem.StaleSeq, "")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				p.place("order-1")
				for _, r := range c.lost {
					_, _ = p.wire.put(r)
				}
				unmute := p.mute()
				c.pending(p)
				unmute()
				if c.carry != nil {
					p.wire.carryPut.set(func(_ context.Context, r Request, arrive func() (Reservation, error)) (Reservation, error) {
						return c.carry(r, arrive)
					})
				}
				o, err := p.repair(t.Context(), "order-1")
				if problem.CodeOf(err) != c.fails {
					t.Fatalf("it is answered %v, want %q", err, c.fails)
				}
				stored := p.order("order-1")
				if stored.State != c.want || (stored.Intent == nil) != (c.outcome != "") || err == nil && !reflect.DeepEqual(o, stored) {
					t.Errorf("the order is %+v, said to be %+v; want %s", stored, o, c.want)
				}
				if end, _ := p.store.Settlement(t.Context(), "order-1", 2); end.Outcome != c.outcome || problem.CodeOf(asError(end.Problem)) != c.code {
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

// After a repair an order goes on as ever: the next operation is decided, and a
// hold that has run out is marked.
func TestARepairedOrderGoesOn(t *testing.T) {
	t.Parallel()
	for _, asked := range []struct{ state, again State }{{Placed, Confirmed}, {Placed, Cancelled}, {Placed, Expired}, {Confirmed, Cancelled}} {
		for name, forgets := range map[string]func(*pair){
			"orders had lost it":    func(p *pair) { delete(p.store.orders, "order-1"); delete(p.store.intents, "order-1") },
			"inventory is behind":   func(p *pair) { p.wire.bookings["order-1"].seq-- },
			"inventory is ahead":    func(p *pair) { p.wire.bookings["order-1"].seq += 3 },
			"they never were apart": func(*pair) {},
		} {
			t.Run(fmt.Sprintf("%s, %s is %s", name, asked.state, asked.again), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					p := newPair(t)
					p.place("order-1")
					p.settled(p.Amend(t.Context(), Amend{ID: "order-1", Lines: amendedLines}))
					if asked.state == Confirmed {
						p.settled(p.Confirm(t.Context(), Confirm{ID: "order-1"}))
					}
					forgets(p)
					o, err := p.repair(t.Context(), "order-1")
					if err != nil || o.State != asked.state {
						t.Fatalf("repaired it is %+v, %v", o, err)
					}
					switch asked.again {
					case Confirmed:
						p.settled(p.Confirm(t.Context(), Confirm{ID: "order-1"}))
					case Cancelled:
						p.settled(p.Cancel(t.Context(), Cancel{ID: "order-1"}))
					case Expired:
						defer p.runSettler(quiet())()
						pass(600*time.Second + 2*settleEvery)
					}
					o = p.order("order-1")
					if r, err := p.wire.get("order-1"); err != nil || Differences(o, r) != nil || o.State != asked.again {
						t.Errorf("in the end it is %+v, and inventory has %+v, %v", o, r, err)
					}
					p.wantAlarms()
				})
			})
		}
	}
}

// A caller who waits for an operation that a repair found superseded is not told
// that it was done, even where the repair gives the order that seq.
func TestARepairAnswersForNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.place("order-1")
		if _, err := p.wire.put(Request{ID: "order-1", Seq: 2, State: ReservationCommitted}); err != nil {
			t.Fatal(err)
		}
		p.wire.carryPut.set(func(ctx context.Context, r Request, arrive func() (Reservation, error)) (Reservation, error) {
			p.wire.carryPut.set(nil)
			if _, err := p.repair(ctx, "order-1"); err != nil {
				t.Error(err)
			}
			return arrive()
		})
		a, err := p.Amend(t.Context(), Amend{ID: "order-1", Lines: otherLines})
		if problem.CodeOf(err) != problem.WrongState {
			t.Errorf("the amend is answered %+v, %v", a, err)
		}
		if o := p.order("order-1"); o.State != Confirmed || o.Last.Seq != 2 {
			t.Errorf("the order is %+v", o)
		}
	})
}

// Any history in which orders is put back to a backup while requests are still
// under way, and goes on, with callers, settlers and repairs at once: when faults
// have stopped, repairs end what is apart, and from there every rule holds again.
func TestAnyHistoryWithABackupPutBack(t *testing.T) {
	t.Parallel()
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				w := newWorld(t)
				defer w.abandon()
				w.play("before the backup", 60, w.actions())
				backup := w.store.backup()
				w.play("after the backup", 100, w.actions())
				w.putBack(backup)
				w.play("put back", 100, append(w.actions(), w.repair, w.repair))
				w.reunite()
				w.play("repaired", 60, append(w.actions(), w.repair))
				w.calmDown()
			})
		})
	}
}

// repair is an audit's turn at any order, whether or not there is a difference.
func (w *world) repair() {
	id := rapid.SampledFrom(w.ids()).Draw(w.T, "id")
	w.spawn("repair", func(ctx context.Context, _ *task) { _, _ = repair(ctx, w.store, w.wire, id) })
}

// ids are those that either side may know.
func (w *world) ids() []string { return []string{"o1", "o2", "o3"} }

// putBack kills everybody and puts the store back. What the orders that is no
// more had sent is still under way.
func (w *world) putBack(backup *memory) {
	w.abandon()
	w.apart = true
	w.store.orders, w.store.intents, w.store.leased = backup.orders, backup.intents, backup.leased
	w.store.history = backup.history
}

// reunite stops the faults and repairs until nothing is apart.
func (w *world) reunite() {
	for len(w.tasks) > 0 {
		w.quietly()
	}
	for _, r := range w.late {
		_, _ = w.wire.warehouse.put(r)
	}
	w.late = nil
	// One round repairs what there is; settling what is left may need another seq
	// that inventory has used.
	for range 3 {
		for _, id := range w.ids() {
			w.finish(w.spawn("repair", func(ctx context.Context, _ *task) { _, _ = repair(ctx, w.store, w.wire, id) }))
			if o, ok := w.store.find(id); ok && o.Intent != nil {
				w.finish(w.spawn("settler", func(ctx context.Context, _ *task) { w.patient.resend(ctx, o) }))
			}
		}
	}
	for _, id := range w.ids() {
		o, found := w.store.find(id)
		r, err := w.wire.get(id)
		if known := err == nil; found != known || found && (o.Intent != nil || Differences(o, r) != nil) {
			w.Fatalf("after repairs %s is\n%+v %+v, and inventory has %+v, %v", id, o, o.Intent, r, err)
		}
	}
	w.apart, w.alarms, w.refusals = false, nil, 0
	clear(w.rejected)
	w.invariants()
}

func TestAnAnswerAboutAnotherOrderRepairsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.place("order-1")
		was := p.order("order-1")
		other := says(ReservationCommitted, 4)
		other.ID = "order-2"
		if _, err := RepairOrder(t.Context(), p.store, p.wire, was, other); !errors.Is(err, ErrUnexplained) {
			t.Errorf("it is answered %v", err)
		}
		if o := p.order("order-1"); !reflect.DeepEqual(o, was) {
			t.Errorf("the order is %+v", o)
		}
	})
}
