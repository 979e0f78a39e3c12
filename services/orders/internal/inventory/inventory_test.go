package inventory_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/inventory"
	"roundtrip/services/orders/internal/inventory/wiretest"
	"roundtrip/services/orders/internal/order"
)

// fakeWire answers each attempt with the next of its errors. After the last one it
// succeeds.
type fakeWire struct {
	errs     []error
	attempts []int
}

func (f *fakeWire) next(n int) error {
	f.attempts = append(f.attempts, n)
	if len(f.errs) == 0 {
		return nil
	}
	err := f.errs[0]
	f.errs = f.errs[1:]
	return err
}

func (f *fakeWire) PutReservation(_ context.Context, n int, r order.Request) (order.Reservation, error) {
	return order.Reservation{ID: r.ID, Seq: r.Seq, State: r.State}, f.next(n)
}

func (f *fakeWire) GetReservation(_ context.Context, n int, id string) (order.Reservation, error) {
	return order.Reservation{ID: id}, f.next(n)
}

func (f *fakeWire) GetStock(_ context.Context, n int, skus []string) ([]order.Level, error) {
	return []order.Level{{SKU: skus[0]}}, f.next(n)
}

func (f *fakeWire) Close() error { return nil }

func TestOnlyCallersExchangesAreRetried(t *testing.T) {
	t.Parallel()
	unavailable := problem.New(problem.Unavailable, "")
	shortage := problem.New(problem.InsufficientStock, "")
	for _, c := range []struct {
		name     string
		make     func(inventory.Wire, *exchange.Caller) inventory.Client
		errs     []error
		attempts []int
		code     problem.Code
	}{
		{"answer", inventory.New, nil, []int{1}, ""},
		{"answer to the third attempt", inventory.New, []error{unavailable, unavailable}, []int{1, 2, 3}, ""},
		{"no answer", inventory.New, []error{unavailable, unavailable, unavailable}, []int{1, 2, 3}, problem.Unavailable},
		{"rejection", inventory.New, []error{shortage}, []int{1}, problem.InsufficientStock},
		{"resending, answer", inventory.NewResending, nil, []int{1}, ""},
		{"resending, no answer", inventory.NewResending, []error{unavailable}, []int{1}, problem.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var seen []exchange.CallObservation
				caller := exchange.NewCaller(exchange.Options{Observe: func(o exchange.CallObservation) { seen = append(seen, o) }})
				time.Sleep(time.Minute) // fills the retry budget
				var operations []string
				for operation, ask := range map[string]func(inventory.Client) error{
					"PutReservation": func(c inventory.Client) error { _, err := c.PutReservation(t.Context(), wiretest.Hold); return err },
					"GetReservation": func(c inventory.Client) error { _, err := c.Reservation(t.Context(), "a"); return err },
					"GetStock":       func(c inventory.Client) error { _, err := c.Stock(t.Context(), []string{"a"}); return err },
				} {
					wire := &fakeWire{errs: slices.Clone(c.errs)}
					err := ask(c.make(wire, caller))
					if problem.CodeOf(err) != c.code || !slices.Equal(wire.attempts, c.attempts) {
						t.Errorf("%s: %v after the attempts %v, want %q after %v", operation, err, wire.attempts, c.code, c.attempts)
					}
					operations = append(operations, operation)
				}
				for i, o := range seen {
					if o.Operation != operations[i] || len(o.Attempts) != len(c.attempts) {
						t.Errorf("observed %+v", o)
					}
				}
			})
		})
	}
}
