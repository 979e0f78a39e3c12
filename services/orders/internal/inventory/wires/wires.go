// Package wires makes the wire to inventory that a configuration names.
package wires

import (
	"fmt"
	"log/slog"

	"roundtrip/services/orders/internal/inventory"
	"roundtrip/services/orders/internal/inventory/grpcclient"
	"roundtrip/services/orders/internal/inventory/httpclient"
	"roundtrip/services/orders/internal/inventory/natsclient"
)

// Options configure a wire.
type Options struct {
	// Wire is http, grpc or nats. URL is the address of inventory.
	Wire, URL string
	// NATSCredentials is a file with the credentials for NATS, "" for none.
	NATSCredentials string
	// MaxInFlight is how many HTTP connections are kept open.
	MaxInFlight int
	// Dial opens connections, except to NATS. It may be nil.
	Dial   inventory.Dial
	Logger *slog.Logger
}

// New makes the wire that the options name.
func New(o Options) (inventory.Wire, error) {
	switch o.Wire {
	case "http":
		return httpclient.New(o.URL, o.MaxInFlight, o.Dial)
	case "grpc":
		return grpcclient.New(o.URL, o.Dial)
	case "nats":
		return natsclient.New(o.URL, o.NATSCredentials, o.Logger)
	}
	return nil, fmt.Errorf("unknown wire %q", o.Wire)
}
