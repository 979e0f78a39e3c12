package order

import (
	"context"
	"errors"
	"time"
)

// Inventory is what orders asks of inventory, on every wire. Its types are
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
	ReservationNone      ReservationState = "none"
	ReservationHeld      ReservationState = "held"
	ReservationCommitted ReservationState = "committed"
	ReservationReleased  ReservationState = "released"
	// ReservationExpired is a hold that ran out: "expired" on the wire, as is the order's state.
	ReservationExpired ReservationState = "expired"
)

func (s ReservationState) known() bool {
	switch s {
	case ReservationNone, ReservationHeld, ReservationCommitted, ReservationReleased, ReservationExpired:
		return true
	}
	return false
}

// order is the state that an order has where its reservation has this one.
func (s ReservationState) order() State {
	switch s {
	case ReservationHeld:
		return Placed
	case ReservationCommitted:
		return Confirmed
	case ReservationReleased:
		return Cancelled
	case ReservationExpired:
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
	// ExpiresAt is zero unless the state is held or expired.
	ExpiresAt time.Time
}

// Level is what can be promised of one SKU at one location.
type Level struct {
	SKU, Location string
	Available     int64
}

// request says what an order's pending intent asks. It is made from what was
// written down alone, so that every process sends the same.
func request(o Order) Request {
	r := Request{ID: o.ID, Seq: o.Intent.Seq}
	switch o.Intent.Operation {
	case PlaceOperation, AmendOperation:
		r.State, r.HoldSeconds = ReservationHeld, o.HoldSeconds
		r.Lines = make([]Demand, len(o.Intent.Lines))
		for i, l := range o.Intent.Lines {
			r.Lines[i] = Demand{l.SKU, l.Location, l.Quantity}
		}
	case ConfirmOperation:
		r.State = ReservationCommitted
	case CancelOperation, GiveUpOperation:
		r.State = ReservationReleased
	}
	return r
}
