// Package reconcile compares orders with inventory's reservations, reports every
// difference, and repairs it where it is told how.
//
// It runs beside services that are at work, so what it reads of one side may be
// older than what it reads of the other. What differs in the lists is
// therefore looked at by itself, and again after a pause, and is reported only if it
// still is. An order with an unsettled intent is in flight; it is counted, and is no
// difference unless inventory has long decided what it waits for.
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
	// pause is how long what looks different has to settle before it is looked
	// at again: longer than a deadline, after which nothing is in flight.
	pause    = 6 * time.Second
	pageSize = 200
	// most is how many orders and reservations wait for their other side. Beyond
	// that they are looked at one by one, as workers many at the same time.
	maxWaiting = 10_000
	workers    = 8
	// overdue is how old an intent is that inventory has decided and that should
	// have settled by now. Repairing it does not have to wait for that: until then
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

// Repair brings an order into line with its reservation, both as they were read,
// and returns it as it is then: [order.RepairOrder].
type Repair func(context.Context, order.Order, order.Reservation) (order.Order, error)

// Report counts what an audit found.
type Report struct {
	Orders, Reservations int
	// Unsettled orders have an intent in flight.
	Unsettled int
	// Differences were said; Remaining are those that were not repaired.
	Differences, Remaining int
}

// Reconciliation compares both sides.
type Reconciliation struct {
	Orders    Orders
	Inventory Inventory
	// Repair is nil where differences are only to be reported.
	Repair Repair
	// OnDifference is given one sentence for each difference, in the order of the orders'
	// ids, with what was done about it once that is done.
	OnDifference func(string)
}

// Run compares every order with its reservation, and looks for reservations
// without an order. Differences are repaired one order at a time.
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

// read reads both lists to their ends, and returns the ids of what differs, also
// when it is looked at by itself. Both have the newest first, so the two sides of an
// order are read at about the same time.
func (a Reconciliation) read(ctx context.Context, r *Report) (suspects []string, err error) {
	orders := pages[order.Order]{read: func(cursor string) ([]order.Order, string, error) {
		return a.Orders.Orders(ctx, "", "", order.Page{Cursor: cursor, Limit: pageSize})
	}}
	reservations := pages[order.Reservation]{read: func(cursor string) ([]order.Reservation, string, error) {
		ctx, cancel := context.WithTimeout(ctx, exchange.MaxTimeout)
		defer cancel()
		return a.Inventory.Reservations(ctx, cursor)
	}}
	// Those of which the other side has not been read yet.
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

// next is the next page, or none after the end.
func (p *pages[T]) next() (page []T, err error) {
	if !p.ended {
		page, p.cursor, err = p.read(p.cursor)
		p.ended = p.cursor == ""
	}
	return page, err
}

// look looks at orders by themselves, and returns those that differ.
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

// report says what still differs, and repairs it.
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

// repair says what was done about an order's differences.
func (a Reconciliation) repair(ctx context.Context, o order.Order, r order.Reservation) (done string, repaired bool) {
	ctx, cancel := context.WithTimeout(ctx, exchange.MaxTimeout)
	defer cancel()
	now, err := a.Repair(ctx, o, r)
	switch {
	case problem.CodeOf(err) == problem.PreconditionFailed:
		return "; left alone: the order has changed meanwhile", false
	case err != nil:
		return fmt.Sprintf("; NOT repaired: %v", err), false
	case o.Version == 0:
		return fmt.Sprintf("; made again as %s; its customer, currency and prices are lost", now.State), true
	case o.State == now.State:
		return fmt.Sprintf("; repaired: it is still %s, for a total of %d", now.State, now.Total), true
	}
	return fmt.Sprintf("; repaired: it was %s and is %s, for a total of %d", o.State, now.State, now.Total), true
}

// compare reads an order, then asks inventory for its reservation, and says how they
// differ. An order that is not there has no version.
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
		return order.Order{ID: id}, r, []string{"inventory has a reservation, and there is no such order"}, nil
	}
	return o, r, a.differences(o, r), nil
}

// differences are those that time will not repair.
func (a Reconciliation) differences(o order.Order, r order.Reservation) []string {
	if in := o.Intent; in != nil && in.Seq == r.Seq && a.Repair == nil && time.Since(in.Since) < overdue {
		return nil
	}
	return order.Differences(o, r)
}
