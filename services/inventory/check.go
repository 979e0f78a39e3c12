package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
	"roundtrip/internal/exchange"
	"roundtrip/internal/messaging"
	"roundtrip/internal/rest"
	"roundtrip/internal/rpc"
	"roundtrip/internal/service"
)

// checkCommand is what the chart's test runs. GetStock goes through the wire and
// the database and leaves nothing behind.
type checkCommand struct {
	URL             string `help:"The inventory to ask over REST." default:"http://127.0.0.1:8081"`
	GRPCTarget      string `name:"grpc-target" help:"The same over gRPC, such as dns:///HOST:PORT; it is not asked where this is empty."`
	NATSURL         string `name:"nats-url" help:"The NATS server to ask it by, such as nats://HOST:4222; it is not asked where this is empty."`
	NATSCredentials string `name:"nats-credentials" help:"A file with the credentials for NATS (.creds), which must allow to ask." placeholder:"PATH"`

	Within time.Duration `help:"How long a wire may take to answer: a Service leads to a pod only a moment after it is ready." default:"30s"`
}

// Run makes one exchange on each wire and says how each went.
func (c checkCommand) Run(ctx context.Context) error {
	var failures []error
	ask := func(wire, address string, get func(ctx context.Context, attempt int, sku string) error) {
		if address == "" {
			return
		}
		sku, attempt := "check-"+uuid.NewString(), 0 // there is none of it
		err := service.Patiently(exchange.WithRequestID(ctx, exchange.NewRequestID()), c.Within, func(ctx context.Context) error {
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
		return service.Exit(service.ExitDifference, errors.Join(failures...))
	}
	return nil
}

func (c checkCommand) overHTTP(ctx context.Context, _ int, sku string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.URL, "/")+"/v1/stock?sku="+sku, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return exchange.Unreachable(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, rest.MaxBody))
	if err == nil && response.StatusCode != http.StatusOK {
		err = rest.ReadProblem(response.StatusCode, response.Header, body)
	}
	return err
}

func (c checkCommand) overGRPC(ctx context.Context, attempt int, sku string) error {
	connection, err := rpc.Dial(c.GRPCTarget, nil)
	if err != nil {
		return err
	}
	defer connection.Close()
	_, err = inventoryv1.NewInventoryServiceClient(connection).GetStock(rpc.WithAttempt(ctx, attempt), &inventoryv1.GetStockRequest{Skus: []string{sku}})
	return err
}

func (c checkCommand) overNATS(ctx context.Context, attempt int, sku string) error {
	connection, err := messaging.Connect(c.NATSURL, "inventory-check", c.NATSCredentials, service.NewLogger(os.Stderr, slog.LevelWarn))
	if err != nil {
		return err
	}
	defer connection.Close()
	_, err = messaging.Request(ctx, connection, "inventory.v1.GetStock", attempt, map[string]any{"skus": []string{sku}})
	return err
}
