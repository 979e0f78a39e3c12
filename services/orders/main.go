// Command orders takes orders and reserves their stock in inventory.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/internal/service"
	"roundtrip/services/orders/app"
	"roundtrip/services/orders/internal/inventory"
	"roundtrip/services/orders/internal/order"
	"roundtrip/services/orders/internal/reconcile"
	"roundtrip/services/orders/internal/store"
)

const description = `Orders takes orders. For every operation it writes down what it is about to do, makes one request to inventory, and writes down the outcome. ` +
	`Every flag can also be set by the environment variable that stands beside it.`

type cli struct {
	Serve       serve                    `cmd:"" help:"Serve the API until SIGTERM or Ctrl-C."`
	Audit       auditCommand             `cmd:"" help:"Compare orders with inventory's reservations; exit 1 if they differ. --repair mends that."`
	Migrate     service.MigrateCommands  `cmd:"" help:"Bring a PostgreSQL schema up to date. On SQLite serve does that itself."`
	Check       checkCommand             `cmd:"" help:"Place an order of what nobody has through a running orders, and see inventory refuse it; exit 1 if not."`
	Healthcheck service.HealthcheckFlags `cmd:"" help:"Ask a running orders whether it takes requests; exit 1 if not."`
	Version     service.VersionFlags     `cmd:"" help:"Print the version."`
}

func main() {
	os.Exit(service.Main("orders", description, &cli{Migrate: service.MigrateCommands{Migrations: store.PostgresMigrations}}, map[string]string{
		"http_addr": "127.0.0.1:8080", "admin_addr": "127.0.0.1:9080",
	}))
}

type serve struct {
	service.ServeFlags
	InventoryURL    string        `help:"Where inventory is." default:"http://127.0.0.1:8081"`
	InventoryWire   string        `help:"What carries the exchanges with inventory: http, grpc or nats. Each has its own kind of --inventory-url: http://HOST:PORT, dns:///HOST:PORT, nats://HOST:PORT." enum:"http,grpc,nats" default:"http"`
	NATSCredentials string        `name:"nats-credentials" help:"A file with the credentials for NATS (.creds). It is read again at every connect." placeholder:"PATH"`
	SettleInterval  time.Duration `help:"How often to look for operations whose outcome is not known yet." default:"1s"`
	GiveUpAfter     time.Duration `help:"How old a place may become, without inventory having been asked, before it is given up." default:"30s"`
}

// Run serves until ctx is done.
func (s serve) Run(ctx context.Context) error {
	log := service.NewLogger(os.Stderr, s.LogLevel)
	http, err := net.Listen("tcp", s.HTTPAddr)
	if err != nil {
		return err
	}
	admin, err := net.Listen("tcp", s.AdminAddr)
	if err != nil {
		return err
	}
	a, err := app.New(ctx, app.Options{
		HTTP: http, Admin: admin, Database: s.Source(), DatabaseConnections: s.DatabaseConnections,
		AllowUnsafeDatabase: s.AllowUnsafeDatabase, Logger: log, MaxInFlight: s.MaxInFlight, BatchMax: s.BatchMax,
		InventoryWire: s.InventoryWire, InventoryURL: s.InventoryURL, NATSCredentials: s.NATSCredentials,
		SettleInterval: s.SettleInterval, GiveUpAfter: s.GiveUpAfter,
	})
	if err != nil {
		return err
	}
	return service.Run(ctx, a, s.DrainTimeout, log)
}

type auditCommand struct {
	service.DatabaseFlags
	InventoryURL string `help:"Where inventory's REST API is; only REST lists every reservation." default:"http://127.0.0.1:8081" env:"ORDERS_AUDIT_INVENTORY_URL,ORDERS_INVENTORY_URL"`
	Repair       bool   `help:"Make every order that differs what inventory says it is, one at a time, and say so. For after a database was put back; on SQLite orders must be stopped."`
}

// Run prints every difference, and with --repair what was done about it.
func (a auditCommand) Run(ctx context.Context) error {
	// Opened for reading first: what is not there is an error, and is not made.
	orders, err := store.OpenReadOnly(a.Source())
	if err != nil {
		return err
	}
	wire, err := inventory.NewHTTP(a.InventoryURL, 8, nil)
	if err != nil {
		return err
	}
	compare := reconcile.Reconciliation{Orders: orders, Inventory: wire, OnDifference: func(difference string) { fmt.Println(difference) }}
	closeWriter := func() error { return nil }
	if a.Repair {
		log := service.NewLogger(os.Stderr, slog.LevelInfo)
		writer, wait, err := store.Open(ctx, a.Source(), store.Options{Connections: 2, AllowUnsafe: a.AllowUnsafeDatabase, Log: log})
		if err != nil {
			return err
		}
		if err := wait(ctx); err != nil {
			return err
		}
		closeWriter = writer.Close
		asking := inventory.NewResending(wire, exchange.NewCaller(exchange.Options{MaxInFlight: 1}))
		compare.Repair = func(ctx context.Context, o order.Order, r order.Reservation) (order.Order, error) {
			return order.RepairOrder(ctx, writer, asking, o, r)
		}
	}
	report, err := compare.Run(ctx)
	if err = errors.Join(err, wire.Close(), closeWriter(), orders.Close()); err != nil {
		return err
	}
	fmt.Printf("%d orders and %d reservations were compared; %d orders are not settled yet\n",
		report.Orders, report.Reservations, report.Unsettled)
	switch {
	case report.Remaining > 0:
		return service.Exit(service.ExitDifference, fmt.Errorf("%d differences, %d of them remain", report.Differences, report.Remaining))
	case report.Differences > 0:
		fmt.Printf("%d differences, all mended\n", report.Differences)
		return nil
	}
	fmt.Println("orders and reservations agree")
	return nil
}
