package parity

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"roundtrip/internal/problem"
	inventory "roundtrip/services/inventory/app"
	orders "roundtrip/services/orders/app"
)

// A slow request keeps no other from being worked on: counted, not timed.
func TestSlowRequestsAreWorkedOnTogether(t *testing.T) {
	t.Parallel()
	const callers = 20
	for _, wire := range wires {
		s := start(t, 64)
		var together sync.WaitGroup
		together.Add(callers)
		slow := func(_ string, handle func() error) error {
			together.Done()
			together.Wait() // none goes on before all are here
			return handle()
		}
		s.around.Store(&slow)
		var done sync.WaitGroup
		for i := range callers {
			done.Go(func() {
				_, err := s.wires[wire].GetReservation(deadline(t), 1, fmt.Sprint("nobody-", i))
				if problem.CodeOf(err) != problem.NotFound {
					t.Errorf("%s: %v", wire, err)
				}
			})
		}
		done.Wait()
		s.around.Store(nil)
	}
}

// A rollout replaces every replica within seconds, and orders finds the new ones:
// it looks the name up again when it loses the old.
func TestReplicasThatAreAllReplacedAreFound(t *testing.T) {
	t.Parallel()
	addresses := map[string]string{}
	var replicas [2]*inventory.App
	for i := range replicas {
		a, grpc := startInventory(t, "", 512, func(_ string, handle func() error) error { return handle() })
		replicas[i], addresses[net.JoinHostPort(replicaIPs[i].String(), "8082")] = a, strings.TrimPrefix(grpc, "dns:///")
	}
	old, replaced := replicaIPs[:1], replicaIPs[1:]
	movingIPs.Store(&old)
	w := newWire(t, orders.Options{InventoryWire: "grpc", InventoryURL: "dns:///" + movingName + ":8082", Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addresses[address])
	}})
	ask := func(ctx context.Context) error {
		_, err := w.GetStock(ctx, 1, []string{"a"})
		return err
	}
	if err := ask(deadline(t)); err != nil {
		t.Fatal(err)
	}
	movingIPs.Store(&replaced)
	if err := replicas[0].Stop(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var err error
	for time.Since(began) < 15*time.Second { // half of what the library waits by itself
		if err = ask(deadline(t)); err == nil {
			return
		}
	}
	t.Errorf("the new replica is not found: %v", err)
}

// Two replicas share the requests: each is executed once, by one of them, and
// one that stops under load lets none fail. On NATS they are members of a queue
// group; on gRPC they are two addresses of one name. (On HTTP the share is a
// matter of what is in front of them.)
func TestReplicasShareTheRequests(t *testing.T) {
	t.Parallel()
	for _, wire := range []string{"grpc", "nats"} {
		t.Run(wire, func(t *testing.T) {
			t.Parallel()
			broker := startBroker(t, server.RANDOM_PORT).ClientURL()
			var executed [2]atomic.Int64
			var replicas [2]*inventory.App
			addresses := map[string]string{}
			for i := range replicas {
				a, grpc := startInventory(t, broker, 512, func(operation string, handle func() error) error {
					if operation == "PutReservation" {
						executed[i].Add(1)
					}
					return handle()
				})
				replicas[i], addresses[net.JoinHostPort(replicaIPs[i].String(), "8082")] = a, strings.TrimPrefix(grpc, "dns:///")
			}
			w := newWire(t, orders.Options{
				InventoryWire: wire, InventoryURL: map[string]string{"grpc": "dns:///" + replicasName + ":8082", "nats": broker}[wire],
				Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, addresses[address])
				},
			})
			ctx := deadline(t)
			for i := range replicas { // until orders has met both
				for executed[i].Load() == 0 {
					_, err := w.PutReservation(ctx, 1, orders.Request{ID: "first", Seq: 1, State: "released"})
					if err != nil && problem.CodeOf(err) != problem.Unavailable {
						t.Fatal(err)
					}
				}
			}
			client := newClient(w)
			reset := func() (a, b int64) { return executed[0].Swap(0), executed[1].Swap(0) }

			reset()
			putAll(t, client, "both", func() {})
			if a, b := reset(); a+b != requests || min(a, b) < requests/10 {
				t.Errorf("the replicas executed %d and %d of %d requests", a, b, requests)
			}
			putAll(t, client, "one", func() {
				if err := replicas[0].Stop(context.WithoutCancel(t.Context())); err != nil {
					t.Error(err)
				}
			})
			if a, b := reset(); a+b != requests || b < requests/2 {
				t.Errorf("while one stopped the replicas executed %d and %d of %d requests", a, b, requests)
			}
		})
	}
}

// requests is how many [putAll] makes.
const requests = 1000

// putAll makes all requests by 20 callers, and calls halfway in between. None may
// fail.
func putAll(t *testing.T, client orders.Client, name string, halfway func()) {
	t.Helper()
	var next atomic.Int64
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			for n := next.Add(1); n <= requests; n = next.Add(1) {
				if n == requests/2 {
					halfway()
				}
				id := fmt.Sprint(name, "-", n)
				if _, err := client.PutReservation(deadline(t), orders.Request{ID: id, Seq: 1, State: "released"}); err != nil {
					t.Errorf("%s: %v", id, err)
				}
			}
		})
	}
	callers.Wait()
}

// Without its NATS server a request fails at once and is never executed, also not
// when the server is back; then it goes on by itself.
func TestANATSServerThatIsAway(t *testing.T) {
	t.Parallel()
	broker := startBroker(t, server.RANDOM_PORT)
	url, port := broker.ClientURL(), broker.Addr().(*net.TCPAddr).Port
	var executed sync.Map
	_, _ = startInventory(t, url, 64, func(operation string, handle func() error) error {
		executed.Store(operation, true)
		return handle()
	})
	w := newWire(t, orders.Options{InventoryWire: "nats", InventoryURL: url})
	connected(t, w)

	stopBroker(broker)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := w.PutReservation(ctx, 1, orders.Request{ID: "lost", Seq: 1, State: "released"})
		cancel()
		if problem.CodeOf(err) == problem.Unavailable {
			break // it has noticed
		}
	}
	executed.Clear()
	for i := range 100 {
		_, err := w.PutReservation(deadline(t), 1, orders.Request{ID: fmt.Sprint("late-", i), Seq: 1, State: "released"})
		if problem.CodeOf(err) != problem.Unavailable {
			t.Fatalf("without a server: %v", err)
		}
	}
	startBroker(t, port)
	connected(t, w)
	if _, ok := executed.Load("PutReservation"); ok {
		t.Error("a request was executed after its caller had given up")
	}
}
