package inventory

import (
	"errors"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

// These are the JSON bodies that REST and NATS share. gRPC has its own messages, with
// the same rules.

// Body is the body of an answer. Decode checks that it has what orders relies on.
type Body[T any] interface{ Decode() (T, error) }

// LineBody is a quantity of one SKU at one location.
type LineBody struct {
	SKU      string `json:"sku"`
	Location string `json:"location"`
	Quantity int64  `json:"quantity"`
}

// PutBody is the body of a PutReservation request, without the id.
type PutBody struct {
	Seq         int64      `json:"seq"`
	State       string     `json:"state"`
	Lines       []LineBody `json:"lines,omitempty"`
	HoldSeconds int64      `json:"hold_seconds,omitzero"`
}

// EncodePut encodes the body of a PutReservation request.
func EncodePut(r order.Request) PutBody {
	out := PutBody{Seq: r.Seq, State: string(r.State), HoldSeconds: r.HoldSeconds}
	for _, l := range r.Lines {
		out.Lines = append(out.Lines, LineBody(l))
	}
	return out
}

// ReservationBody has the fields of an answer that orders relies on. A required field
// is a pointer, so that Decode notices if it is missing.
type ReservationBody struct {
	ID        *string    `json:"id"`
	Seq       *int64     `json:"seq"`
	State     *string    `json:"state"`
	Lines     []LineBody `json:"lines"`
	ExpiresAt *time.Time `json:"expires_at"`
}

// Decode implements [Body].
func (r ReservationBody) Decode() (order.Reservation, error) {
	if r.ID == nil || r.Seq == nil || r.State == nil {
		return order.Reservation{}, Unexplained(errors.New("a reservation without id, seq or state"))
	}
	out := order.Reservation{ID: *r.ID, Seq: *r.Seq, State: order.ReservationState(*r.State)}
	for _, l := range r.Lines {
		out.Lines = append(out.Lines, order.Demand(l))
	}
	if r.ExpiresAt != nil {
		out.ExpiresAt = *r.ExpiresAt
	} else if out.State == order.ReservationHeld {
		return order.Reservation{}, Unexplained(errors.New("a hold without expires_at"))
	}
	return out, nil
}

// LevelsBody has the fields of a GetStock answer that orders relies on.
type LevelsBody struct {
	Levels []LevelBody `json:"levels"`
}

// LevelBody is the available quantity of one SKU at one location.
type LevelBody struct {
	SKU       *string `json:"sku"`
	Location  *string `json:"location"`
	Available *int64  `json:"available"`
}

// Decode implements [Body].
func (l LevelsBody) Decode() ([]order.Level, error) {
	if l.Levels == nil {
		return nil, Unexplained(errors.New("an answer without levels"))
	}
	out := make([]order.Level, len(l.Levels))
	for i, l := range l.Levels {
		if l.SKU == nil || l.Location == nil || l.Available == nil {
			return nil, Unexplained(errors.New("a level without sku, location or available"))
		}
		out[i] = order.Level{SKU: *l.SKU, Location: *l.Location, Available: *l.Available}
	}
	return out, nil
}

// Unexplained makes the problem for an answer that no rule explains. It wraps
// [order.ErrUnexplained].
func Unexplained(err error) error {
	return problem.Wrap(errors.Join(order.ErrUnexplained, err), problem.Internal, "Inventory's answer can't be explained.")
}
