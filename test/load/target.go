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
	"slices"
	"strconv"
	"time"

	"roundtrip/test/support/caller"
	"roundtrip/test/support/containers"
	"roundtrip/test/support/processes"
)

// settleWithin is how soon after the last request every intent must be settled
// (docs/protocol.md).
const settleWithin = 30 * time.Second

// target says which services get the load.
type target struct {
	Bin               string `help:"Folder with the binaries of both services." default:".build" type:"existingdir"`
	Store             string `help:"The database: sqlite, in a temporary folder, or postgres, a new server in a container." enum:"sqlite,postgres" default:"sqlite"`
	Wire              string `help:"The wire between the services: http, grpc, or nats with a server in this process." enum:"http,grpc,nats" default:"http"`
	InventoryDatabase string `help:"Address of an empty database for inventory, such as postgres://…. The load generator migrates it." placeholder:"ADDRESS"`
	OrdersDatabase    string `help:"Address of an empty database for orders. The load generator migrates it." placeholder:"ADDRESS"`
}

// storeName is the name of the database, for a report.
func (t target) storeName() string {
	switch {
	case t.InventoryDatabase != "" || t.OrdersDatabase != "":
		return "given databases"
	case t.Store == "postgres":
		return onPostgres
	}
	return onSQLite
}

// on returns the target with new databases on a server. Starting the services
// migrates them.
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

// system is both services under load.
type system struct {
	*processes.System
	inventory, orders processes.Options
}

// start starts both services. args go to `serve` of both.
func (t target) start(ctx context.Context, folder string, args ...string) (*system, error) {
	s := &system{}
	var err error
	if s.inventory, err = t.service(ctx, "inventory", t.InventoryDatabase, folder); err != nil {
		return nil, err
	}
	if s.orders, err = t.service(ctx, "orders", t.OrdersDatabase, folder); err != nil {
		return nil, err
	}
	s.inventory.Args, s.orders.Args = append(s.inventory.Args, args...), append(s.orders.Args, args...)
	s.System, err = processes.StartSystem(ctx, folder, processes.Wire{Name: t.Wire}, s.inventory, s.orders)
	return s, err
}

// service returns the options of a service on a database. It migrates a given
// database; a service migrates SQLite itself.
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

// stop stops both services, even if ctx is done.
func (s *system) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	return s.Stop(ctx)
}

// importStock imports SKUs with their units.
func (s *system) importStock(ctx context.Context, units map[string]int64) error {
	var stock bytes.Buffer
	rows := csv.NewWriter(&stock)
	_ = rows.Write([]string{"sku", "name", "location", "on_hand"}) // a bytes.Buffer never fails
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

// audit waits until all intents are settled, runs both services' audits and prints
// their output. It returns an error for every violation.
func (s *system) audit(ctx context.Context) error {
	return errors.Join(waitSettled(ctx, s.Orders.AdminURL),
		runAudit(ctx, s.inventory.Binary, s.inventory.Args[0]),
		runAudit(ctx, s.orders.Binary, s.orders.Args[0], "--inventory-url="+s.Inventory.URL))
}

// waitSettled waits until orders has no unsettled intent.
func waitSettled(ctx context.Context, admin string) error {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	for {
		left, err := caller.Metric(ctx, admin, "orders_intents_unsettled")
		if err != nil {
			return fmt.Errorf("wait until all intents are settled: %w", err)
		}
		if left == 0 {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%g intents are not settled after %s", left, settleWithin)
		}
	}
}

func runAudit(ctx context.Context, binary string, arguments ...string) error {
	audit := exec.CommandContext(ctx, binary, append([]string{"audit"}, arguments...)...)
	audit.Stdout, audit.Stderr = os.Stdout, os.Stderr
	fmt.Printf("%s audit: ", filepath.Base(binary))
	if err := audit.Run(); err != nil {
		return fmt.Errorf("%s audit: %w", filepath.Base(binary), err)
	}
	return nil
}
