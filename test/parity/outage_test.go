package parity

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"roundtrip/internal/exchange"
	inventory "roundtrip/services/inventory/app"
	"roundtrip/services/orders/orderstest"
	"roundtrip/test/support/inprocess"
)

var down = flag.Duration("down", 5*time.Second, "how long inventory is down in TestLongInventoryOutage")

// Inventory stops under load and returns later at the same addresses. Callers keep
// sending requests, as orders does. A request that failed is never executed later,
// and orders reconnects soon after the return.
func TestLongInventoryOutage(t *testing.T) {
	t.Parallel()
	for _, wire := range wires {
		t.Run(wire, func(t *testing.T) {
			t.Parallel()
			broker := inprocess.StartNATS(t, server.RANDOM_PORT).ClientURL()
			var executed, succeeded, failed atomic.Int64
			o := inventory.Options{
				NATSURL: broker, MaxInFlight: 64,
				Around: func(_ string, handle func() error) error {
					executed.Add(1)
					return handle()
				},
			}
			i := inprocess.StartInventory(t, o)
			w := newWire(t, orderstest.WireOptions{Wire: wire, URL: i.URL(wire)})
			waitConnected(t, w)
			executed.Store(0)

			client := newClient(w)
			loading, stop := context.WithTimeout(t.Context(), *down+time.Minute)
			var callers sync.WaitGroup
			for caller := range 4 {
				callers.Go(func() {
					for n := 0; loading.Err() == nil; n++ {
						ctx, cancel := context.WithTimeout(context.WithoutCancel(loading), exchange.MaxTimeout)
						_, err := client.PutReservation(ctx, orderstest.Request{ID: fmt.Sprintf("c%d-%d", caller, n), Seq: 1, State: "released"})
						cancel()
						if err != nil {
							failed.Add(1)
							time.Sleep(10 * time.Millisecond) // an open breaker refuses at once
							continue
						}
						succeeded.Add(1)
					}
				})
			}
			await := func(count *atomic.Int64, more int64) time.Duration {
				t.Helper()
				start, from := time.Now(), count.Load()
				for count.Load() < from+more {
					if loading.Err() != nil {
						t.Fatalf("got %d of %d requests", count.Load()-from, more)
					}
					time.Sleep(time.Millisecond)
				}
				return time.Since(start)
			}
			await(&succeeded, 100)
			if err := i.Stop(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
			await(&failed, 1)
			time.Sleep(*down)
			failures := failed.Load()
			o.HTTP, o.GRPC = inprocess.ListenAt(t, i.HTTPAddr), inprocess.ListenAt(t, i.GRPCAddr)
			inprocess.StartInventory(t, o)
			took := await(&succeeded, 1)
			await(&succeeded, 100)
			stop()
			callers.Wait()

			t.Logf("down for %s: %d requests failed; the first success came %s after the return", *down, failures, took.Round(time.Millisecond))
			if took > 15*time.Second {
				t.Errorf("the first success came %s after the return, want at most 15 s", took)
			}
			if executed.Load() != succeeded.Load() {
				t.Errorf("%d requests were executed, %d succeeded", executed.Load(), succeeded.Load())
			}
		})
	}
}
