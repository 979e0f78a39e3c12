package inventory

import (
	"errors"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

// The JSON bodies that REST and NATS share.

type line struct {
	SKU      string `json:"sku"`
	Location string `json:"location"`
	Quantity int64  `json:"quantity"`
}

// putRequest is what PutReservation asks, without the id.
type putRequest struct {
	Seq         int64  `json:"seq"`
	State       string `json:"state"`
	Lines       []line `json:"lines,omitempty"`
	HoldSeconds int64  `json:"hold_seconds,omitzero"`
}

func encode(r order.Request) putRequest {
	out := putRequest{Seq: r.Seq, State: string(r.State), HoldSeconds: r.HoldSeconds}
	for _, l := range r.Lines {
		out.Lines = append(out.Lines, line(l))
	}
	return out
}

// reservation is what orders relies on in an answer. What it must have is a
// pointer, so that it is noticed when it is missing.
type reservation struct {
	ID        *string    `json:"id"`
	Seq       *int64     `json:"seq"`
	State     *string    `json:"state"`
	Lines     []line     `json:"lines"`
	ExpiresAt *time.Time `json:"expires_at"`
}

func (r reservation) decode() (order.Reservation, error) {
	if r.ID == nil || r.Seq == nil || r.State == nil {
		return order.Reservation{}, unexplained(errors.New("a reservation without id, seq or state"))
	}
	out := order.Reservation{ID: *r.ID, Seq: *r.Seq, State: order.ReservationState(*r.State)}
	for _, l := range r.Lines {
		out.Lines = append(out.Lines, order.Demand(l))
	}
	if r.ExpiresAt != nil {
		out.ExpiresAt = *r.ExpiresAt
	} else if out.State == order.ReservationHeld {
		return order.Reservation{}, unexplained(errors.New("a hold without expires_at"))
	}
	return out, nil
}

type levels struct {
	Levels []struct {
		SKU       *string `json:"sku"`
		Location  *string `json:"location"`
		Available *int64  `json:"available"`
	} `json:"levels"`
}

func (l levels) decode() ([]order.Level, error) {
	if l.Levels == nil {
		return nil, unexplained(errors.New("no levels, not even none"))
	}
	out := make([]order.Level, len(l.Levels))
	for i, l := range l.Levels {
		if l.SKU == nil || l.Location == nil || l.Available == nil {
			return nil, unexplained(errors.New("a level without sku, location or available"))
		}
		out[i] = order.Level{SKU: *l.SKU, Location: *l.Location, Available: *l.Available}
	}
	return out, nil
}

// unexplained makes a problem of an answer that no rule explains.
func unexplained(err error) error {
	return problem.Wrap(errors.Join(order.ErrUnexplained, err), problem.Internal, "Inventory's answer can't be explained.")
}
