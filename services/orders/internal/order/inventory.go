package order

import (
	"context"
	"errors"
	"time"

	"roundtrip/internal/problem"
)

// Inventory is what orders asks of inventory, whatever the wire. Its types are
// orders' own, and hold what orders relies on and no more.
//
// Every error is a *problem.Problem. An answer that can't be read or is no
// answer to the request wraps [ErrUnexplained].
type Inventory interface {
	// PutReservation asks for a reservation to be in a state and returns it as it
	// is now. A rejection is the problem that inventory stored.
	PutReservation(ctx context.Context, r Request) (Reservation, error)
	// Reservation returns not-found if there is none with that id.
	Reservation(ctx context.Context, id string) (Reservation, error)
	// Stock returns the levels of these SKUs; an unknown SKU has none.
	Stock(ctx context.Context, skus []string) ([]Level, error)
}

// ErrUnexplained is wrapped by the error for an answer that no rule explains.
var ErrUnexplained = errors.New("no rule explains the answer")

// ReservationState is what inventory says a reservation is.
type ReservationState string

// The states of a reservation.
const (
	None      ReservationState = "none"
	Held      ReservationState = "held"
	Committed ReservationState = "committed"
	Released  ReservationState = "released"
	// Lapsed is a hold that ran out: "expired" on the wire, as is the order's state.
	Lapsed ReservationState = "expired"
)

func (s ReservationState) known() bool {
	switch s {
	case None, Held, Committed, Released, Lapsed:
		return true
	}
	return false
}

// order is the state that an order has where its reservation has this one.
func (s ReservationState) order() State {
	switch s {
	case Held:
		return Placed
	case Committed:
		return Confirmed
	case Released:
		return Cancelled
	case Lapsed:
		return Expired
	}
	return Rejected
}

// Request is what one intent asks of inventory.
type Request struct {
	ID  string
	Seq int64
	// State is Held, Committed or Released; Lines and HoldSeconds go with Held.
	State       ReservationState
	Lines       []Demand
	HoldSeconds int64
}

// Demand is a quantity of one SKU at one location.
type Demand struct {
	SKU, Location string
	Quantity      int64
}

// Reservation is inventory's side of an order.
type Reservation struct {
	ID    string
	Seq   int64
	State ReservationState
	Lines []Demand
	// ExpiresAt is zero unless the state is Held or Lapsed.
	ExpiresAt time.Time
}

// Level is what can be promised of one SKU at one location.
type Level struct {
	SKU, Location string
	Available     int64
}

// request says what an order's pending intent asks. It is made from what was
// written down alone, so that whoever sends it sends the same.
func request(o Order) Request {
	r := Request{ID: o.ID, Seq: o.Intent.Seq}
	switch o.Intent.Operation {
	case PlaceOperation, AmendOperation:
		r.State, r.HoldSeconds = Held, o.HoldSeconds
		r.Lines = make([]Demand, len(o.Intent.Lines))
		for i, l := range o.Intent.Lines {
			r.Lines[i] = Demand{l.SKU, l.Location, l.Quantity}
		}
	case ConfirmOperation:
		r.State = Committed
	case CancelOperation, GiveUpOperation:
		r.State = Released
	}
	return r
}

// Verdict is inventory's outcome for one seq.
type Verdict struct {
	// Rejection is why not; nil where it was done.
	Rejection *problem.Problem
	// Reservation and ExpiresAt are what the reservation is now.
	Reservation ReservationState
	ExpiresAt   time.Time
}

// judge tells whether inventory's answer is an outcome: one that it stored for
// exactly this request. Of any other answer it tells why it must alarm somebody;
// "" where sending the request again may still settle it.
func judge(asked Request, r Reservation, err error) (v *Verdict, alarm string) {
	if err == nil {
		explained := r.ID == asked.ID && r.Seq == asked.Seq &&
			(r.State == asked.State || asked.State == Held && r.State == Lapsed)
		if !explained {
			return nil, "unexplained"
		}
		return &Verdict{Reservation: r.State, ExpiresAt: r.ExpiresAt}, ""
	}
	if errors.Is(err, ErrUnexplained) {
		return nil, "unexplained"
	}
	p := problem.From(err)
	switch p.Code {
	case problem.InsufficientStock, problem.ReservationExpired, problem.WrongState:
		c := p.Current
		if c == nil || c.ID != asked.ID || c.Seq != asked.Seq || !ReservationState(c.State).known() {
			return nil, "unexplained"
		}
		rejection := *p
		rejection.Current = nil
		return &Verdict{Rejection: &rejection, Reservation: ReservationState(c.State)}, ""
	}
	switch {
	case !p.Code.Known():
		return nil, "unexplained"
	case p.Code.Retry() == problem.Never:
		return nil, string(p.Code)
	}
	return nil, ""
}
