package order

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"roundtrip/internal/problem"
)

// inventorySays returns order-1's reservation, with placedLines, at a seq.
func inventorySays(state ReservationState, seq int64) Reservation {
	r := Reservation{ID: "order-1", Seq: seq, State: state}
	if state != ReservationNone {
		r.Lines = []Demand{{"b", "east", 1}, {"a", MainLocation, 2}}
	}
	if state == ReservationHeld || state == ReservationExpired {
		r.ExpiresAt = start.Add(15 * time.Minute)
	}
	return r
}

// Every reservation in every situation. The seq of the order, and of its pending
// operation, is 3. A cell is a problem's code, the state of the repaired order, or
// "nothing" if the two agree and nothing is written.
func TestRepairInEverySituation(t *testing.T) {
	t.Parallel()
	states := []ReservationState{ReservationNone, ReservationHeld, ReservationCommitted, ReservationReleased, ReservationExpired}
	columns := []string{"none", "held", "committed", "released", "expired"}
	for _, c := range []struct {
		inventory string
		seq       int64
		table     string
	}{
		{"is behind", 2, `
			order             none               held               committed          released           expired
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
			order             none               held               committed          released           expired
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
			order             none               held               committed          released           expired
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
			forEachCell(t, situations, columns, c.table, func(t *testing.T, situation string, i int, cell string) {
				checkRepaired(t, situation, inventorySays(states[i], c.seq), cell)
			})
		})
	}
	t.Run("inventory does not know the order", func(t *testing.T) {
		t.Parallel()
		forEachCell(t, situations, []string{"unknown"}, `
			order             unknown
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
			checkRepaired(t, situation, inventorySays(ReservationNone, 0), cell)
		})
	})
	t.Run("the order has changed since", func(t *testing.T) {
		t.Parallel()
		for _, situation := range situations {
			for _, state := range states {
				for version, want := range map[int64]problem.Code{0: problem.PreconditionFailed, 6: problem.PreconditionFailed, 8: problem.PreconditionFailed} {
					before := settledOrderIn(situation)
					if before == nil {
						if want = problem.NotFound; version == 0 {
							continue // version 0 is right for an order that does not exist
						}
					}
					unit := NewUnitOfWork(start, orders(before))
					got := unit.Decide(Repair{ID: "order-1", Version: version, Reservation: inventorySays(state, 4)})
					if problem.CodeOf(got.Err) != want || !unit.Changes().Empty() {
						t.Errorf("%s at version %d: got %v with the changes %+v, want %s", situation, version, got.Err, unit.Changes(), want)
					}
				}
			}
		}
	})
}

