// Package reconcile compares orders with inventory's reservations and reports every
// difference. If it is given a [Repair], it also repairs them.
//
// It runs while the services run, so what it reads from one side may be older than what
// it reads from the other. It therefore checks again each order that differs in the
// lists: once at the end of a list, and once after a pause. It reports only what still
// differs. An order with an unsettled intent is in flight and is only counted. It is a
// difference only if inventory decided long ago what the order waits for.
package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

const (
	// pause is the time between a difference and the last check of it. It is longer
	// than a deadline, so that no request from before is still in flight.
	pause    = 6 * time.Second
	pageSize = 200
	// maxWaiting is how many orders and reservations may wait for their other side to
	// be read. If there are more, each is checked on its own; workers is how many of
	// them are checked at the same time.
	maxWaiting = 10_000
	workers    = 8
	// overdue is the age at which an unsettled intent is reported if inventory has
	// decided it, because it should have settled by then. A repair does not wait for
	// this age: before it, the repair does the same as the settler.
	overdue = 30 * time.Second
)

// Orders reads orders.
type Orders interface {
	Order(ctx context.Context, id string) (order.Order, error)
	Orders(ctx context.Context, state order.State, customer string, page order.Page) ([]order.Order, string, error)
}

// Inventory reads reservations.
type Inventory interface {
	GetReservation(ctx context.Context, attempt int, id string) (order.Reservation, error)
	Reservations(ctx context.Context, cursor string) (page []order.Reservation, next string, err error)
}

// Repair makes an order agree with its reservation, both as they were read, and returns
// the repaired order. [order.RepairOrder] does this.
type Repair func(context.Context, order.Order, order.Reservation) (order.Order, error)

// Report counts what an audit found.
type Report struct {
	Orders, Reservations int
	// Unsettled orders have an intent in flight.
	Unsettled int
	// Differences is how many were reported. Remaining is how many of them were not
	// repaired.
	Differences, Remaining int
}

// Reconciliation compares both sides.
type Reconciliation struct {
	Orders    Orders
	Inventory Inventory
	// Repair repairs an order. If it is nil, differences are only reported.
	Repair Repair
	// OnDifference is called with one sentence for each difference, sorted by order id.
	// After a repair the sentence also says what was done.
	OnDifference func(string)
}

// Run compares every order with its reservation, and looks for reservations without an
// order. It repairs differences one order at a time.
func (a Reconciliation) Run(ctx context.Context) (Report, error) {
	var r Report
	suspects, err := a.read(ctx, &r)
	if err != nil || len(suspects) == 0 {
		return r, err
	}
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		return r, ctx.Err()
	}
	slices.Sort(suspects)
	return r, a.report(ctx, slices.Compact(suspects), &r)
}

// read reads both lists completely, and returns the ids of the orders that may differ.
// Both lists have the newest first, so the two sides of an order are read at about the
// same time.
func (a Reconciliation) read(ctx context.Context, r *Report) (suspects []string, err error) {
	orders := pages[order.Order]{read: func(cursor string) ([]order.Order, string, error) {
		return a.Orders.Orders(ctx, "", "", order.Page{Cursor: cursor, Limit: pageSize})
	}}
	reservations := pages[order.Reservation]{read: func(cursor string) ([]order.Reservation, string, error) {
		ctx, cancel := context.WithTimeout(ctx, exchange.MaxTimeout)
		defer cancel()
		return a.Inventory.Reservations(ctx, cursor)
	}}
	// These wait for their other side to be read.
	lone, loneReservations := map[string]order.Order{}, map[string]order.Reservation{}
	for !orders.ended || !reservations.ended {
		batch, err := orders.next()
		if err != nil {
			return nil, fmt.Errorf("list orders: %w", err)
		}
		r.Orders += len(batch)
		for _, o := range batch {
			if o.Intent != nil {
				r.Unsettled++
			}
			lone[o.ID] = o
		}
		others, err := reservations.next()
		if err != nil {
			return nil, fmt.Errorf("list reservations: %w", err)
		}
		r.Reservations += len(others)
		for _, reservation := range others {
			loneReservations[reservation.ID] = reservation
		}
		for id, reservation := range loneReservations {
			if o, ok := lone[id]; ok {
				if len(a.differences(o, reservation)) > 0 {
					suspects = append(suspects, id)
				}
				delete(lone, id)
				delete(loneReservations, id)
			}
		}
		if ended := orders.ended && reservations.ended; ended || len(lone)+len(loneReservations) > maxWaiting {
			suspects = slices.AppendSeq(slices.AppendSeq(suspects, maps.Keys(lone)), maps.Keys(loneReservations))
			clear(lone)
			clear(loneReservations)
			if suspects, err = a.recheck(ctx, suspects); err != nil {
				return nil, err
			}
		}
	}
	return suspects, nil
}

