package app

import (
	"fmt"

	"roundtrip/internal/exchange"
	"roundtrip/services/orders/internal/inventory"
	"roundtrip/services/orders/internal/order"
)

// Wire is how orders asks inventory, one attempt at a time, on any wire. It and
// its types have names here for tests that hold both services against each other.
type (
	Wire             = inventory.Wire
	Client           = inventory.Client
	Request          = order.Request
	Reservation      = order.Reservation
	Demand           = order.Demand
	ReservationState = order.ReservationState
)

// NewWire makes the wire that the options name.
func NewWire(o Options) (Wire, error) {
	switch o.InventoryWire {
	case "http":
		return inventory.NewHTTP(o.InventoryURL, o.MaxInFlight, o.Dial)
	case "grpc":
		return inventory.NewGRPC(o.InventoryURL, o.Dial)
	case "nats":
		return inventory.NewNATS(o.InventoryURL, o.NATSCredentials, o.Logger)
	}
	return nil, fmt.Errorf("no wire is called %q", o.InventoryWire)
}

// NewClient makes what asks inventory over a wire for orders' own callers, and
// repeats what may pass.
func NewClient(wire Wire, caller *exchange.Caller) Client { return inventory.New(wire, caller) }