// settledOrderIn is like orderIn; an order without an intent has an outcome of
// inventory for its seq.
func settledOrderIn(situation string) *Order {
	o := orderIn(situation)
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

func checkRepaired(t *testing.T, situation string, r Reservation, cell string) {
	t.Helper()
	before := settledOrderIn(situation)
	c := Repair{ID: "order-1", Reservation: r}
	if before != nil {
		c.Version = before.Version
	}
	unit := NewUnitOfWork(start, orders(before))
	got, changes := unit.Decide(c), unit.Changes()
	if cell == "nothing" || !slices.Contains(States(), State(cell)) {
		if code := string(problem.CodeOf(got.Err)); cell == "nothing" && code != "" || cell != "nothing" && code != cell {
			t.Errorf("the result is %v, want %s", got.Err, cell)
		}
		if cell == "nothing" && !reflect.DeepEqual(got.Order, *before) {
			t.Errorf("the order is %+v, was %+v", got.Order, *before)
		}
		if !changes.Empty() || len(changes.Created)+len(changes.Closed)+len(changes.Opened) > 0 {
			t.Errorf("the changes are %+v, want none", changes)
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
				t.Errorf("the rejection is %v", want.Last.Problem)
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
		t.Errorf("the changes are %+v", changes)
	}

	// A second repair changes nothing.
	c.Version = got.Order.Version
	unit = NewUnitOfWork(start, []Order{got.Order})
	if again := unit.Decide(c); again.Err != nil || !reflect.DeepEqual(again.Order, got.Order) || !unit.Changes().Empty() {
		t.Errorf("the second repair gives %+v", again)
	}
	if found := Differences(got.Order, r); found != nil {
		t.Errorf("the repaired order still differs: %v", found)
	}
}

// Inventory knows no prices. A repair keeps those that orders knows.
func TestRepairKeepsKnownPrices(t *testing.T) {
	t.Parallel()
	many := []Line{{"a", MainLocation, 2, 100}, {"a", MainLocation, 3, 90}, {"b", "east", 1, 50}}
	for name, c := range map[string]struct {
		order, pending []Line
		held           []Demand
		want           []Line
	}{
		"the order's lines": {many, nil, []Demand{{"b", "east", 1}, {"a", MainLocation, 5}}, many},
		"the pending lines": {placedLines, many, []Demand{{"b", "east", 1}, {"a", MainLocation, 5}}, many},
		"the order's lines before the pending ones": {
			many, amendedLines, []Demand{{"a", MainLocation, 5}, {"b", "east", 1}}, many,
		},
		"another quantity": {many, nil, []Demand{{"a", MainLocation, 7}}, []Line{{"a", MainLocation, 7, 100}}},
		"another location": {many, nil, []Demand{{"b", "west", 4}}, []Line{{"b", "west", 4, 50}}},
		"another SKU":      {many, nil, []Demand{{"c", "west", 4}, {"b", "east", 2}}, []Line{{"b", "east", 2, 50}, {"c", "west", 4, 0}}},
		"the price of a pending line": {
			placedLines, amendedLines, []Demand{{"a", MainLocation, 6}}, []Line{{"a", MainLocation, 6, 90}},
		},
		"a quantity above the limit of a line": {
			nil, nil, []Demand{{"a", MainLocation, 2*MaxQuantity + 1}},
			[]Line{{"a", MainLocation, MaxQuantity, 0}, {"a", MainLocation, MaxQuantity, 0}, {"a", MainLocation, 1, 0}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := settledOrderIn("placed/-")
			o.Lines = c.order
			if c.pending != nil {
				o.Intent = &Intent{Operation: AmendOperation, Seq: 3, Lines: c.pending}
			}
			r := inventorySays(ReservationHeld, 4)
			r.Lines = c.held
			got := NewUnitOfWork(start, []Order{*o}).Decide(Repair{ID: "order-1", Version: 7, Reservation: r})
			sum, _ := total(c.want)
			if got.Err != nil || !slices.Equal(got.Order.Lines, c.want) || got.Order.Total != sum {
				t.Errorf("the lines are %v for %d (%v), want %v for %d", got.Order.Lines, got.Order.Total, got.Err, c.want, sum)
			}
		})
	}
	t.Run("a tombstone has no lines", func(t *testing.T) {
		t.Parallel()
		r := inventorySays(ReservationReleased, 4)
		r.Lines = nil
		got := NewUnitOfWork(start, []Order{*settledOrderIn("placed/-")}).Decide(Repair{ID: "order-1", Version: 7, Reservation: r})
		if got.Err != nil || !slices.Equal(got.Order.Lines, placedLines) {
			t.Errorf("the lines are %v (%v)", got.Order.Lines, got.Err)
		}
	})
	t.Run("a total that overflows is invalid", func(t *testing.T) {
		t.Parallel()
		o := settledOrderIn("placed/-")
		o.Lines = []Line{{"a", MainLocation, 1, MaxUnitPrice}}
		r := inventorySays(ReservationHeld, 4)
		r.Lines = []Demand{{"a", MainLocation, 2000 * MaxQuantity}}
		unit := NewUnitOfWork(start, []Order{*o})
		if got := unit.Decide(Repair{ID: "order-1", Version: 7, Reservation: r}); problem.CodeOf(got.Err) != problem.Invalid || !unit.Changes().Empty() {
			t.Errorf("the result is %+v", got)
		}
	})
}
