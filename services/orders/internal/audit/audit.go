// Package audit compares orders with inventory's reservations, reports every
// difference, and mends it where it is told how.
//
// It runs beside services that are at work, so what it reads of one side may be
// older than what it reads of the other. Whatever looks different is therefore
// looked at again after a pause, and is reported only if it still is. An order
// with an unsettled intent is in flight; it is counted, and is no difference
// unless inventory has long decided what it waits for.
package audit

import (
	"context"
	"fmt"
	"slices"
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
	// workers is how many orders are asked about, or read, at the same time.
	workers = 8
	page    = 200
	// overdue is how old an intent is that inventory has decided and that should
	// have settled by now. Mending it does not have to wait for that: until then
	// it does what the settler would do.
	overdue = 30 * time.Second
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

// Mend brings an order into line with its reservation, both as they were read,
// and returns it as it is then: [order.Repair].
type Mend func(context.Context, order.Order, order.Reservation) (order.Order, error)

// Report counts what an audit found.
type Report struct {
	Orders, Reservations int
	// Unsettled orders have an intent in flight.
	Unsettled int
	// Differences were said; Remaining are those that were not mended.
	Differences, Remaining int
}

// Audit compares both sides.
type Audit struct {
	Orders    Orders
	Inventory Inventory
	// Mend is nil where differences are only to be reported.
	Mend Mend
	// Say is given one sentence for each difference, in the order of the orders'
	// ids, with what was done about it once that is done.
	Say func(string)
}

// Run compares every order with its reservation, and looks for reservations
// without an order. Differences are mended one order at a time.
func (a Audit) Run(ctx context.Context) (Report, error) {
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
			r.Unsettled++
			mu.Unlock()
		}
		_, differences, err := a.compare(ctx, o)
		if len(differences) > 0 {
			suspect(o.ID)
		}
		return err
	}
	for cursor := ""; ; {
		batch, next, err := a.Orders.Orders(ctx, "", "", order.Page{Cursor: cursor, Limit: page})
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
		batch, next, err := a.list(ctx, cursor)
		if err != nil {
			return r, fmt.Errorf("list reservations: %w", err)
		}
		r.Reservations += len(batch)
		reading, ctx := errgroup.WithContext(ctx)
		reading.SetLimit(workers)
		for _, reservation := range batch {
			reading.Go(func() error {
				switch _, err := a.Orders.Order(ctx, reservation.ID); problem.CodeOf(err) {
				case "":
				case problem.NotFound:
					suspect(reservation.ID)
				default:
					return fmt.Errorf("read order %s: %w", reservation.ID, err)
				}
				return nil
			})
		}
		if err := reading.Wait(); err != nil {
			return r, err
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	return r, a.again(ctx, suspects, &r)
}

func (a Audit) list(ctx context.Context, cursor string) ([]order.Reservation, string, error) {
	ctx, cancel := context.WithTimeout(ctx, exchange.MaxTimeout)
	defer cancel()
	return a.Inventory.Reservations(ctx, cursor)
}

// again looks at what looked different, after a pause, and mends what still does.
func (a Audit) again(ctx context.Context, suspects []string, r *Report) error {
	if len(suspects) == 0 {
		return nil
	}
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		return ctx.Err()
	}
	slices.Sort(suspects)
	for _, id := range slices.Compact(suspects) {
		o, err := a.Orders.Order(ctx, id)
		missing := problem.CodeOf(err) == problem.NotFound
		if err != nil && !missing {
			return fmt.Errorf("read order %s: %w", id, err)
		}
		if missing {
			o = order.Order{ID: id}
		}
		reservation, differences, err := a.compare(ctx, o)
		if err != nil {
			return err
		}
		if missing {
			differences = []string{"inventory has a reservation, and there is no such order"}
		}
		if len(differences) == 0 {
			continue
		}
		done, mended := "", false
		if a.Mend != nil {
			done, mended = a.mend(ctx, o, reservation)
		}
		for _, difference := range differences {
			r.Differences++
			if !mended {
				r.Remaining++
			}
			a.Say(id + ": " + difference + done)
		}
	}
	return nil
}

// mend says what was done about an order's differences.
func (a Audit) mend(ctx context.Context, o order.Order, r order.Reservation) (done string, mended bool) {
	ctx, cancel := context.WithTimeout(ctx, exchange.MaxTimeout)
	defer cancel()
	now, err := a.Mend(ctx, o, r)
	switch {
	case problem.CodeOf(err) == problem.PreconditionFailed:
		return "; left alone: the order has changed meanwhile", false
	case err != nil:
		return fmt.Sprintf("; NOT mended: %v", err), false
	case o.Version == 0:
		return fmt.Sprintf("; made again as %s; its customer, currency and prices are lost", now.State), true
	case o.State == now.State:
		return fmt.Sprintf("; mended: it is still %s, for a total of %d", now.State, now.Total), true
	}
	return fmt.Sprintf("; mended: it was %s and is %s, for a total of %d", o.State, now.State, now.Total), true
}

// compare asks inventory for an order's reservation and says how they differ.
func (a Audit) compare(ctx context.Context, o order.Order) (order.Reservation, []string, error) {
	ctx, cancel := context.WithTimeout(ctx, exchange.MaxTimeout)
	defer cancel()
	r, err := a.Inventory.GetReservation(ctx, 1, o.ID)
	if problem.CodeOf(err) == problem.NotFound {
		r, err = order.Reservation{ID: o.ID, State: order.None}, nil
	}
	if err == nil && r.ID != o.ID {
		err = order.ErrUnexplained
	}
	if err != nil {
		return r, nil, fmt.Errorf("ask for reservation %s: %w", o.ID, err)
	}
	if in := o.Intent; in != nil && in.Seq == r.Seq && a.Mend == nil && time.Since(in.Since) < overdue {
		return r, nil, nil
	}
	return r, order.Differences(o, r), nil
}
