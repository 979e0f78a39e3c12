// Package audit compares orders with inventory's reservations and reports every
// difference.
//
// It runs beside services that are at work, so what it reads of one side may be
// older than what it reads of the other. Whatever looks different is therefore
// looked at again after a pause, and is reported only if it still is. An order
// with an unsettled intent is in flight and is no difference; it is counted.
package audit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

const (
	// pause is how long what looks different has to settle before it is looked
	// at again: longer than a deadline, after which nothing is in flight.
	pause = 6 * time.Second
	// workers is how many orders are asked about at the same time.
	workers = 8
	page    = 200
)

// Orders is orders' side.
type Orders interface {
	Order(ctx context.Context, id string) (order.Order, error)
	Orders(ctx context.Context, state order.State, customer string, page order.Page) ([]order.Order, string, error)
}

// Inventory is inventory's side.
type Inventory interface {
	GetReservation(ctx context.Context, attempt int, id string) (order.Reservation, error)
	Reservations(ctx context.Context, cursor string) (page []order.Reservation, next string, err error)
}

// Report is what an audit found.
type Report struct {
	Orders, Reservations int
	// Unsettled orders have an intent in flight and were not compared.
	Unsettled int
	// Differences are sentences, sorted.
	Differences []string
}

// Run compares every order with its reservation, and looks for reservations
// without an order.
func Run(ctx context.Context, orders Orders, inventory Inventory) (Report, error) {
	var r Report
	var mu sync.Mutex
	var suspects []string
	suspect := func(id string) {
		mu.Lock()
		defer mu.Unlock()
		suspects = append(suspects, id)
	}
	look := func(ctx context.Context, o order.Order) error {
		if o.Intent != nil {
			mu.Lock()
			defer mu.Unlock()
			r.Unsettled++
			return nil
		}
		differences, err := compare(ctx, o, inventory)
		if err == nil && len(differences) > 0 {
			suspect(o.ID)
		}
		return err
	}
	for cursor := ""; ; {
		batch, next, err := orders.Orders(ctx, "", "", order.Page{Cursor: cursor, Limit: page})
		if err != nil {
			return r, fmt.Errorf("list orders: %w", err)
		}
		r.Orders += len(batch)
		asking, ctx := errgroup.WithContext(ctx)
		asking.SetLimit(workers)
		for _, o := range batch {
			asking.Go(func() error { return look(ctx, o) })
		}
		if err := asking.Wait(); err != nil {
			return r, err
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	for cursor := ""; ; {
		batch, next, err := list(ctx, inventory, cursor)
		if err != nil {
			return r, fmt.Errorf("list reservations: %w", err)
		}
		r.Reservations += len(batch)
		for _, reservation := range batch {
			switch _, err := orders.Order(ctx, reservation.ID); problem.CodeOf(err) {
			case "":
			case problem.NotFound:
				suspect(reservation.ID)
			default:
				return r, fmt.Errorf("read order %s: %w", reservation.ID, err)
			}
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	var err error
	r.Differences, err = again(ctx, suspects, orders, inventory)
	return r, err
}

func list(ctx context.Context, inventory Inventory, cursor string) ([]order.Reservation, string, error) {
	ctx, cancel := context.WithTimeout(ctx, exchange.MaxTimeout)
	defer cancel()
	return inventory.Reservations(ctx, cursor)
}

// again looks at what looked different, after a pause.
func again(ctx context.Context, suspects []string, orders Orders, inventory Inventory) (found []string, err error) {
	if len(suspects) == 0 {
		return nil, nil
	}
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	slices.Sort(suspects)
	for _, id := range slices.Compact(suspects) {
		o, err := orders.Order(ctx, id)
		switch {
		case problem.CodeOf(err) == problem.NotFound:
			found = append(found, fmt.Sprintf("%s: inventory has a reservation, and there is no such order", id))
			continue
		case err != nil:
			return found, fmt.Errorf("read order %s: %w", id, err)
		case o.Intent != nil:
			continue
		}
		differences, err := compare(ctx, o, inventory)
		if err != nil {
			return found, err
		}
		found = append(found, differences...)
	}
	return found, nil
}

// compare says how a settled order and its reservation differ.
func compare(ctx context.Context, o order.Order, inventory Inventory) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, exchange.MaxTimeout)
	defer cancel()
	r, err := inventory.GetReservation(ctx, 1, o.ID)
	if problem.CodeOf(err) == problem.NotFound {
		return []string{fmt.Sprintf("%s: the order is %s, and inventory has never heard of it", o.ID, o.State)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask for reservation %s: %w", o.ID, err)
	}
	var differences []string
	add := func(format string, args ...any) {
		differences = append(differences, o.ID+": "+fmt.Sprintf(format, args...))
	}
	if o.Seq != r.Seq {
		add("the order's seq is %d, the reservation's is %d", o.Seq, r.Seq)
	}
	if !agree(o, r) {
		add("the order is %s, the reservation is %s", o.State, r.State)
		return differences, nil
	}
	if r.State == order.Held || r.State == order.Committed {
		if want, got := merged(o), text(r.Lines); want != got {
			add("the order's lines are %s, the reservation's are %s", want, got)
		}
	}
	return differences, nil
}

// agree tells whether an order's state and its reservation's go together.
func agree(o order.Order, r order.Reservation) bool {
	switch o.State {
	case order.Placed:
		// A hold that has run out is marked by the settler in its time.
		return r.State == order.Held || r.State == order.Lapsed
	case order.Confirmed:
		return r.State == order.Committed
	}
	return r.State != order.Held && r.State != order.Committed
}

// merged is an order's lines as inventory has them: one demand for each SKU and
// location, sorted.
func merged(o order.Order) string {
	sum := map[[2]string]int64{}
	for _, l := range o.Lines {
		sum[[2]string{l.Location, l.SKU}] += l.Quantity
	}
	var demands []order.Demand
	for key, quantity := range sum {
		demands = append(demands, order.Demand{Location: key[0], SKU: key[1], Quantity: quantity})
	}
	return text(demands)
}

func text(demands []order.Demand) string {
	parts := make([]string, len(demands))
	for i, d := range demands {
		parts[i] = fmt.Sprintf("%s/%s:%d", d.Location, d.SKU, d.Quantity)
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}
