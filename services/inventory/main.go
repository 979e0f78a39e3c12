// Command inventory holds stock and reserves it for orders.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"roundtrip/internal/service"
	"roundtrip/services/inventory/app"
	"roundtrip/services/inventory/internal/stock"
	"roundtrip/services/inventory/internal/store"
)

const description = `Inventory holds stock: what is on hand of every SKU at every location, and what of it is reserved for which order. ` +
	`Every flag can also be set by the environment variable that stands beside it.`

type cli struct {
	Serve       serve                    `cmd:"" help:"Serve the API until SIGTERM or Ctrl-C."`
	Import      importCommand            `cmd:"" help:"Set stock from a CSV or NDJSON file, through a running inventory."`
	Audit       audit                    `cmd:"" help:"Compare levels, ledger and reservations; exit 1 if they differ."`
	Migrate     service.MigrateCommands  `cmd:"" help:"Bring a PostgreSQL schema up to date. On SQLite serve does that itself."`
	Check       checkCommand             `cmd:"" help:"Ask a running inventory for stock, on each wire that is given; exit 1 if one does not answer."`
	Healthcheck service.HealthcheckFlags `cmd:"" help:"Ask a running inventory whether it takes requests; exit 1 if not."`
	Version     service.VersionFlags     `cmd:"" help:"Print the version."`
}

func main() {
	os.Exit(service.Main("inventory", description, &cli{Migrate: service.MigrateCommands{Migrations: store.PostgresMigrations}}, map[string]string{
		"http_addr": "127.0.0.1:8081", "admin_addr": "127.0.0.1:9081",
	}))
}

type serve struct {
	service.ServeFlags
	GRPCAddr        string `name:"grpc-addr" help:"Where to serve gRPC; it is not served where this is empty."`
	GRPCReflection  bool   `name:"grpc-reflection" help:"Let anybody ask over gRPC what is served (for grpcurl and the like)."`
	NATSURL         string `name:"nats-url" help:"The NATS server whose requests to answer, such as nats://HOST:4222; none where this is empty."`
	NATSCredentials string `name:"nats-credentials" help:"A file with the credentials for NATS (.creds). It is read again at every connect." placeholder:"PATH"`
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
	var grpc net.Listener
	if s.GRPCAddr != "" {
		if grpc, err = net.Listen("tcp", s.GRPCAddr); err != nil {
			return err
		}
	}
	a, err := app.New(ctx, app.Options{
		HTTP: http, GRPC: grpc, GRPCReflection: s.GRPCReflection, NATSURL: s.NATSURL, NATSCredentials: s.NATSCredentials,
		Admin: admin, Database: s.Source(), DatabaseConnections: s.DatabaseConnections,
		AllowUnsafeDatabase: s.AllowUnsafeDatabase, Logger: log, MaxInFlight: s.MaxInFlight, BatchMax: s.BatchMax,
	})
	if err != nil {
		return err
	}
	return service.Run(ctx, a, s.DrainTimeout, log)
}

type audit struct {
	service.DatabaseFlags
}

// Run prints every difference.
func (a audit) Run(ctx context.Context) error {
	s, err := store.OpenReadOnly(a.Source())
	if err != nil {
		return err
	}
	differences := 0
	err = s.Audit(ctx, func(d stock.Difference) {
		differences++
		fmt.Println(d)
	})
	if err = errors.Join(err, s.Close()); err != nil {
		return err
	}
	if differences > 0 {
		return service.Exit(service.ExitDifference, fmt.Errorf("%d differences", differences))
	}
	fmt.Println("levels, ledger and reservations agree")
	return nil
}
