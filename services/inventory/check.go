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

// checkCommand is what the chart's test runs. GetStock goes through the wire and
// the database and leaves nothing behind.
type checkCommand struct {
	URL             string `help:"URL to ask over REST." default:"http://127.0.0.1:8081"`
	GRPCTarget      string `name:"grpc-target" help:"Target to ask over gRPC, such as dns:///HOST:PORT. Default: not asked."`
	NATSURL         string `name:"nats-url" help:"NATS server to ask by, such as nats://HOST:4222. Default: not asked."`
	NATSCredentials string `name:"nats-credentials" help:"File with the credentials for NATS (.creds). They must permit requests." placeholder:"PATH"`

	Within time.Duration `help:"How long a wire may take to answer. A Service reaches a new pod with a short delay." default:"30s"`
}

// Run makes one exchange on each wire and says how each went.
func (c checkCommand) Run(ctx context.Context) error {
	var failures []error
	ask := func(wire, address string, get func(ctx context.Context, attempt int, sku string) error) {
		if address == "" {
			return
		}
		sku, attempt := "check-"+uuid.NewString(), 0 // there is none of it
		err := lifecycle.Retry(exchange.WithRequestID(ctx, exchange.NewRequestID()), c.Within, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, exchange.MaxTimeout)
			defer cancel()
			attempt++
			return get(ctx, attempt, sku)
		})
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: GetStock by %s: %w", wire, address, err))
			return
		}
		fmt.Printf("%s: GetStock by %s is answered\n", wire, address)
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
