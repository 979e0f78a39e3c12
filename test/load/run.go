package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/schollz/progressbar/v3"

	"roundtrip/test/support/containers"
)

type runCommand struct {
	target
	Workload string        `arg:"" enum:"uniform,hot,mixed,invoices" help:"uniform: each order is for one unit of a random SKU out of 10,000. hot: all orders are for the same SKU. mixed: place, amend, confirm, cancel and get, over 10,000 SKUs. invoices: a retailer's real invoices, one order for each."`
	Data     string        `help:"File with the invoices: CSV, gzipped if its name ends in .gz." type:"existingfile" placeholder:"FILE"`
	Callers  int           `help:"Number of callers. Each sends its next request after the response. With --rate: the maximum number of requests in flight." default:"16"`
	Rate     float64       `help:"Send this many requests a second. Latency counts from the time when a request was due." placeholder:"N"`
	Duration time.Duration `help:"How long to send." default:"30s"`
	Count    int           `help:"Send this many requests, instead of a duration." placeholder:"N"`
	Reports  string        `help:"Folder for the HTML page." default:".reports" type:"path"`
}

// Help is shown below the flags' summary.
func (runCommand) Help() string {
	return `Without --rate the load is a closed loop: it adapts to the services and measures throughput. With --rate it is an open loop: it measures latency at that load. Latency counts from the time when a request was due, even if it was sent later because the services stalled.

Columns: done (200, 201); rejected (409), a violation, because there is enough stock; unknown (202: recorded, and settled later); refused (503, 504); failed (anything else), a violation. The audits run when all intents are settled.

Examples:

    load run uniform --callers=64 --store=postgres
    load run uniform --callers=64 --wire=nats
    load run mixed --rate=300 --callers=256 --duration=1m
    load run invoices --data=online-retail.csv.gz --callers=64`
}

// Run returns an error for every violation.
func (r runCommand) Run(ctx context.Context) (err error) {
	w, p, err := r.plan()
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "roundtrip-load-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	target := r.target
	if r.Store == "postgres" {
		var server *containers.Postgres
		if server, err = containers.StartPostgres(ctx, containers.PostgresOptions{}); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.Stop(context.WithoutCancel(ctx))) }()
		if target, err = target.on(ctx, server); err != nil {
			return err
		}
	}
	s, err := target.start(ctx, folder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop(ctx)) }()
	if err := s.importStock(ctx, w.stock()); err != nil {
		return err
	}

	bar := progressbar.NewOptions(p.requests(), progressbar.OptionSetDescription(r.Workload), progressbar.OptionShowCount(),
		progressbar.OptionShowIts(), progressbar.OptionSetItsString("requests"), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetWriter(os.Stderr), progressbar.OptionClearOnFinish())
	began := time.Now()
	samples, err := measure(ctx, s.Orders.URL, w, p, func() { _ = bar.Add(1) }) // an error only affects the display
	if err = errors.Join(err, bar.Finish()); err != nil {
		return err
	}
	result := summarize(samples)
	result.print(os.Stdout)
	page := report{Workload: r.Workload, Store: r.storeName(), Wire: r.Wire, Load: p.String(), Began: began, result: result}
	written, err := page.write(filepath.Join(r.Reports, "load-"+r.Workload+".html"))
	if err != nil {
		return err
	}
	fmt.Printf("Plots: %s\n", written)
	return errors.Join(result.violation(), s.audit(ctx))
}

// plan returns the workload and its pace.
func (r runCommand) plan() (workload, pace, error) {
	p := pace{callers: r.Callers, rate: r.Rate, duration: r.Duration, count: r.Count}
	if r.Callers < 1 || r.Rate < 0 || r.Count < 0 || r.Duration <= 0 {
		return nil, p, errors.New("callers and duration must be positive, rate and count not negative")
	}
	if (r.Workload == "invoices") != (r.Data != "") {
		return nil, p, errors.New("the workload invoices needs --data, and no other workload accepts it")
	}
	if r.Store == "postgres" && r.InventoryDatabase+r.OrdersDatabase != "" {
		return nil, p, errors.New("give either --store=postgres or database addresses, not both")
	}
	switch r.Workload {
	case "hot":
		return newPlacing(1), p, nil
	case "mixed":
		return newMixed(), p, nil
	case "invoices":
		invoices, counts, err := readInvoices(r.Data)
		if err != nil {
			return nil, p, err
		}
		counts.print(os.Stdout)
		if p.count == 0 || p.count > len(invoices) {
			p.count = len(invoices)
		}
		return invoicing(invoices), p, nil
	default:
		return newPlacing(allSKUs), p, nil
	}
}
