package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"roundtrip/internal/cli"
	"roundtrip/internal/exchange"
	"roundtrip/internal/lifecycle"
	"roundtrip/internal/problem"
	"roundtrip/internal/restclient"
)

// checkCommand checks that orders and inventory work together. The chart's test runs
// it. It places an order for a SKU that does not exist. Both services decide and
// record that, over the wire that they are configured with. The stock does not change.
// A rejected order remains, which holds nothing.
type checkCommand struct {
	URL    string        `help:"URL of the orders service to check." default:"http://127.0.0.1:8080"`
	Within time.Duration `help:"How long the check may take. A Service reaches a new pod after a short delay." default:"30s"`
}

// Run places the order and expects inventory to reject it. Every attempt uses the same
// id.
func (c checkCommand) Run(ctx context.Context) error {
	id := "check-" + uuid.NewString()
	if err := lifecycle.Retry(ctx, c.Within, func(ctx context.Context) error { return c.place(ctx, id) }); err != nil {
		return cli.Exit(cli.ExitDifference, err)
	}
	fmt.Printf("inventory rejects order %s for lack of stock, as expected\n", id)
	return nil
}

func (c checkCommand) place(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*exchange.MaxTimeout)
	defer cancel()
	body := map[string]any{"customer": "check", "currency": "XXX", "hold_seconds": 1, "lines": []any{map[string]any{"sku": id, "quantity": 1, "unit_price": 0}}}
	client, err := restclient.New(c.URL, restclient.Options{Proxy: http.ProxyFromEnvironment})
	if err != nil {
		return err
	}
	defer client.Close()
	answer, err := client.Send(ctx, 1, http.MethodPut, "/v1/orders/"+id, body)
	if err != nil {
		return fmt.Errorf("orders does not answer: %w", err)
	}
	if answer.Status == http.StatusAccepted {
		return fmt.Errorf("orders has recorded order %s, but has no answer from inventory: the log of orders says why", id)
	}
	if p := answer.Problem(); problem.CodeOf(p) != problem.InsufficientStock {
		return fmt.Errorf("an order for goods that are not in stock should be rejected as insufficient-stock, but the answer is %d: %w", answer.Status, p)
	}
	return nil
}
