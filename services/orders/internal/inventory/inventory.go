// Package inventory asks inventory for orders: it implements [order.Inventory] over a
// wire.
//
// A [Wire] makes single attempts. Each wire has its own package: httpclient, grpcclient
// and natsclient. [exchange.Caller] adds the deadline, the retries with their budget,
// and the breaker. These are the same for every wire, and so are the rules for an
// answer. The package's types belong to orders. They contain what orders relies on; an
// answer may contain more.
package inventory

import (
	"context"
	"net"

	"roundtrip/internal/exchange"
	"roundtrip/internal/failpoint"
	"roundtrip/services/orders/internal/order"
)

// Wire makes one attempt of an exchange. Its errors are the same as those of
// [order.Inventory]. If it can't connect, the error is [exchange.Unreachable].
type Wire interface {
	PutReservation(ctx context.Context, attempt int, r order.Request) (order.Reservation, error)
	GetReservation(ctx context.Context, attempt int, id string) (order.Reservation, error)
	GetStock(ctx context.Context, attempt int, skus []string) ([]order.Level, error)
	Close() error
}

// Dial opens a connection. Tests use their own.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Client asks inventory over a wire.
type Client struct {
	wire Wire
	do   func(context.Context, string, exchange.Attempt) error
}

var _ order.Inventory = Client{}

// New makes a Client for a caller's own exchanges. It retries an attempt that may
// succeed the next time.
func New(wire Wire, caller *exchange.Caller) Client { return Client{wire, caller.Do} }

// NewResending makes a Client for the settler. It sends each request once.
func NewResending(wire Wire, caller *exchange.Caller) Client { return Client{wire, caller.Resend} }

// PutReservation asks inventory to bring a reservation into a state.
func (c Client) PutReservation(ctx context.Context, r order.Request) (answer order.Reservation, err error) {
	err = c.do(ctx, "PutReservation", func(ctx context.Context, n int) (err error) {
		answer, err = c.wire.PutReservation(ctx, n, r)
		failpoint.Hit("exchange-answered", string(r.State))
		return err
	})
	return answer, err
}

// Reservation returns not-found if there is none with that id.
func (c Client) Reservation(ctx context.Context, id string) (answer order.Reservation, err error) {
	err = c.do(ctx, "GetReservation", func(ctx context.Context, n int) (err error) {
		answer, err = c.wire.GetReservation(ctx, n, id)
		return err
	})
	return answer, err
}

// Stock returns the levels of these SKUs.
func (c Client) Stock(ctx context.Context, skus []string) (answer []order.Level, err error) {
	err = c.do(ctx, "GetStock", func(ctx context.Context, n int) (err error) {
		answer, err = c.wire.GetStock(ctx, n, skus)
		return err
	})
	return answer, err
}
