package order

import (
	"context"
	"errors"
	"time"
)

// Inventory is what orders asks of inventory, on every wire. Its types belong to
// orders and contain only what orders relies on.
//
// Every error is a *problem.Problem. The error for an answer that can't be read, or
// that answers another request, wraps [ErrUnexplained].
type Inventory interface {
	// PutReservation asks inventory to bring a reservation into a state, and returns
	// the reservation as it is now. A rejection is the problem that inventory stored.
	PutReservation(ctx context.Context, r Request) (Reservation, error)
	// Reservation returns not-found if there is none with that id.
	Reservation(ctx context.Context, id string) (Reservation, error)
	// Stock returns the levels of these SKUs. An unknown SKU has no levels.
	Stock(ctx context.Context, skus []string) ([]Level, error)
}

// ErrUnexplained marks the error for an answer that no rule explains; that error wraps
// it.
var ErrUnexplained = errors.New("no rule explains the answer")

// ReservationState is the state of a reservation, as inventory reports it.
type ReservationState string

// The states of a reservation.
const (
	ReservationNone      ReservationState = "none"
	ReservationHeld      ReservationState = "held"
	ReservationCommitted ReservationState = "committed"
	ReservationReleased  ReservationState = "released"
	// ReservationExpired is a hold that expired. The order's state has the same name.
	ReservationExpired ReservationState = "expired"
)

func (s ReservationState) known() bool {
	switch s {
	case ReservationNone, ReservationHeld, ReservationCommitted, ReservationReleased, ReservationExpired:
		return true
	}
	return false
}

// order returns the state of an order whose reservation is in state s.
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
	// State is Held, Committed or Released. Lines and HoldSeconds are set only for Held.
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

// Level is the available quantity of one SKU at one location.
type Level struct {
	SKU, Location string
	Available     int64
}

// request makes the request for an order's pending intent. It uses only what was
// recorded, so that every process sends the same request.
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
