// Package inventory is how orders asks inventory: it implements
// [order.Inventory] over a wire.
//
// A [Wire] makes single attempts. There is a package for each: httpclient,
// grpcclient and natsclient. What is around an attempt (the deadline, the repeats
// and their budget, the breaker) is [exchange.Caller]'s and the same for every
// wire, and so is what an answer must have. The package's types are orders' own:
// they hold what orders relies on, and an answer may hold more.
package inventory

import (
	"context"
	"net"

	"roundtrip/internal/exchange"
	"roundtrip/internal/failpoint"
	"roundtrip/services/orders/internal/order"
)

// Wire makes one attempt of each exchange. Its errors are those of
// [order.Inventory]; one that could not connect is [exchange.Unreachable].
type Wire interface {
	PutReservation(ctx context.Context, attempt int, r order.Request) (order.Reservation, error)
	GetReservation(ctx context.Context, attempt int, id string) (order.Reservation, error)
	GetStock(ctx context.Context, attempt int, skus []string) ([]order.Level, error)
	Close() error
}

// Dial opens a connection. Tests have one of their own.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Client asks inventory over a wire.
type Client struct {
	wire Wire
	do   func(context.Context, string, exchange.Attempt) error
}

var _ order.Inventory = Client{}

// New makes a Client for a caller's own exchanges, which repeats what may pass.
func New(wire Wire, caller *exchange.Caller) Client { return Client{wire, caller.Do} }

// NewResending makes a Client for the settler, which sends once.
func NewResending(wire Wire, caller *exchange.Caller) Client { return Client{wire, caller.Resend} }

// PutReservation asks for a reservation to be in a state.
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
