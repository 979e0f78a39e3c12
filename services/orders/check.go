package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

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
	URL string `help:"The orders to ask." default:"http://127.0.0.1:8080"`
}

// Run places the order, and wants inventory's own refusal.
func (c checkCommand) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*exchange.MaxTimeout)
	defer cancel()
	id := "check-" + uuid.NewString()
	body := fmt.Sprintf(`{"customer": "check", "currency": "XXX", "hold_seconds": 1, "lines": [{"sku": %q, "quantity": 1, "unit_price": 0}]}`, id)
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, strings.TrimSuffix(c.URL, "/")+"/v1/orders/"+id, strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return service.Exit(service.ExitDifference, fmt.Errorf("orders does not answer: %w", err))
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, rest.MaxBody))
	if err != nil {
		return service.Exit(service.ExitDifference, fmt.Errorf("orders does not answer: %w", err))
	}
	if response.StatusCode == http.StatusAccepted {
		return service.Exit(service.ExitDifference, fmt.Errorf("orders has recorded order %s, but has no answer of inventory's: look at its log, which says why", id))
	}
	if p := rest.ReadProblem(response.StatusCode, response.Header, answer); problem.CodeOf(p) != problem.InsufficientStock {
		return service.Exit(service.ExitDifference, fmt.Errorf("an order of what nobody has is to be refused as insufficient-stock, and is answered with %d: %w", response.StatusCode, p))
	}
	fmt.Printf("order %s of what nobody has is refused by inventory, as it should be\n", id)
	return nil
}
