// Command run starts both services on this machine with SQLite, so that you can try
// them. The first time, it loads a small sample of real stock. Ctrl-C stops it.
//
// The sample's SKUs, names and quantities are from the "Online Retail" data set
// of the UCI Machine Learning Repository (Daqing Chen, 2015,
// https://doi.org/10.24432/C5BW33), licence CC BY 4.0. They are the fifty SKUs that
// appear on the most invoices from December 2010 to May 2011. The quantity on hand is
// the number of units sold.
package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"roundtrip/test/support/processes"
)

//go:embed sample.csv
var sample []byte

type flags struct {
	Bin           string `help:"Folder with the two binaries." default:".build" type:"existingdir"`
	Data          string `help:"Folder for the databases and the logs. It is created if it is missing." default:".data"`
	OrdersAddr    string `help:"Address of orders." default:"127.0.0.1:8080" env:"ORDERS_HTTP_ADDR"`
	InventoryAddr string `help:"Address of inventory." default:"127.0.0.1:8081" env:"INVENTORY_HTTP_ADDR"`
	Wire          string `help:"Wire between the services: http, grpc or nats. nats also starts a NATS server." enum:"http,grpc,nats" default:"http"`
	GRPCAddr      string `name:"grpc-addr" help:"Address of inventory's gRPC API, for the wire grpc." default:"127.0.0.1:8082" env:"INVENTORY_GRPC_ADDR"`
	NATSAddr      string `name:"nats-addr" help:"Address of the NATS server, for the wire nats." default:"127.0.0.1:4222"`
}

func main() { os.Exit(run()) }

func run() int {
	var f flags
	kong.Parse(&f, kong.Name("run"), kong.Description("Runs orders and inventory on this machine, with SQLite. Ctrl-C stops both."))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := f.serve(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		return 1
	}
	return 0
}

// serve runs both services until ctx is done.
func (f flags) serve(ctx context.Context) (err error) {
	if err := os.MkdirAll(f.Data, 0o700); err != nil {
		return err
	}
	logs, err := os.OpenFile(filepath.Join(f.Data, "log.ndjson"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logs.Close()

	wire := processes.Wire{Name: f.Wire, Addr: map[string]string{"grpc": f.GRPCAddr, "nats": f.NATSAddr}[f.Wire]}
	starting, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	p, err := processes.StartSystem(starting, f.Data, wire,
		processes.Options{Binary: filepath.Join(f.Bin, "inventory"), Args: []string{"--http-addr=" + f.InventoryAddr}, Log: logs},
		processes.Options{Binary: filepath.Join(f.Bin, "orders"), Args: []string{"--http-addr=" + f.OrdersAddr}, Log: logs})
	if err != nil {
		return err
	}
	defer func() {
		fmt.Println("\nStopping.")
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
		defer cancel()
		err = errors.Join(err, p.Stop(stopping))
	}()

	if err := loadSample(starting, p.Inventory.URL); err != nil {
		return err
	}
	id := time.Now().Unix()
	fmt.Printf(welcome, p.Orders.URL, p.Inventory.URL, p.Orders.AdminURL, p.Inventory.AdminURL, logs.Name(),
		p.Orders.URL, id, p.Orders.URL, id, f.Data)
	select {
	case <-ctx.Done():
		return nil
	case <-p.Orders.Exited():
		return fmt.Errorf("orders stopped unexpectedly; its log is in %s", logs.Name())
	case <-p.Inventory.Exited():
		return fmt.Errorf("inventory stopped unexpectedly; its log is in %s", logs.Name())
	}
}

const welcome = `
  orders      %s    inventory   %s
  metrics     %s/metrics and %s/metrics
  log         %s

Place an order, and then read it:

  curl -i -X PUT %s/v1/orders/try-%d -H 'Content-Type: application/json' \
    -d '{"customer":"me","currency":"GBP","lines":[{"sku":"85123A","quantity":6,"unit_price":255}]}'

  curl -i %s/v1/orders/try-%d

The data stays in %s. Ctrl-C stops both.
`

// loadSample imports the sample if inventory has no stock yet.
func loadSample(ctx context.Context, inventory string) error {
	stock, err := call(ctx, http.MethodGet, inventory+"/v1/stock?limit=1", nil)
	if err != nil {
		return err
	}
	var first struct{ Levels []any }
	if err := json.Unmarshal(stock, &first); err != nil || len(first.Levels) > 0 {
		return err
	}
	if _, err := call(ctx, http.MethodPost, inventory+"/v1/stock/import", sample); err != nil {
		return err
	}
	fmt.Printf("Loaded %d SKUs of real stock (UCI \"Online Retail\", CC BY 4.0).\n", bytes.Count(sample, []byte("\n"))-1)
	return nil
}

func call(ctx context.Context, method, url string, csv []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(csv))
	if err != nil {
		return nil, err
	}
	if csv != nil {
		request.Header.Set("Content-Type", "text/csv")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, url, response.Status, body)
	}
	return body, err
}
