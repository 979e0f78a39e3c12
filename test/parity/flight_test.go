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

// Replicas on NATS share the requests: each is executed once, by one of them, and
// one that stops under load loses none.
func TestReplicasOnNATSShareTheRequests(t *testing.T) {
	t.Parallel()
	const requests, callers = 1000, 20
	broker := startBroker(t, server.RANDOM_PORT).ClientURL()
	var executed [2]atomic.Int64
	var replicas [2]*inventory.App
	for i := range replicas {
		replicas[i], _ = startInventory(t, broker, 512, func(operation string, handle func() error) error {
			if operation == "PutReservation" {
				executed[i].Add(1)
			}
			return handle()
		})
	}
	w := newWire(t, "nats", broker)
	connected(t, w)
	var next atomic.Int64
	var done sync.WaitGroup
	stop := sync.OnceFunc(func() {
		if err := replicas[0].Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	for range callers {
		done.Go(func() {
			for {
				n := next.Add(1)
				if n > requests {
					return
				}
				if n == requests/2 {
					stop()
				}
				id := fmt.Sprint("r", n)
				if _, err := w.PutReservation(deadline(t), 1, orders.Request{ID: id, Seq: 1, State: "released"}); err != nil {
					t.Errorf("%s: %v", id, err)
				}
			}
		})
	}
	done.Wait()
	a, b := executed[0].Load(), executed[1].Load()
	if a+b != requests || a == 0 || b < requests/2 {
		t.Errorf("the replicas executed %d and %d of %d requests", a, b, requests)
	}
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
	w := newWire(t, "nats", url)
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
