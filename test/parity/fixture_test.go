package parity

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
	inventory "roundtrip/services/inventory/app"
	"roundtrip/services/orders/orderstest"
	"roundtrip/test/support/inprocess"
)

var wires = []string{"http", "grpc", "nats"}

// around wraps one of inventory's handlers.
type around = func(operation string, handle func() error) error

// fixture is an inventory that serves every wire, and orders' client of each.
type fixture struct {
	url   string
	wires map[string]orderstest.Wire
	// around wraps inventory's handlers. It may be nil.
	around atomic.Pointer[around]
}

// start starts a NATS server, an inventory, and orders' client of each wire.
func start(t *testing.T, maxInFlight int) *fixture {
	t.Helper()
	f := &fixture{wires: map[string]orderstest.Wire{}}
	broker := inprocess.StartNATS(t, server.RANDOM_PORT).ClientURL()
	checkMessages(t, broker)
	i := inprocess.StartInventory(t, inventory.Options{NATSURL: broker, MaxInFlight: maxInFlight, Around: func(operation string, handle func() error) error {
		if around := f.around.Load(); around != nil {
			return (*around)(operation, handle)
		}
		return handle()
	}})
	f.url = i.URL("http")
	for _, wire := range wires {
		f.wires[wire] = newWire(t, orderstest.WireOptions{Wire: wire, URL: i.URL(wire)})
	}
	waitConnected(t, f.wires["nats"])
	return f
}

// newWire makes orders' client of a wire.
func newWire(t *testing.T, o orderstest.WireOptions) orderstest.Wire {
	t.Helper()
	o.MaxInFlight, o.Logger = 64, slog.New(slog.DiscardHandler)
	w, err := orderstest.NewWire(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// newClient wraps a wire as orders does: with retries, their budget and the
// breaker.
func newClient(w orderstest.Wire) orderstest.Client {
	return orderstest.NewClient(w, exchange.NewCaller(exchange.Options{}))
}

// waitConnected waits until both services are connected to NATS. An earlier request
// gets no response. While [checkMessages] subscribes to its subject, it gets no
// error either.
func waitConnected(t *testing.T, w orderstest.Wire) {
	t.Helper()
	whole := deadline(t)
	for {
		ctx, cancel := context.WithTimeout(whole, time.Second)
		_, err := w.GetReservation(ctx, 1, "unknown")
		cancel()
		if problem.CodeOf(err) == problem.NotFound {
			return
		}
		select {
		case <-whole.Done():
			t.Fatal(err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
