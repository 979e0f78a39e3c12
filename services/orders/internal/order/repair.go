package order

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"roundtrip/internal/problem"
)

// Differences says in which ways an order and its reservation disagree. A
// reservation that inventory has never heard of has no seq and is none.
//
// An unsettled order differs only where inventory has decided its seq, or a later
// one: it may be about to settle, but where it stays so, it never will.
func Differences(o Order, r Reservation) []string {
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if in := o.Intent; in != nil {
		if r.Seq >= in.Seq {
			add("its %s under seq %d is not settled, and inventory has decided seq %d", in.Operation, in.Seq, r.Seq)
		}
		return found
	}
	// What was settled under the order's seq, inventory has decided. A repair
	// leaves a seq that no operation has had, past the reservation's.
	settled := o.Last == nil || o.Last.Seq == o.Seq
	differs := o.Seq < r.Seq || o.Seq > r.Seq && settled
	agree := o.State.agrees(r.State)
	if r.Seq == 0 {
		if differs || !agree {
			add("the order is %s, and inventory has never heard of it", o.State)
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

// agrees tells whether an order's state and its reservation's go together.
func (s State) agrees(r ReservationState) bool {
	switch s {
	case Placed:
		// A hold that has run out is marked by the settler in its time.
		return r == ReservationHeld || r == ReservationExpired
	case Confirmed:
		return r == ReservationCommitted
	}
	return r != ReservationHeld && r != ReservationCommitted
}

// holds tells whether the reservation's lines are held or taken now.
func (r Reservation) holds() bool {
	return r.State == ReservationHeld || r.State == ReservationCommitted
}

// merged is lines as inventory has them: one demand for each SKU and location,
// sorted.
func merged(lines []Line) []Demand {
	sum := map[Demand]int64{} // of each SKU and location
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

// RepairOrder brings an order into line with its reservation. Both are as they were
// read, the order first; an order that there is not has its id and no version.
// It returns the order as it is afterwards. Where the order has changed since it
// was read, that is precondition-failed and nothing was done.
//
// It may run beside services that are at work: orders starts nothing for an order
// without its version moving, so what inventory said of it still holds.
func RepairOrder(ctx context.Context, store Store, inventory Inventory, o Order, r Reservation) (Order, error) {
	if r.ID != o.ID {
		return o, ErrUnexplained
	}
	var c Command = Repair{ID: o.ID, Version: o.Version, Reservation: r}
	if in := o.Intent; in != nil && in.Seq == r.Seq {
		// Inventory has decided this very request, and tells how; or it has used the
		// seq for another one, and then this one never settles.
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

// Repair makes an order what inventory says that it is, and sets its seq past the
// reservation's: the repair of what a backup that was put back has set apart. It
// does so only where the order's version is the one that was read before
// inventory was asked (compare and set), where the two differ, and where it is
// not the settler's to find out.
type Repair struct {
	ID string
	// Version is 0 where there was no such order: it is made again then, as far
	// as inventory knows it.
	Version     int64
	Reservation Reservation
}

// What is lost with an order, and stands in its place when it is made again.
const (
	unknownCustomer = "unknown"
	noCurrency      = "XXX" // ISO 4217's code where there is none
)

// Validate accepts what inventory said.
func (a Repair) Validate() error { return nil }

// OrderID names the order.
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
	if len(r.Lines) > 0 { // else it never held anything
		known := [][]Line{o.Lines}
		if o.Intent != nil {
			known = [][]Line{o.Intent.Lines, o.Lines}
		}
		lines = withPrices(r.Lines, known)
	}
	sum, ok := total(lines)
	if !ok {
		return refuse(problem.Invalid, "What inventory holds costs more in total than can be counted.")
	}
	if made {
		b.orders[o.ID] = o
		b.created[o.ID] = true
	}
	o.Lines, o.Total = lines, sum
	b.repair(o, r)
	return Result{Order: *o, Created: made}
}

// priced gives inventory's lines the prices that are known of them: where lines
// that are known demand the same, they are the ones; else a price is that of the
// same SKU, and 0 where it is lost.
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
