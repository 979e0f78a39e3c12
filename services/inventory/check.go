package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/google/uuid"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
	"roundtrip/internal/cli"
	"roundtrip/internal/exchange"
	"roundtrip/internal/lifecycle"
	"roundtrip/internal/messaging"
	"roundtrip/internal/restclient"
	"roundtrip/internal/rpc"
)

// checkCommand checks that inventory answers on its wires. The chart's test runs it. It
// calls GetStock, which uses the wire and the database and changes nothing.
type checkCommand struct {
	URL             string `help:"URL of the REST API." default:"http://127.0.0.1:8081"`
	GRPCTarget      string `name:"grpc-target" help:"Target of the gRPC API, such as dns:///HOST:PORT. Default: gRPC is not checked."`
	NATSURL         string `name:"nats-url" help:"URL of the NATS server, such as nats://HOST:4222. Default: NATS is not checked."`
	NATSCredentials string `name:"nats-credentials" help:"File with the credentials for NATS (.creds). They must allow requests." placeholder:"PATH"`

	Within time.Duration `help:"Longest wait for an answer on each wire. A Service reaches a new pod after a short delay." default:"30s"`
}

// Run makes one exchange on each wire and prints the result of each.
func (c checkCommand) Run(ctx context.Context) error {
	var failures []error
	ask := func(wire, address string, get func(ctx context.Context, attempt int, sku string) error) {
		if address == "" {
			return
		}
		sku, attempt := "check-"+uuid.NewString(), 0 // no such SKU exists
		err := lifecycle.Retry(exchange.WithRequestID(ctx, exchange.NewRequestID()), c.Within, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, exchange.MaxTimeout)
			defer cancel()
			attempt++
			return get(ctx, attempt, sku)
		})
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: GetStock from %s: %w", wire, address, err))
			return
		}
		fmt.Printf("%s: GetStock from %s succeeded\n", wire, address)
	}
	ask("http", c.URL, c.overHTTP)
	ask("grpc", c.GRPCTarget, c.overGRPC)
	ask("nats", c.NATSURL, c.overNATS)
	if len(failures) > 0 {
		return cli.Exit(cli.ExitDifference, errors.Join(failures...))
	}
	return nil
}

func (c checkCommand) overHTTP(ctx context.Context, attempt int, sku string) error {
	client, err := restclient.New(c.URL, restclient.Options{Proxy: http.ProxyFromEnvironment})
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Exchange(ctx, attempt, http.MethodGet, "/v1/stock?sku="+sku, nil, new(struct{}))
}

func (c checkCommand) overGRPC(ctx context.Context, attempt int, sku string) error {
	connection, err := rpc.Dial(c.GRPCTarget, inventoryv1.ProblemDetails{}, nil)
	if err != nil {
		return err
	}
	defer connection.Close()
	_, err = inventoryv1.NewInventoryServiceClient(connection).GetStock(rpc.WithAttempt(ctx, attempt), &inventoryv1.GetStockRequest{Skus: []string{sku}})
	return err
}

func (c checkCommand) overNATS(ctx context.Context, attempt int, sku string) error {
	connection, err := messaging.Connect(c.NATSURL, "inventory-check", c.NATSCredentials, cli.NewLogger(os.Stderr, slog.LevelWarn))
	if err != nil {
		return err
	}
	defer connection.Close()
	_, err = messaging.Request(ctx, connection, "inventory.v1.GetStock", attempt, map[string]any{"skus": []string{sku}})
	return err
}
