// Package inprocess runs services and a NATS server inside the test's process, on
// real ports of this machine. The suites that compare wires use it.
package inprocess

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"roundtrip/internal/database"
	inventory "roundtrip/services/inventory/app"
	orders "roundtrip/services/orders/app"
)

// natsStart is how long a NATS server may take to start on a busy machine.
const natsStart = 30 * time.Second

// Listen listens on a free port.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	return ListenAt(t, "127.0.0.1:0")
}

// ListenAt listens at an address that was in use before.
func ListenAt(t testing.TB, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Database is a new SQLite database for a service.
func Database(t testing.TB, service string) database.Source {
	t.Helper()
	return database.FromAddress("sqlite:" + filepath.Join(t.TempDir(), service+".db"))
}

// Run starts an app. It stops when the test ends.
func Run(t testing.TB, app interface {
	Start(context.Context) error
	Stop(context.Context) error
},
) {
	t.Helper()
	t.Cleanup(func() {
		if err := app.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	if err := app.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Inventory is an inventory that serves every wire.
type Inventory struct {
	*inventory.App
	HTTPAddr, GRPCAddr string
	natsURL            string
}

// URL is the value of --inventory-url for a wire.
func (i *Inventory) URL(wire string) string {
	return map[string]string{"http": "http://" + i.HTTPAddr, "grpc": "dns:///" + i.GRPCAddr, "nats": i.natsURL}[wire]
}

// StartInventory starts an inventory with an empty database. Options that are not
// set get defaults: listeners on free ports, no log.
func StartInventory(t testing.TB, o inventory.Options) *Inventory {
	t.Helper()
	if o.HTTP == nil {
		o.HTTP = Listen(t)
	}
	if o.GRPC == nil {
		o.GRPC = Listen(t)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Admin, o.Database = Listen(t), database.Options{Source: Database(t, "inventory")}
	a, err := inventory.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	Run(t, a)
	return &Inventory{a, o.HTTP.Addr().String(), o.GRPC.Addr().String(), o.NATSURL}
}

// StartOrders starts an orders with an empty database on free ports.
func StartOrders(t testing.TB, o orders.Options) *orders.App {
	t.Helper()
	o.HTTP, o.Admin, o.Database = Listen(t), Listen(t), database.Options{Source: Database(t, "orders")}
	a, err := orders.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	Run(t, a)
	return a
}

// StartNATS starts a NATS server. The port may be server.RANDOM_PORT. The server
// stops when the test ends.
func StartNATS(t testing.TB, port int) *server.Server {
	t.Helper()
	// Parity sends a request that is larger than a service accepts.
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true, MaxPayload: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { StopNATS(s) })
	if !s.ReadyForConnections(natsStart) {
		t.Fatal("the NATS server does not start")
	}
	return s
}

// StopNATS stops a NATS server and waits for its end. It may be called twice.
func StopNATS(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}
