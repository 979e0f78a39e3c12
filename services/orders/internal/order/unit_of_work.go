package order

import (
	"maps"
	"slices"
	"time"

	"roundtrip/internal/problem"
)

// UnitOfWork holds the orders of a batch of commands while the commands are decided in
// memory, one after the other. It belongs to one transaction. After a rollback, discard
// it and every result that it returned.
type UnitOfWork struct {
	now    time.Time
	orders map[string]*Order

	changed map[string]bool
	created map[string]bool
	opened  []OpenedIntent
	closed  []ClosedIntent
}

// OpenedIntent is an intent that a decision opened.
type OpenedIntent struct {
	OrderID string
	Intent
}

// ClosedIntent is an intent that a decision closed.
type ClosedIntent struct {
	OrderID string
	Settlement
}

// NewUnitOfWork makes a UnitOfWork from the orders that were loaded and locked.
func NewUnitOfWork(now time.Time, orders []Order) *UnitOfWork {
	b := &UnitOfWork{now: now, orders: make(map[string]*Order, len(orders)), changed: map[string]bool{}, created: map[string]bool{}}
	for _, o := range orders {
		b.orders[o.ID] = &o
	}
	return b
}

// Decide decides one command. Call it for the commands of a batch in the order in
// which they arrived. Each command sees what the commands before it changed.
func (b *UnitOfWork) Decide(c Command) Result { return c.decide(b, b.orders[c.OrderID()]) }

// Changes is what has to be written, all or nothing.
type Changes struct {
	// Orders are new or changed, sorted by id; Created has the ids of the new ones.
	Orders  []Order
	Created map[string]bool
	// Opened has the new intents. Closed has the settlements of intents that are stored
	// or are in Opened.
	Opened []OpenedIntent
	Closed []ClosedIntent
}

// Empty reports whether there is nothing to write.
func (c Changes) Empty() bool { return len(c.Orders) == 0 }

// Changes returns everything that the decisions so far have changed.
func (b *UnitOfWork) Changes() Changes {
	c := Changes{Created: b.created, Opened: b.opened, Closed: b.closed}
	for _, id := range slices.Sorted(maps.Keys(b.changed)) {
		c.Orders = append(c.Orders, *b.orders[id])
	}
	return c
}

// open adds an intent under the next seq. It supersedes a pending intent.
func (b *UnitOfWork) open(o *Order, op Operation, lines []Line, fingerprint string) {
	if o.Intent != nil {
		b.close(o, Settlement{Operation: o.Intent.Operation, Seq: o.Intent.Seq, Outcome: OutcomeSuperseded})
	}
	o.Seq++
	o.Intent = &Intent{Operation: op, Seq: o.Seq, Since: b.now, Lines: lines, Fingerprint: fingerprint}
	b.opened = append(b.opened, OpenedIntent{OrderID: o.ID, Intent: *o.Intent})
	b.touch(o)
}

// close settles the pending intent.
func (b *UnitOfWork) close(o *Order, s Settlement) {
	o.Intent = nil
	b.closed = append(b.closed, ClosedIntent{OrderID: o.ID, Settlement: s})
}

// recordOutcome settles the pending intent with inventory's outcome. The order's state
// follows from the reservation's state now. The order gets the intent's lines only if
// the outcome is done.
func (b *UnitOfWork) recordOutcome(o *Order, v Outcome) {
	in := *o.Intent
	s := Settlement{Operation: in.Operation, Seq: in.Seq, Outcome: OutcomeDone, Problem: v.Rejection}
	if v.Rejection != nil {
		s.Outcome = OutcomeRejected
	}
	o.State = v.Reservation.order()
	if in.Operation == GiveUpOperation && v.Reservation == ReservationReleased {
		// For the caller, this is how its place ended.
		o.State = Rejected
		s = Settlement{Operation: PlaceOperation, Seq: in.Seq, Outcome: OutcomeRejected, Problem: problem.New(problem.GivenUp,
			"Inventory could not be asked in time. Place the order again under a new id.")}
	}
	if s.Outcome == OutcomeDone && in.Lines != nil {
		o.Lines = in.Lines
		o.Total, _ = total(in.Lines)
		o.HoldExpiresAt = v.ExpiresAt
	}
	if o.State != Placed && o.State != Expired {
		o.HoldExpiresAt = time.Time{}
	}
	b.close(o, s)
	o.Last = &s
	b.touch(o)
}

// touch raises the order's version: it has a visible change.
func (b *UnitOfWork) touch(o *Order) {
	o.Version++
	o.UpdatedAt = b.now
	b.changed[o.ID] = true
}

// repair makes an order agree with its reservation. It supersedes a pending operation,
// because how that ended is unknown.
func (b *UnitOfWork) repair(o *Order, r Reservation) {
	if in := o.Intent; in != nil {
		b.close(o, Settlement{Operation: in.Operation, Seq: in.Seq, Outcome: OutcomeSuperseded})
	}
	switch {
	case o.State != Pending && o.State.agrees(r.State):
	case o.State != Pending && r.State == ReservationNone:
		// Inventory accepted the order before, so its place was not rejected.
		o.State = Cancelled
	default:
		o.State = r.State.order()
		o.Last = &Settlement{Operation: PlaceOperation, Seq: r.Seq, Outcome: OutcomeDone}
		switch r.State {
		case ReservationCommitted:
			o.Last.Operation = ConfirmOperation
		case ReservationReleased:
			o.Last.Operation = CancelOperation
		case ReservationNone:
			o.Last.Outcome = OutcomeRejected
			o.Last.Problem = problem.New(problem.GivenUp, "The reason for the rejection is lost. Place the order again under a new id.")
		}
	}
	switch {
	case o.State != Placed && o.State != Expired:
		o.HoldExpiresAt = time.Time{}
	case !r.ExpiresAt.IsZero():
		o.HoldExpiresAt = r.ExpiresAt
	}
	o.Seq = max(o.Seq, r.Seq) + 1
	b.touch(o)
}
