package parity

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"roundtrip/internal/exchange"
	inventory "roundtrip/services/inventory/app"
	orders "roundtrip/services/orders/app"
)

var down = flag.Duration("down", 5*time.Second, "for how long inventory is away, in the test of that")

// Inventory stops under load, stays away, and comes back in the same place.
// Meanwhile callers go on asking, as orders' own do. What was asked in vain is
// never executed later, and all goes on by itself soon after the return.
func TestAnInventoryThatIsAwayForLong(t *testing.T) {
	t.Parallel()
	for _, wire := range wires {
		t.Run(wire, func(t *testing.T) {
			t.Parallel()
			broker := startBroker(t, server.RANDOM_PORT).ClientURL()
			var executed, succeeded, failed atomic.Int64
			o := inventory.Options{
				NATSURL: broker, MaxInFlight: 64, Logger: slog.New(slog.DiscardHandler),
				Around: func(_ string, handle func() error) error {
					executed.Add(1)
					return handle()
				},
			}
			at := listeners{listen(t), listen(t)}
			http, grpc := at.http.Addr().String(), at.grpc.Addr().String()
			a := startInventoryAt(t, at, o)
			w := newWire(t, orders.Options{
				InventoryWire: wire, InventoryURL: map[string]string{"http": "http://" + http, "grpc": "dns:///" + grpc, "nats": broker}[wire],
			})
			connected(t, w)
			executed.Store(0)

			client := newClient(w)
			loading, stop := context.WithTimeout(t.Context(), *down+time.Minute)
			var callers sync.WaitGroup
			for caller := range 4 {
				callers.Go(func() {
					for n := 0; loading.Err() == nil; n++ {
						ctx, cancel := context.WithTimeout(context.WithoutCancel(loading), exchange.MaxTimeout)
						_, err := client.PutReservation(ctx, orders.Request{ID: fmt.Sprintf("c%d-%d", caller, n), Seq: 1, State: "released"})
						cancel()
						if err != nil {
							failed.Add(1)
							time.Sleep(10 * time.Millisecond) // the breaker answers at once
							continue
						}
						succeeded.Add(1)
					}
				})
			}
			await := func(count *atomic.Int64, more int64) time.Duration {
				t.Helper()
				began, from := time.Now(), count.Load()
				for count.Load() < from+more {
					if loading.Err() != nil {
						t.Fatalf("of %d more there are %d", more, count.Load()-from)
					}
					time.Sleep(time.Millisecond)
				}
				return time.Since(began)
			}
			await(&succeeded, 100)
			if err := a.Stop(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
			await(&failed, 1)
			time.Sleep(*down)
			inVain := failed.Load()
			startInventoryAt(t, listeners{listenAt(t, http), listenAt(t, grpc)}, o)
			took := await(&succeeded, 1)
			await(&succeeded, 100)
			stop()
			callers.Wait()

			t.Logf("away for %s: %d requests in vain; the first one succeeded %s after the return", *down, inVain, took.Round(time.Millisecond))
			if took > 15*time.Second {
				t.Errorf("orders has found inventory only %s after its return", took)
			}
			if executed.Load() != succeeded.Load() {
				t.Errorf("%d requests were executed, %d answered", executed.Load(), succeeded.Load())
			}
		})
	}
}

// listenAt listens where somebody listened before.
func listenAt(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
