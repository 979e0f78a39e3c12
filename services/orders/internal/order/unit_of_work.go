package order

import (
	"maps"
	"slices"
	"time"
)

// UnitOfWork holds the orders of a batch of commands while they are decided, one
// after the other, in memory. It belongs to one transaction: when that is
// rolled back, the book and every result it gave are worth nothing.
type UnitOfWork struct {
	now    time.Time
	orders map[string]*Order

	changed map[string]bool
	created map[string]bool
	opened  []OpenedIntent
	closed  []ClosedIntent
}

// OpenedIntent is an intent that a decision wrote down.
type OpenedIntent struct {
	OrderID string
	Intent
}

// ClosedIntent is an intent that a decision ended.
type ClosedIntent struct {
	OrderID string
	Settlement
}

// NewUnitOfWork opens a book on the orders that were loaded and locked.
func NewUnitOfWork(now time.Time, orders []Order) *UnitOfWork {
	b := &UnitOfWork{now: now, orders: make(map[string]*Order, len(orders)), changed: map[string]bool{}, created: map[string]bool{}}
	for _, o := range orders {
		b.orders[o.ID] = &o
	}
	return b
}

// Decide decides one command. Commands of a batch are decided in the order in
// which they arrived, and each sees what the ones before it did.
func (b *UnitOfWork) Decide(c Command) Result { return c.decide(b, b.orders[c.OrderID()]) }

// Changes is what has to be written, all or nothing.
type Changes struct {
	// Orders are new or changed, sorted by id; Created has the ids of the new ones.
	Orders  []Order
	Created map[string]bool
	// Opened are new intents; Closed are the ends of intents that are stored or
	// among Opened. An intent's end comes after its beginning.
	Opened []OpenedIntent
	Closed []ClosedIntent
}

// Empty reports whether there is nothing to write.
func (c Changes) Empty() bool { return len(c.Orders) == 0 }

// Changes lists all that the decisions so far have changed.
func (b *UnitOfWork) Changes() Changes {
	c := Changes{Created: b.created, Opened: b.opened, Closed: b.closed}
	for _, id := range slices.Sorted(maps.Keys(b.changed)) {
		c.Orders = append(c.Orders, *b.orders[id])
	}
	return c
}
