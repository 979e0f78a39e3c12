package order

import (
	"context"
	"fmt"
	"sync"

	"roundtrip/internal/problem"
)

// fakeClient is an [Inventory] that asks a fakeInventory. Tests inject faults
// between the two.
type fakeClient struct {
	*fakeInventory
	// onPut, if set, replaces the exchange of a PutReservation. It may call deliver
	// to let the request reach inventory, at any time, and may return any answer.
	// onGet does the same for Reservation.
	onPut hook[func(ctx context.Context, r Request, deliver func() (Reservation, error)) (Reservation, error)]
	onGet hook[func(ctx context.Context, id string, deliver func() (Reservation, error)) (Reservation, error)]
	// stock answers [Inventory.Stock].
	stock func(ctx context.Context, skus []string) ([]Level, error)

	mu   sync.Mutex
	sent []Request
}

var _ Inventory = (*fakeClient)(nil)

func (c *fakeClient) PutReservation(ctx context.Context, r Request) (Reservation, error) {
	c.mu.Lock()
	c.sent = append(c.sent, r)
	c.mu.Unlock()
	deliver := func() (Reservation, error) { return c.put(r) }
	if intercept := c.onPut.get(); intercept != nil {
		return intercept(ctx, r, deliver)
	}
	return deliver()
}

func (c *fakeClient) Reservation(ctx context.Context, id string) (Reservation, error) {
	deliver := func() (Reservation, error) { return c.get(id) }
	if intercept := c.onGet.get(); intercept != nil {
		return intercept(ctx, id, deliver)
	}
	return deliver()
}

func (c *fakeClient) Stock(ctx context.Context, skus []string) ([]Level, error) {
	return c.stock(ctx, skus)
}

// requests lists the requests that were sent, each as "seq state".
func (c *fakeClient) requests() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := []string{}
	for _, r := range c.sent {
		list = append(list, fmt.Sprintf("%d %s", r.Seq, r.State))
	}
	return list
}

// connectionLost is the error of a request that inventory may or may not have received.
func connectionLost() error { return problem.New(problem.Unavailable, "The connection broke.") }
