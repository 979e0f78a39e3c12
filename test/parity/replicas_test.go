package parity

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"roundtrip/internal/problem"
	inventory "roundtrip/services/inventory/app"
	"roundtrip/services/orders/orderstest"
	"roundtrip/test/support/inprocess"
)

// A slow request does not delay others. The test counts handlers that run at the
// same time; it measures no time.
func TestSlowRequestsRunConcurrently(t *testing.T) {
	t.Parallel()
	const callers = 20
	for _, wire := range wires {
		f := start(t, 64)
		var all sync.WaitGroup
		all.Add(callers)
		slow := func(_ string, handle func() error) error {
			all.Done()
			all.Wait() // no handler continues before all have started
			return handle()
		}
		f.around.Store(&slow)
		var done sync.WaitGroup
		for i := range callers {
			done.Go(func() {
				_, err := f.wires[wire].GetReservation(deadline(t), 1, fmt.Sprint("unknown-", i))
				if problem.CodeOf(err) != problem.NotFound {
					t.Errorf("%s: %v", wire, err)
				}
			})
		}
		done.Wait()
		f.around.Store(nil)
	}
}

// A rollout replaces every replica within seconds. Orders resolves the name again
// when it loses the old replicas, and finds the new ones.
func TestReplacedReplicasAreFound(t *testing.T) {
	t.Parallel()
	addresses := map[string]string{}
	var replicas [2]*inprocess.Inventory
	for i := range replicas {
		replicas[i] = inprocess.StartInventory(t, inventory.Options{MaxInFlight: 512})
		addresses[net.JoinHostPort(replicaIPs[i].String(), "8082")] = replicas[i].GRPCAddr
	}
	old, replaced := replicaIPs[:1], replicaIPs[1:]
	movingIPs.Store(&old)
	w := newWire(t, orderstest.WireOptions{Wire: "grpc", URL: "dns:///" + movingName + ":8082", Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
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
	start := time.Now()
	var err error
	for time.Since(start) < 15*time.Second { // gRPC alone would resolve again after twice that time
		if err = ask(deadline(t)); err == nil {
			return
		}
	}
	t.Errorf("orders does not find the new replica: %v", err)
}

// Two replicas share the requests: one of them executes each, once. No request
// fails when one replica stops under load. On NATS the replicas are members of a
// queue group; on gRPC they are two addresses of one name. (On HTTP a load
// balancer shares requests.)
func TestReplicasShareRequests(t *testing.T) {
	t.Parallel()
	for _, wire := range []string{"grpc", "nats"} {
		t.Run(wire, func(t *testing.T) {
			t.Parallel()
			broker := inprocess.StartNATS(t, server.RANDOM_PORT).ClientURL()
			var executed [2]atomic.Int64
			var replicas [2]*inprocess.Inventory
			addresses := map[string]string{}
			for i := range replicas {
				replicas[i] = inprocess.StartInventory(t, inventory.Options{NATSURL: broker, MaxInFlight: 512, Around: func(operation string, handle func() error) error {
					if operation == "PutReservation" {
						executed[i].Add(1)
					}
					return handle()
				}})
				addresses[net.JoinHostPort(replicaIPs[i].String(), "8082")] = replicas[i].GRPCAddr
			}
			w := newWire(t, orderstest.WireOptions{
				Wire: wire, URL: map[string]string{"grpc": "dns:///" + replicasName + ":8082", "nats": broker}[wire],
				Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, addresses[address])
				},
			})
			ctx := deadline(t)
			for i := range replicas { // until orders is connected to both
				for executed[i].Load() == 0 {
					_, err := w.PutReservation(ctx, 1, orderstest.Request{ID: "first", Seq: 1, State: "released"})
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

// requests is how many requests [putAll] sends.
const requests = 1000

// putAll sends all requests from 20 callers and calls halfway after half of them.
// No request may fail.
func putAll(t *testing.T, client orderstest.Client, name string, halfway func()) {
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
				if _, err := client.PutReservation(deadline(t), orderstest.Request{ID: id, Seq: 1, State: "released"}); err != nil {
					t.Errorf("%s: %v", id, err)
				}
			}
		})
	}
	callers.Wait()
}

// Without its NATS server a request fails at once and is never executed, even after
// the server returns. Then orders reconnects.
func TestNATSServerOutage(t *testing.T) {
	t.Parallel()
	broker := inprocess.StartNATS(t, server.RANDOM_PORT)
	url, port := broker.ClientURL(), broker.Addr().(*net.TCPAddr).Port
	var executed sync.Map
	inprocess.StartInventory(t, inventory.Options{NATSURL: url, MaxInFlight: 64, Around: func(operation string, handle func() error) error {
		executed.Store(operation, true)
		return handle()
	}})
	w := newWire(t, orderstest.WireOptions{Wire: "nats", URL: url})
	waitConnected(t, w)

	inprocess.StopNATS(broker)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := w.PutReservation(ctx, 1, orderstest.Request{ID: "lost", Seq: 1, State: "released"})
		cancel()
		if problem.CodeOf(err) == problem.Unavailable {
			break // orders has noticed
		}
	}
	executed.Clear()
	for i := range 100 {
		_, err := w.PutReservation(deadline(t), 1, orderstest.Request{ID: fmt.Sprint("late-", i), Seq: 1, State: "released"})
		if problem.CodeOf(err) != problem.Unavailable {
			t.Fatalf("without a NATS server: %v", err)
		}
	}
	inprocess.StartNATS(t, port)
	waitConnected(t, w)
	if _, ok := executed.Load("PutReservation"); ok {
		t.Error("a request was executed after its caller gave up")
	}
}
