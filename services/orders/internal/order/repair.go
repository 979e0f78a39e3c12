package order

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"roundtrip/internal/problem"
)

// Differences describes how an order and its reservation disagree. A reservation that
// inventory does not know has seq 0 and state none.
//
// An unsettled order differs only if inventory has decided its seq or a later one. The
// order may be about to settle. But if the difference remains, the order never settles.
func Differences(o Order, r Reservation) []string {
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if in := o.Intent; in != nil {
		if r.Seq >= in.Seq {
			add("its %s under seq %d is not settled, and inventory has decided seq %d", in.Operation, in.Seq, r.Seq)
		}
		return found
	}
	// If an operation was settled under the order's seq, inventory has decided that
	// seq. After a repair the order's seq is above the reservation's, and no operation
	// has used it.
	settled := o.Last == nil || o.Last.Seq == o.Seq
	differs := o.Seq < r.Seq || o.Seq > r.Seq && settled
	agree := o.State.agrees(r.State)
	if r.Seq == 0 {
		if differs || !agree {
			add("the order is %s, but inventory does not know it", o.State)
		}
		return found
	}
	if differs {
		add("the order's seq is %d, the reservation's is %d", o.Seq, r.Seq)
	}
	if !agree {
		add("the order is %s, the reservation is %s", o.State, r.State)
	} else if r.holds() && !slices.Equal(merged(o.Lines), sorted(r.Lines)) {
		add("the order's lines are %s, the reservation's are %s", text(merged(o.Lines)), text(sorted(r.Lines)))
	}
	return found
}

// agrees reports whether an order in state s may have a reservation in state r.
func (s State) agrees(r ReservationState) bool {
	switch s {
	case Placed:
		// The settler marks an expired hold later.
		return r == ReservationHeld || r == ReservationExpired
	case Confirmed:
		return r == ReservationCommitted
	}
	return r != ReservationHeld && r != ReservationCommitted
}

// holds reports whether the reservation now holds its lines or has taken them.
func (r Reservation) holds() bool {
	return r.State == ReservationHeld || r.State == ReservationCommitted
}

// merged returns lines as inventory stores them: one demand for each SKU and
// location, sorted.
func merged(lines []Line) []Demand {
	sum := map[Demand]int64{} // by SKU and location; the key's quantity is 0
	for _, l := range lines {
		sum[Demand{SKU: l.SKU, Location: l.Location}] += l.Quantity
	}
	var demands []Demand
	for d, quantity := range sum {
		demands = append(demands, Demand{d.SKU, d.Location, quantity})
	}
	return sorted(demands)
}

func sorted(demands []Demand) []Demand {
	return slices.SortedFunc(slices.Values(demands), func(a, b Demand) int {
		return cmp.Or(cmp.Compare(a.Location, b.Location), cmp.Compare(a.SKU, b.SKU))
	})
}

func text(demands []Demand) string {
	parts := make([]string, len(demands))
	for i, d := range demands {
		parts[i] = fmt.Sprintf("%s/%s:%d", d.Location, d.SKU, d.Quantity)
	}
	return strings.Join(parts, " ")
}

// RepairOrder makes an order agree with its reservation and returns the repaired order.
// The caller reads the order first, then the reservation, and passes both. For an order
// that does not exist, o has the id and version 0. If the order has changed since it was
// read, the error is precondition-failed and nothing was changed.
//
// It may run while the services run: orders changes the version before it sends
// anything for an order. So while the version is unchanged, the reservation is still
// as it was read.
func RepairOrder(ctx context.Context, store Store, inventory Inventory, o Order, r Reservation) (Order, error) {
	if r.ID != o.ID {
		return o, ErrUnexplained
	}
	var c Command = Repair{ID: o.ID, Version: o.Version, Reservation: r}
	if in := o.Intent; in != nil && in.Seq == r.Seq {
		// Inventory has decided this seq. If it decided this request, it answers with
		// the outcome. If it decided another request, this one never settles.
		asked := request(o)
		answer, err := inventory.PutReservation(ctx, asked)
		outcome, alarm := classify(asked, answer, err)
		switch {
		case outcome != nil:
			c = RecordOutcome{ID: o.ID, Seq: in.Seq, Operation: in.Operation, Outcome: *outcome}
		case alarm != string(problem.SeqReused):
			return o, cmp.Or(err, ErrUnexplained)
		}
	}
	result := store.Do(ctx, []Command{c})[0]
	return result.Order, result.Err
}

// Repair makes an order agree with its reservation, and sets the order's seq above the
// reservation's. It is for orders that differ after a backup was restored. It changes
// an order only if all of these are true: the order's version is the one that was read
// before inventory was asked (compare and set); the two differ; and the settler can't
// settle the order.
type Repair struct {
	ID string
	// Version is 0 if there was no such order. Repair then creates the order again,
	// from what inventory knows.
	Version     int64
	Reservation Reservation
}

// Values for what is lost with an order, used when Repair creates it again.
const (
	unknownCustomer = "unknown"
	noCurrency      = "XXX" // the code of ISO 4217 for "no currency"
)

// Validate accepts every Repair: its content comes from inventory.
func (a Repair) Validate() error { return nil }

// OrderID returns the order's id.
func (a Repair) OrderID() string { return a.ID }

func (a Repair) decide(b *UnitOfWork, o *Order) Result {
	r := a.Reservation
	made := o == nil
	switch {
	case made && (a.Version != 0 || r.Seq == 0):
		return refuse(problem.NotFound, "There is no order %s.", a.ID)
	case made:
		o = &Order{ID: a.ID, State: Pending, Customer: unknownCustomer, Currency: noCurrency, HoldSeconds: DefaultHold, CreatedAt: b.now}
	case o.Version != a.Version:
		return mismatch(o)
	case o.Intent != nil && r.Seq < o.Intent.Seq:
		return refuse(problem.OperationPending, "The order's %s is not settled yet.", o.Intent.Operation)
	case len(Differences(*o, r)) == 0:
		return Result{Order: *o}
	}
	lines := o.Lines
	if len(r.Lines) > 0 { // without lines, it never held anything
		known := [][]Line{o.Lines}
		if o.Intent != nil {
			known = [][]Line{o.Intent.Lines, o.Lines}
		}
		lines = withPrices(r.Lines, known)
	}
	sum, ok := total(lines)
	if !ok {
		return refuse(problem.Invalid, "The total price of what inventory holds is too large.")
	}
	if made {
		b.orders[o.ID] = o
		b.created[o.ID] = true
	}
	o.Lines, o.Total = lines, sum
	b.repair(o, r)
	return Result{Order: *o, Created: made}
}

// withPrices turns inventory's demands into lines with prices. If the known lines of
// one operation have the same demands, it returns those lines. Otherwise each price is
// the known price of the same SKU, or 0 if none is known.
func withPrices(demands []Demand, known [][]Line) []Line {
	var lines []Line
	for _, k := range known {
		if slices.Equal(merged(k), sorted(demands)) {
			return k
		}
	}
	for _, d := range sorted(demands) {
		var price int64
		for _, l := range slices.Concat(known...) {
			if l.SKU == d.SKU {
				price = l.UnitPrice
				break
			}
		}
		for left := d.Quantity; left > 0; left -= MaxQuantity {
			lines = append(lines, Line{d.SKU, d.Location, min(left, MaxQuantity), price})
		}
	}
	return lines
}
