package order

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Random histories of operations, lost and late messages, lost commits, crashes,
// settlers and passing time keep invariants 1 to 6 at every step. They keep
// invariants 5 and 7 once faults have stopped and the settler has run.
func TestInvariantsHoldInRandomHistories(t *testing.T) {
	t.Parallel()
	for i := range 8 { // one check has a hundred histories, too few for all combinations
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, checkRandomHistory)
		})
	}
}

func checkRandomHistory(t *rapid.T) {
	sim := newSimulation(t)
	defer sim.crashAll()
	sim.play("steps", 250, append(sim.actions(), sim.startRepair))
	sim.settleAll()
	// Orders and inventory never diverged, so no repair may have changed an order.
	if len(sim.store.repaired) > 0 {
		sim.Fatalf("a repair changed %+v, although nothing had diverged", sim.store.repaired)
	}
}

// settleAll stops the faults. All tasks finish and late requests arrive. One round
// of the settler must then leave no intent.
func (sim *simulation) settleAll() {
	for len(sim.tasks) > 0 {
		sim.deliverLate()
		sim.finishOne()
	}
	for {
		o := sim.drawOrder(func(o Order) bool { return o.Intent != nil })
		if o == nil {
			break
		}
		s := rapid.SampledFrom([]*Settler{sim.retryingSettler, sim.givingUpSettler}).Draw(sim.T, "settler")
		sim.finish(sim.spawn("settler", func(ctx context.Context, _ *task) { s.resend(ctx, *o) }))
		if again := sim.store.orders[o.ID]; again.Intent != nil {
			sim.Fatalf("there are no faults any more, but %s has not settled: %+v", o.ID, again)
		}
		sim.deliverLate()
		sim.checkInvariants()
	}
	sim.now = sim.now.Add(time.Hour)
	for _, id := range slices.Sorted(maps.Keys(sim.store.orders)) {
		if o, _ := sim.store.find(id); o.State == Placed {
			sim.finish(sim.spawn("settler", func(ctx context.Context, _ *task) { sim.retryingSettler.markExpired(ctx, o) }))
		}
	}
	// Requests that arrive now are too late to change anything.
	settled := maps.Clone(sim.store.orders)
	for _, r := range sim.lateRequests {
		_, _ = sim.client.fakeInventory.put(r)
	}
	sim.checkInvariants()
	left := maps.Clone(sim.initialStock)
	for id, o := range sim.store.orders {
		if !reflect.DeepEqual(o, settled[id]) || o.State == Pending || o.State == Placed {
			sim.Fatalf("in the end %s is %+v", id, o)
		}
		if o.State == Confirmed {
			for _, l := range o.Lines {
				left[levelKey{l.Location, l.SKU}] -= l.Quantity
			}
		}
	}
	sim.client.expire()
	for at, n := range left {
		if sim.client.onHand[at] != n || sim.client.available(at, nil) != n {
			sim.Fatalf("in the end %v has %d on hand, %d available; want %d by the orders", at, sim.client.onHand[at], sim.client.available(at, nil), n)
		}
	}
}

// Random histories in which the database of orders is restored from a backup while
// requests are still in flight. Callers, settlers and repairs then run at the same time.
// Once faults have stopped, repairs end every difference, and all invariants hold again.
func TestInvariantsHoldAfterRestoreAndRepair(t *testing.T) {
	t.Parallel()
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				sim := newSimulation(t)
				defer sim.crashAll()
				sim.play("before the backup", 60, sim.actions())
				backup := sim.store.snapshot()
				sim.play("after the backup", 100, sim.actions())
				sim.restore(backup)
				sim.play("after the restore", 100, append(sim.actions(), sim.startRepair, sim.startRepair))
				sim.repairAll()
				sim.play("after the repair", 60, append(sim.actions(), sim.startRepair))
				sim.settleAll()
			})
		})
	}
}

// restore crashes all tasks and restores the store. The requests that were sent
// since the backup are still in flight.
func (sim *simulation) restore(backup *fakeStore) {
	sim.crashAll()
	sim.diverged = true
	sim.store.orders, sim.store.intents, sim.store.leased = backup.orders, backup.intents, backup.leased
	sim.store.history = backup.history
}

// repairAll stops the faults and repairs until orders and inventory agree.
func (sim *simulation) repairAll() {
	for len(sim.tasks) > 0 {
		sim.finishOne()
	}
	for _, r := range sim.lateRequests {
		_, _ = sim.client.fakeInventory.put(r)
	}
	sim.lateRequests = nil
	// One round repairs the orders. Settling the intents that remain may need
	// another seq that inventory has already used.
	for range 3 {
		for _, id := range sim.ids() {
			sim.finish(sim.spawn("repair", func(ctx context.Context, _ *task) { _, _ = repair(ctx, sim.store, sim.client, id) }))
			if o, ok := sim.store.find(id); ok && o.Intent != nil {
				sim.finish(sim.spawn("settler", func(ctx context.Context, _ *task) { sim.retryingSettler.resend(ctx, o) }))
			}
		}
	}
	for _, id := range sim.ids() {
		o, found := sim.store.find(id)
		r, err := sim.client.get(id)
		if known := err == nil; found != known || found && (o.Intent != nil || Differences(o, r) != nil) {
			sim.Fatalf("after repairs %s is\n%+v %+v, and inventory has %+v, %v", id, o, o.Intent, r, err)
		}
	}
	sim.diverged, sim.alarms, sim.alarmingAnswers = false, nil, 0
	clear(sim.rejections)
	sim.checkInvariants()
}
