package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
	"roundtrip/internal/rest"
	"roundtrip/internal/service"
)

// checkCommand is what the chart's test runs. It places an order of goods that
// nobody has: both services decide and write that down, on whichever wire is
// between them, and nothing of the stock is touched. What it leaves is a rejected
// order, which holds nothing.
type checkCommand struct {
	URL    string        `help:"The orders to ask." default:"http://127.0.0.1:8080"`
	Within time.Duration `help:"How long it may take: a Service leads to a pod only a moment after it is ready." default:"30s"`
}

// Run places the order, the same one each time, and wants inventory's own refusal.
func (c checkCommand) Run(ctx context.Context) error {
	id := "check-" + uuid.NewString()
	if err := service.Patiently(ctx, c.Within, func(ctx context.Context) error { return c.place(ctx, id) }); err != nil {
		return service.Exit(service.ExitDifference, err)
	}
	fmt.Printf("order %s of what nobody has is refused by inventory, as it should be\n", id)
	return nil
}

func (c checkCommand) place(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*exchange.MaxTimeout)
	defer cancel()
	body := fmt.Sprintf(`{"customer": "check", "currency": "XXX", "hold_seconds": 1, "lines": [{"sku": %q, "quantity": 1, "unit_price": 0}]}`, id)
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, strings.TrimSuffix(c.URL, "/")+"/v1/orders/"+id, strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("orders does not answer: %w", err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, rest.MaxBody))
	if err != nil {
		return fmt.Errorf("orders does not answer: %w", err)
	}
	if response.StatusCode == http.StatusAccepted {
		return fmt.Errorf("orders has recorded order %s, but has no answer of inventory's: look at its log, which says why", id)
	}
	if p := rest.ReadProblem(response.StatusCode, response.Header, answer); problem.CodeOf(p) != problem.InsufficientStock {
		return fmt.Errorf("an order of what nobody has is to be refused as insufficient-stock, and is answered with %d: %w", response.StatusCode, p)
	}
	return nil
}