// pages is a list that is read page by page.
type pages[T any] struct {
	read   func(cursor string) (page []T, next string, err error)
	cursor string
	ended  bool
}

// next returns the next page, or nil after the last.
func (p *pages[T]) next() (page []T, err error) {
	if !p.ended {
		page, p.cursor, err = p.read(p.cursor)
		p.ended = p.cursor == ""
	}
	return page, err
}

// recheck compares each of these orders on its own, and returns the ids of those that
// differ.
func (a Reconciliation) recheck(ctx context.Context, ids []string) (differ []string, err error) {
	var mu sync.Mutex
	looking, ctx := errgroup.WithContext(ctx)
	looking.SetLimit(workers)
	for _, id := range ids {
		looking.Go(func() error {
			_, _, differences, err := a.compare(ctx, id)
			if len(differences) > 0 {
				mu.Lock()
				defer mu.Unlock()
				differ = append(differ, id)
			}
			return err
		})
	}
	return differ, looking.Wait()
}

// report reports what still differs. It repairs each difference first, if it is to.
func (a Reconciliation) report(ctx context.Context, suspects []string, r *Report) error {
	for _, id := range suspects {
		o, reservation, differences, err := a.compare(ctx, id)
		if err != nil {
			return err
		}
		if len(differences) == 0 {
			continue
		}
		done, repaired := "", false
		if a.Repair != nil {
			done, repaired = a.repair(ctx, o, reservation)
		}
		for _, difference := range differences {
			r.Differences++
			if !repaired {
				r.Remaining++
			}
			a.OnDifference(id + ": " + difference + done)
		}
	}
	return nil
}

// repair repairs an order and says what was done about its differences.
func (a Reconciliation) repair(ctx context.Context, o order.Order, r order.Reservation) (done string, repaired bool) {
	ctx, cancel := context.WithTimeout(ctx, exchange.MaxTimeout)
	defer cancel()
	now, err := a.Repair(ctx, o, r)
	switch {
	case problem.CodeOf(err) == problem.PreconditionFailed:
		return "; not repaired: the order has changed meanwhile", false
	case err != nil:
		return fmt.Sprintf("; NOT repaired: %v", err), false
	case o.Version == 0:
		return fmt.Sprintf("; created again as %s; its customer, currency and prices are lost", now.State), true
	case o.State == now.State:
		return fmt.Sprintf("; repaired: it is still %s, for a total of %d", now.State, now.Total), true
	}
	return fmt.Sprintf("; repaired: it was %s and is %s, for a total of %d", o.State, now.State, now.Total), true
}

// compare reads an order, then asks inventory for its reservation, and says how they
// differ. For an order that does not exist, it returns the id and version 0.
func (a Reconciliation) compare(ctx context.Context, id string) (order.Order, order.Reservation, []string, error) {
	o, err := a.Orders.Order(ctx, id)
	missing := problem.CodeOf(err) == problem.NotFound
	if err != nil && !missing {
		return o, order.Reservation{}, nil, fmt.Errorf("read order %s: %w", id, err)
	}
	ctx, cancel := context.WithTimeout(ctx, exchange.MaxTimeout)
	defer cancel()
	r, err := a.Inventory.GetReservation(ctx, 1, id)
	if problem.CodeOf(err) == problem.NotFound {
		r, err = order.Reservation{ID: id, State: order.ReservationNone}, nil
	}
	if err == nil && r.ID != id {
		err = order.ErrUnexplained
	}
	if err != nil {
		return o, r, nil, fmt.Errorf("ask for reservation %s: %w", id, err)
	}
	if missing {
		return order.Order{ID: id}, r, []string{"inventory has a reservation, but there is no such order"}, nil
	}
	return o, r, a.differences(o, r), nil
}

// differences returns the differences that will not settle without a repair.
func (a Reconciliation) differences(o order.Order, r order.Reservation) []string {
	if in := o.Intent; in != nil && in.Seq == r.Seq && a.Repair == nil && time.Since(in.Since) < overdue {
		return nil
	}
	return order.Differences(o, r)
}
