// Package orderstest lets tests outside orders ask inventory as orders does, on any
// wire. Only tests may import it; the architecture test checks that.
package orderstest

import (
	"roundtrip/internal/exchange"
	"roundtrip/services/orders/internal/inventory"
	"roundtrip/services/orders/internal/inventory/wires"
	"roundtrip/services/orders/internal/order"
)

// Names for the types of orders' internal packages.
type (
	Wire             = inventory.Wire
	WireOptions      = wires.Options
	Client           = inventory.Client
	Request          = order.Request
	Reservation      = order.Reservation
	Demand           = order.Demand
	ReservationState = order.ReservationState
)

// NewWire makes the wire that the options name. Each call of the wire is one attempt.
func NewWire(o WireOptions) (Wire, error) { return wires.New(o) }

// NewClient makes a client that asks inventory over a wire, with retries, as orders
// does for its callers.
func NewClient(wire Wire, caller *exchange.Caller) Client { return inventory.New(wire, caller) }
