package order

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// While inventory is unreachable, the settler tries one order at a time. As soon as
// inventory answers, it resends all of them.
func TestSettlerProbesUnreachableInventory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		h.client.onHand[levelKey{MainLocation, "a"}], h.client.onHand[levelKey{"east", "b"}] = 1000, 1000
		h.dropRequests()
		for i := range 100 {
			h.mustPlace(fmt.Sprintf("order-%03d", i))
		}
		h.unreachable.Store(true)
		var perSecond sync.Map // by Unix second; the values are *atomic.Int64
		back := time.Now().Add(15*time.Second - time.Millisecond)
		h.client.onPut.set(func(_ context.Context, _ Request, deliver func() (Reservation, error)) (Reservation, error) {
			n, _ := perSecond.LoadOrStore(time.Now().Unix(), new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
			if time.Now().Before(back) {
				return Reservation{}, connectionLost()
			}
			h.unreachable.Store(false)
			return deliver()
		})
		defer h.runSettler(discardLogger())()
		advance(14500 * time.Millisecond)
		probes := 0
		perSecond.Range(func(_, n any) bool {
			probes++
			if n := n.(*atomic.Int64).Load(); n != 1 {
				t.Errorf("there were %d probes in one second, want 1", n)
			}
			return true
		})
		if probes != 8 { // at 7, 8, … 14 s
			t.Errorf("there were %d probes, want 8", probes)
		}
		advance(time.Second)
		settled := 0
		for i := range 100 {
			if h.order(fmt.Sprintf("order-%03d", i)).State == Placed {
				settled++
			}
		}
		// The probed orders stay leased for a while.
		if settled < 92 {
			t.Errorf("%d orders are settled a second after inventory returned, want at least 92", settled)
		}
		advance(lease)
		for i := range 100 {
			h.wantState(fmt.Sprintf("order-%03d", i), Placed, "")
		}
	})
}

// Another replica may have settled every intent. Then only a probe finds that inventory
// is reachable again. Until then places are refused.
func TestSettlerProbesWithNothingToSettle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		asked := 0
		h.client.onGet.set(func(_ context.Context, _ string, deliver func() (Reservation, error)) (Reservation, error) {
			if asked++; asked < 3 {
				return Reservation{}, connectionLost()
			}
			h.unreachable.Store(false)
			return deliver()
		})
		defer h.runSettler(discardLogger())()
		advance(3*settleEvery + 1)
		if asked > 0 {
			t.Errorf("inventory is reachable and was probed %d times", asked)
		}
		h.unreachable.Store(true)
		advance(10 * settleEvery)
		if asked != 3 || h.unreachable.Load() {
			t.Errorf("inventory was probed %d times, away: %t; want 3 and false", asked, h.unreachable.Load())
		}
	})
}
