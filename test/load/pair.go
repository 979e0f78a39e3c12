package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"roundtrip/test/support/containers"
	"roundtrip/test/support/processes"
)

// settleWithin is how soon after the last request every intent must be settled
// (shared rule of the protocol, docs/protocol.md).
const settleWithin = 30 * time.Second

// target says which pair gets the load.
type target struct {
	Bin               string `help:"The folder with the two services' binaries." default:".build" type:"existingdir"`
	Store             string `help:"What a new pair keeps its state in: sqlite, in a temporary folder, or postgres, a server in a container of its own." enum:"sqlite,postgres" default:"sqlite"`
	Wire              string `help:"What carries the exchanges between the services: http, grpc, or nats with a server in this process." enum:"http,grpc,nats" default:"http"`
	InventoryDatabase string `help:"Where inventory's data is instead, such as postgres://… of an empty database. Its schema is brought up to date." placeholder:"ADDRESS"`
	OrdersDatabase    string `help:"Where orders' data is instead." placeholder:"ADDRESS"`
}

// storeName is what the pair's state is in, for a report.
func (t target) storeName() string {
	switch {
	case t.InventoryDatabase != "" || t.OrdersDatabase != "":
		return "given databases"
	case t.Store == "postgres":
		return onPostgres
	}
	return onSQLite
}

// on is the same with new databases on a server; starting the pair gives them
// their schema.
func (t target) on(ctx context.Context, server *containers.Postgres) (target, error) {
	for service, address := range map[string]*string{"inventory": &t.InventoryDatabase, "orders": &t.OrdersDatabase} {
		name, err := server.NewDatabase(ctx, service, func(string) error { return nil })
		if err != nil {
			return t, err
		}
		if *address, err = server.Address(ctx, name); err != nil {
			return t, err
		}
	}
	return t, nil
}

// subject is a pair under load.
type subject struct {
	*processes.Pair
	inventory, orders processes.Options
}

// start starts the pair; args go to `serve` of both services.
func (t target) start(ctx context.Context, folder string, args ...string) (*subject, error) {
	s := &subject{}
	var err error
	if s.inventory, err = t.service(ctx, "inventory", t.InventoryDatabase, folder); err != nil {
		return nil, err
	}
	if s.orders, err = t.service(ctx, "orders", t.OrdersDatabase, folder); err != nil {
		return nil, err
	}
	s.inventory.Args, s.orders.Args = append(s.inventory.Args, args...), append(s.orders.Args, args...)
	s.Pair, err = processes.StartPair(ctx, folder, processes.Wire{Name: t.Wire}, s.inventory, s.orders)
	return s, err
}

// service says how to start one service on a database, which is migrated first
// where the service does not do that itself.
func (t target) service(ctx context.Context, name, database, folder string) (processes.Options, error) {
	o := processes.Options{Binary: filepath.Join(t.Bin, name)}
	if database == "" {
		o.Args = []string{"--database=sqlite:" + filepath.Join(folder, name+".db")}
		return o, nil
	}
	if out, err := exec.CommandContext(ctx, o.Binary, "migrate", "up", "--database="+database).CombinedOutput(); err != nil {
		return o, fmt.Errorf("%s migrate up: %w\n%s", name, err, out)
	}
	o.Args = []string{"--database=" + database}
	return o, nil
}

// stop stops the pair, also when ctx is done.
func (s *subject) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	return s.Stop(ctx)
}

// importStock imports every SKU with as many units as are given.
func (s *subject) importStock(ctx context.Context, units map[string]int64) error {
	var stock bytes.Buffer
	rows := csv.NewWriter(&stock)
	_ = rows.Write([]string{"sku", "name", "location", "on_hand"}) // a bytes.Buffer takes everything
	for _, sku := range slices.Sorted(maps.Keys(units)) {
		_ = rows.Write([]string{sku, "", "main", strconv.FormatInt(units[sku], 10)})
	}
	rows.Flush()

	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Inventory.URL+"/v1/stock/import", &stock)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "text/csv")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("import stock: %w", err)
	}
	defer response.Body.Close()
	report := json.NewDecoder(response.Body)
	var last struct{ Rows, Done, Unchanged int }
	for last.Rows == 0 {
		last.Done, last.Unchanged = 0, 0
		if err := report.Decode(&last); errors.Is(err, io.EOF) {
			return errors.New("import stock: the report has no last line")
		} else if err != nil {
			return fmt.Errorf("import stock: %w", err)
		}
	}
	if imported := last.Done + last.Unchanged; imported != len(units) {
		return fmt.Errorf("import stock: %d of %d SKUs were imported", imported, len(units))
	}
	return nil
}

// audit waits until all is settled, runs both services' own audits and shows
// what they say. It returns an error for every violation.
func (s *subject) audit(ctx context.Context) error {
	return errors.Join(waitSettled(ctx, s.Orders.AdminURL),
		runAudit(ctx, s.inventory.Binary, s.inventory.Args[0]),
		runAudit(ctx, s.orders.Binary, s.orders.Args[0], "--inventory-url="+s.Inventory.URL))
}

// waitSettled waits until orders says, on its private port, that no intent is
// unsettled.
func waitSettled(ctx context.Context, admin string) error {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	for {
		left, err := unsettled(ctx, admin)
		if err != nil {
			return fmt.Errorf("wait until all is settled: %w", err)
		}
		if left == 0 {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%d intents are not settled after %s", left, settleWithin)
		}
	}
}

func unsettled(ctx context.Context, admin string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, admin+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	metrics, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	found := unsettledMetric.FindSubmatch(metrics)
	if found == nil {
		return 0, errors.New("orders does not say how many intents are unsettled")
	}
	return strconv.Atoi(string(found[1]))
}

var unsettledMetric = regexp.MustCompile(`(?m)^orders_intents_unsettled (\d+)$`)

func runAudit(ctx context.Context, binary string, arguments ...string) error {
	audit := exec.CommandContext(ctx, binary, append([]string{"audit"}, arguments...)...)
	audit.Stdout, audit.Stderr = os.Stdout, os.Stderr
	fmt.Printf("%s audit: ", filepath.Base(binary))
	if err := audit.Run(); err != nil {
		return fmt.Errorf("%s audit: %w", filepath.Base(binary), err)
	}
	return nil
}
