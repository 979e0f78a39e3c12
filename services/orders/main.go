// Command orders takes orders and reserves their stock in inventory.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"roundtrip/internal/cli"
	"roundtrip/internal/lifecycle"
	"roundtrip/internal/migration"
	"roundtrip/services/orders/app"
)

const description = `Orders takes orders. For every operation it records what it is about to do, makes one request to inventory, and records the outcome. ` +
	`Every flag can also be set with the environment variable shown next to it.`

type commands struct {
	Serve       serve                `cmd:"" help:"Serve the API until SIGTERM or Ctrl-C."`
	Audit       auditCommand         `cmd:"" help:"Compare orders with inventory's reservations; exit 1 if they differ. --repair repairs them."`
	Migrate     migration.Commands   `cmd:"" help:"Bring a PostgreSQL schema up to date. On SQLite, serve does this at start."`
	Check       checkCommand         `cmd:"" help:"Place an order that inventory must reject for lack of stock; exit 1 if it does not."`
	Healthcheck cli.HealthcheckFlags `cmd:"" help:"Check whether a running orders accepts requests; exit 1 if not."`
	Version     cli.VersionFlags     `cmd:"" help:"Print the version."`
}

func main() {
	os.Exit(cli.Main("orders", description, &commands{Migrate: migration.Commands{Schema: app.Schema()}}, map[string]string{
		"http_addr": "127.0.0.1:8080", "admin_addr": "127.0.0.1:9080",
	}))
}

type serve struct {
	cli.ServeFlags
	InventoryURL    string        `help:"URL of inventory: http://HOST:PORT, dns:///HOST:PORT (grpc) or nats://HOST:PORT." default:"http://127.0.0.1:8081"`
	InventoryWire   string        `help:"Wire to inventory: http, grpc or nats. --inventory-url must match it." enum:"http,grpc,nats" default:"http"`
	NATSCredentials string        `name:"nats-credentials" help:"File with the credentials for NATS (.creds), read at every connect." placeholder:"PATH"`
	SettleInterval  time.Duration `help:"How often to look for operations whose outcome is still unknown." default:"1s"`
	GiveUpAfter     time.Duration `help:"Age at which an unsettled new order is given up, that is, cancelled." default:"30s"`
}

// Run serves until ctx is done.
func (s serve) Run(ctx context.Context) error {
	log := cli.NewLogger(os.Stderr, s.LogLevel)
	http, admin, err := s.Listen()
	if err != nil {
		return err
	}
	a, err := app.New(ctx, app.Options{
		HTTP: http, Admin: admin, Database: s.Options(log), Logger: log, MaxInFlight: s.MaxInFlight,
		InventoryWire: s.InventoryWire, InventoryURL: s.InventoryURL, NATSCredentials: s.NATSCredentials,
		SettleInterval: s.SettleInterval, GiveUpAfter: s.GiveUpAfter,
	})
	if err != nil {
		return err
	}
	return lifecycle.Run(ctx, a, s.DrainTimeout, log)
}

type auditCommand struct {
	cli.DatabaseFlags
	InventoryURL string `help:"URL of inventory's REST API. Only REST lists every reservation." default:"http://127.0.0.1:8081" env:"ORDERS_AUDIT_INVENTORY_URL,ORDERS_INVENTORY_URL"`
	Repair       bool   `help:"Repair orders from inventory, after a database restore. On SQLite, stop orders first."`
}

// Run prints every difference, and with --repair what was done about it.
func (a auditCommand) Run(ctx context.Context) error {
	database := a.Options(cli.NewLogger(os.Stderr, slog.LevelInfo))
	database.Connections = 2
	report, err := app.Audit(ctx, app.AuditOptions{
		Database: database, InventoryURL: a.InventoryURL, Repair: a.Repair, Report: func(difference string) { fmt.Println(difference) },
	})
	if err != nil {
		return err
	}
	fmt.Printf("%d orders and %d reservations were compared; %d orders are not settled yet\n",
		report.Orders, report.Reservations, report.Unsettled)
	switch {
	case report.Remaining > 0:
		return cli.Exit(cli.ExitDifference, fmt.Errorf("%d differences, %d of them remain", report.Differences, report.Remaining))
	case report.Differences > 0:
		fmt.Printf("%d differences, all repaired\n", report.Differences)
		return nil
	}
	fmt.Println("orders and reservations agree")
	return nil
}
