// Command inventory holds stock and reserves it for orders.
package main

import (
	"context"
	"fmt"
	"net"
	"os"

	"roundtrip/internal/cli"
	"roundtrip/internal/lifecycle"
	"roundtrip/internal/migration"
	"roundtrip/services/inventory/app"
)

const description = `Inventory holds stock: how much of every SKU is on hand at every location, and how much of it is reserved for which order. ` +
	`Every flag can also be set with the environment variable shown next to it.`

type commands struct {
	Serve       serve                `cmd:"" help:"Serve the API until SIGTERM or Ctrl-C."`
	Import      importCommand        `cmd:"" help:"Set stock from a CSV or NDJSON file, through a running inventory."`
	Audit       audit                `cmd:"" help:"Compare levels, ledger and reservations; exit 1 if they differ."`
	Migrate     migration.Commands   `cmd:"" help:"Bring a PostgreSQL schema up to date. On SQLite, serve does this at start."`
	Check       checkCommand         `cmd:"" help:"Ask a running inventory for stock on each given wire; exit 1 if one does not answer."`
	Healthcheck cli.HealthcheckFlags `cmd:"" help:"Check whether a running inventory accepts requests; exit 1 if not."`
	Version     cli.VersionFlags     `cmd:"" help:"Print the version."`
}

func main() {
	os.Exit(cli.Main("inventory", description, &commands{Migrate: migration.Commands{Schema: app.Schema()}}, map[string]string{
		"http_addr": "127.0.0.1:8081", "admin_addr": "127.0.0.1:9081",
	}))
}

type serve struct {
	cli.ServeFlags
	GRPCAddr        string `name:"grpc-addr" help:"Address of the gRPC API. Default: no gRPC."`
	GRPCReflection  bool   `name:"grpc-reflection" help:"Enables gRPC server reflection, for tools such as grpcurl."`
	NATSURL         string `name:"nats-url" help:"URL of the NATS server, such as nats://HOST:4222. Default: no NATS."`
	NATSCredentials string `name:"nats-credentials" help:"File with the credentials for NATS (.creds), read at every connect." placeholder:"PATH"`
}

// Run serves until ctx is done.
func (s serve) Run(ctx context.Context) error {
	log := cli.NewLogger(os.Stderr, s.LogLevel)
	http, admin, err := s.Listen()
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
		Admin: admin, Database: s.Options(log), Logger: log, MaxInFlight: s.MaxInFlight,
	})
	if err != nil {
		return err
	}
	return lifecycle.Run(ctx, a, s.DrainTimeout, log)
}

type audit struct {
	cli.DatabaseFlags
}

// Run prints every difference.
func (a audit) Run(ctx context.Context) error {
	differences, err := app.Audit(ctx, a.Source(), func(difference string) { fmt.Println(difference) })
	if err != nil {
		return err
	}
	if differences > 0 {
		return cli.Exit(cli.ExitDifference, fmt.Errorf("%d differences", differences))
	}
	fmt.Println("levels, ledger and reservations agree")
	return nil
}
