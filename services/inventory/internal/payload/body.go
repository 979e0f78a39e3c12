// Package payload has the JSON bodies of the operations that inventory serves on
// more than one wire: REST and NATS carry the same, as
// contracts/openapi/inventory.yaml has them.
package payload

import (
	"time"

	"roundtrip/internal/problem"
	"roundtrip/internal/rest"
	"roundtrip/services/inventory/internal/stock"
)

// MaxSKUs is how many SKUs one GetStock may name.
const MaxSKUs = 100

// Line is a quantity of one SKU at one location.
type Line struct {
	SKU      string `json:"sku"`
	Location string `json:"location"`
	Quantity int64  `json:"quantity"`
}

// Reservation is one as it is now.
type Reservation struct {
	ID        string `json:"id"`
	Seq       int64  `json:"seq"`
	State     string `json:"state"`
	Lines     []Line `json:"lines"`
	ExpiresAt string `json:"expires_at,omitempty"`
}

// OfReservation encodes a reservation as it is now.
func OfReservation(r stock.Reservation) Reservation {
	r = r.At(time.Now())
	out := Reservation{ID: r.ID, Seq: r.Seq, State: string(r.State), ExpiresAt: rest.OptionalTime(r.ExpiresAt)}
	for _, l := range r.Lines {
		out.Lines = append(out.Lines, Line{l.SKU, l.Location, l.Quantity})
	}
	return out
}

// PutReservation is a request, without the id. What may be left out is a
// pointer: left out is not the same as zero.
type PutReservation struct {
	Seq         int64         `json:"seq"`
	State       string        `json:"state"`
	Lines       []RequestLine `json:"lines"`
	HoldSeconds *int64        `json:"hold_seconds"`
}

// RequestLine is one line of it.
type RequestLine struct {
	SKU      string  `json:"sku"`
	Location *string `json:"location"`
	Quantity int64   `json:"quantity"`
}

// Command is what the request asks of the reservation with an id. Here, and not in
// the domain, one can tell what was given in vain: an empty list of lines from none,
// a hold of 0 from none.
func (r PutReservation) Command(id string) (stock.Put, error) {
	put := stock.Put{ID: id, Seq: r.Seq, State: stock.State(r.State)}
	for _, l := range r.Lines {
		put.Lines = append(put.Lines, stock.Line{SKU: l.SKU, Location: Or(l.Location, stock.MainLocation), Quantity: l.Quantity})
	}
	var f problem.Fields
	switch put.State {
	case stock.Held:
		put.HoldSeconds = Or(r.HoldSeconds, stock.DefaultHold)
	case stock.Committed, stock.Released:
		if r.Lines != nil {
			f.Add("/lines", "may only be given with state %q", stock.Held)
		}
		if r.HoldSeconds != nil {
			f.Add("/hold_seconds", "may only be given with state %q", stock.Held)
		}
	}
	return put, f.Err()
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

// Or is what a field says, or what it stands for where it is left out.
func Or[T any](value *T, otherwise T) T {
	if value != nil {
		return *value
	}
	return otherwise
}
