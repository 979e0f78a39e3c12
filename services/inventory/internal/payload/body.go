// Package payload has the JSON bodies of the operations that inventory serves on
// more than one wire. REST and NATS use the same bodies, as
// contracts/openapi/inventory.yaml defines them.
package payload

import (
	"roundtrip/internal/timestamp"
	"roundtrip/services/inventory/internal/stock"
)

// Line is a quantity of one SKU at one location.
type Line struct {
	SKU      string `json:"sku"`
	Location string `json:"location"`
	Quantity int64  `json:"quantity"`
}

// Reservation is the current state of a reservation.
type Reservation struct {
	ID        string `json:"id"`
	Seq       int64  `json:"seq"`
	State     string `json:"state"`
	Lines     []Line `json:"lines"`
	ExpiresAt string `json:"expires_at,omitempty"`
}

// OfReservation encodes a reservation.
func OfReservation(r stock.Reservation) Reservation {
	out := Reservation{ID: r.ID, Seq: r.Seq, State: string(r.State), ExpiresAt: timestamp.Optional(r.ExpiresAt)}
	for _, l := range r.Lines {
		out.Lines = append(out.Lines, Line{l.SKU, l.Location, l.Quantity})
	}
	return out
}

// PutReservation is a request, without the id. An optional field is a pointer or a
// slice, because a missing field is not the same as zero.
type PutReservation struct {
	Seq         int64         `json:"seq"`
	State       string        `json:"state"`
	Lines       []RequestLine `json:"lines"`
	HoldSeconds *int64        `json:"hold_seconds"`
}

// RequestLine is one line of a request.
type RequestLine struct {
	SKU      string  `json:"sku"`
	Location *string `json:"location"`
	Quantity int64   `json:"quantity"`
}

// For returns the request for the reservation with this id.
func (r PutReservation) For(id string) stock.PutRequest {
	request := stock.PutRequest{ID: id, Seq: r.Seq, State: stock.State(r.State), HoldSeconds: r.HoldSeconds}
	if r.Lines != nil {
		request.Lines = make([]stock.LineRequest, len(r.Lines))
	}
	for i, l := range r.Lines {
		request.Lines[i] = stock.LineRequest(l)
	}
	return request
}

// Level is the stock of one SKU at one location.
type Level struct {
	SKU       string `json:"sku"`
	Name      string `json:"name"`
	Location  string `json:"location"`
	OnHand    int64  `json:"on_hand"`
	Reserved  int64  `json:"reserved"`
	Available int64  `json:"available"`
	Version   int64  `json:"version"`
}

// OfLevel encodes a level.
func OfLevel(l stock.Level) Level {
	return Level{l.SKU, l.Name, l.Location, l.OnHand, l.Reserved, l.Available(), l.Version}
}

// Levels are some levels, or a page of them.
type Levels struct {
	Levels     []Level `json:"levels"`
	NextCursor string  `json:"next_cursor,omitempty"`
}

// OfLevels encodes levels.
func OfLevels(from []stock.Level, next string) Levels {
	out := Levels{NextCursor: next}
	for _, l := range from {
		out.Levels = append(out.Levels, OfLevel(l))
	}
	return out
}
