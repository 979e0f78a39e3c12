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
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/sync/errgroup"

	"roundtrip/test/pair"
)

// settleWithin is how soon after the last request every intent must be settled
// (shared rule of the protocol, docs/protocol.md).
const settleWithin = 30 * time.Second

type replay struct {
	Bin     string `help:"Folder with the two binaries." default:".build" type:"existingdir"`
	Callers int    `help:"How many callers place orders at the same time." default:"16"`
	// The databases are new ones under a temporary folder where these are left out.
	InventoryDatabase string `help:"Where inventory's data is, such as an empty PostgreSQL database; a new SQLite file where it is left out." placeholder:"ADDRESS"`
	OrdersDatabase    string `help:"Where orders' data is." placeholder:"ADDRESS"`
	File              string `arg:"" help:"The invoices: CSV, gzipped if it ends in .gz." type:"existingfile"`
}

// Run replays the file on a new pair and returns an error for every violation.
func (r replay) Run(ctx context.Context) (err error) {
	invoices, counts, err := readInvoices(r.File)
	if err != nil {
		return err
	}
	counts.print(os.Stdout)

	folder, err := os.MkdirTemp("", "roundtrip-replay-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	inventory, err := r.service(ctx, "inventory", r.InventoryDatabase, folder)
	if err != nil {
		return err
	}
	orders, err := r.service(ctx, "orders", r.OrdersDatabase, folder)
	if err != nil {
		return err
	}
	p, err := pair.StartPair(ctx, folder, inventory, orders)
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
		defer cancel()
		err = errors.Join(err, p.Stop(stopping))
	}()

	if err := importStock(ctx, p.Inventory.URL, invoices); err != nil {
		return err
	}
	result, err := r.place(ctx, p.Orders.URL, invoices)
	if err != nil {
		return err
	}
	result.print(os.Stdout)
	violations := []error{result.violation(), waitSettled(ctx, p.Orders.URL)}
	for _, audit := range [][]string{
		{inventory.Binary, "audit", inventory.Args[0]},
		{orders.Binary, "audit", orders.Args[0], "--inventory-url=" + p.Inventory.URL},
	} {
		violations = append(violations, runAudit(ctx, audit))
	}
	return errors.Join(violations...)
}

// service says how to start one service on a database, which is migrated first
// where the service does not do that itself.
func (r replay) service(ctx context.Context, name, database, folder string) (pair.Options, error) {
	binary := filepath.Join(r.Bin, name)
	if database == "" {
		return pair.Options{Binary: binary, Args: []string{"--database=sqlite:" + filepath.Join(folder, name+".db")}}, nil
	}
	if out, err := exec.CommandContext(ctx, binary, "migrate", "up", "--database="+database).CombinedOutput(); err != nil {
		return pair.Options{}, fmt.Errorf("%s migrate up: %w\n%s", name, err, out)
	}
	return pair.Options{Binary: binary, Args: []string{"--database=" + database}}, nil
}

// importStock imports every SKU with as many units as all invoices need.
func importStock(ctx context.Context, inventory string, invoices []invoice) error {
	need := map[string]int64{}
	for _, inv := range invoices {
		for _, l := range inv.lines {
			need[l.SKU] += l.Quantity
		}
	}
	var stock bytes.Buffer
	rows := csv.NewWriter(&stock)
	_ = rows.Write([]string{"sku", "name", "location", "on_hand"}) // a bytes.Buffer takes everything
	for _, sku := range slices.Sorted(maps.Keys(need)) {
		_ = rows.Write([]string{sku, "", "main", strconv.FormatInt(need[sku], 10)})
	}
	rows.Flush()

	request, err := http.NewRequestWithContext(ctx, http.MethodPost, inventory+"/v1/stock/import", &stock)
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
	var last struct{ Rows, Done int }
	for {
		last.Rows, last.Done = 0, 0
		if err := report.Decode(&last); errors.Is(err, io.EOF) {
			return errors.New("import stock: the report has no last line")
		} else if err != nil {
			return fmt.Errorf("import stock: %w", err)
		}
		if last.Rows > 0 {
			break
		}
	}
	fmt.Printf("%d SKUs imported.\n", last.Done)
	if last.Done != len(need) {
		return fmt.Errorf("import stock: %d of %d SKUs were imported", last.Done, len(need))
	}
	return nil
}

// outcome counts how orders were answered.
type outcome struct {
	placed, rejected, unknown, failed int
	firstFailure                      string
	took                              time.Duration
	latencies                         []time.Duration
}

// answer is one response to a place.
type answer struct {
	status int
	body   []byte
	err    error
	took   time.Duration
}

func (r replay) place(ctx context.Context, orders string, invoices []invoice) (outcome, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: r.Callers}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	bar := progressbar.NewOptions(len(invoices), progressbar.OptionSetDescription("placing"), progressbar.OptionShowCount(),
		progressbar.OptionShowIts(), progressbar.OptionSetItsString("orders"), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetWriter(os.Stderr), progressbar.OptionClearOnFinish())

	answers := make([]answer, len(invoices))
	var callers errgroup.Group
	callers.SetLimit(r.Callers)
	began := time.Now()
	for i, inv := range invoices {
		if ctx.Err() != nil {
			break
		}
		callers.Go(func() error {
			answers[i] = placeOne(ctx, client, orders, inv)
			return bar.Add(1)
		})
	}
	if err := errors.Join(callers.Wait(), bar.Finish(), ctx.Err()); err != nil {
		return outcome{}, err
	}
	return tally(answers, time.Since(began)), nil
}

func placeOne(ctx context.Context, client *http.Client, orders string, inv invoice) answer {
	body, err := json.Marshal(map[string]any{"customer": inv.customer, "currency": "GBP", "lines": inv.lines})
	if err != nil {
		return answer{err: err}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, orders+"/v1/orders/invoice-"+inv.number, bytes.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	request.Header.Set("Content-Type", "application/json")
	began := time.Now()
	response, err := client.Do(request)
	if err != nil {
		return answer{err: err, took: time.Since(began)}
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, got, err, time.Since(began)}
}

func tally(answers []answer, took time.Duration) outcome {
	o := outcome{took: took}
	for _, a := range answers {
		o.latencies = append(o.latencies, a.took)
		switch {
		case a.err == nil && (a.status == http.StatusCreated || a.status == http.StatusOK):
			o.placed++
		case a.err == nil && a.status == http.StatusConflict:
			o.rejected++
		case a.err == nil && a.status == http.StatusAccepted:
			o.unknown++
		default:
			o.failed++
			if o.firstFailure == "" {
				o.firstFailure = fmt.Sprintf("%d %s %v", a.status, a.body, a.err)
			}
		}
	}
	slices.Sort(o.latencies)
	return o
}

// quantile is the latency that a share of the requests did not exceed (nearest
// rank).
func (o outcome) quantile(share float64) time.Duration {
	if len(o.latencies) == 0 {
		return 0
	}
	rank := int(math.Ceil(share*float64(len(o.latencies)))) - 1
	return o.latencies[min(max(rank, 0), len(o.latencies)-1)]
}

func (o outcome) print(out io.Writer) {
	fmt.Fprintf(out, "placed %d   rejected %d   unknown %d   failed %d\n", o.placed, o.rejected, o.unknown, o.failed)
	fmt.Fprintf(out, "%.0f orders/s over %s   p50 %s   p99 %s   p99.9 %s   max %s\n",
		float64(len(o.latencies))/o.took.Seconds(), o.took.Round(10*time.Millisecond),
		o.quantile(0.5).Round(10*time.Microsecond), o.quantile(0.99).Round(10*time.Microsecond),
		o.quantile(0.999).Round(10*time.Microsecond), o.quantile(1).Round(10*time.Microsecond))
}

// violation is an error where stock that was enough was refused, or an order failed.
func (o outcome) violation() error {
	if o.rejected > 0 || o.failed > 0 {
		return fmt.Errorf("there was stock for every order, yet %d were rejected and %d failed: %s", o.rejected, o.failed, o.firstFailure)
	}
	return nil
}

// waitSettled waits until no order is pending.
func waitSettled(ctx context.Context, orders string) error {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, orders+"/v1/orders?state=pending&limit=1", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return fmt.Errorf("wait until all is settled: %w", err)
		}
		var pending struct{ Orders []any }
		err = json.NewDecoder(response.Body).Decode(&pending)
		response.Body.Close()
		if err != nil {
			return fmt.Errorf("wait until all is settled: %w", err)
		}
		if len(pending.Orders) == 0 {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("orders are still pending after %s", settleWithin)
		}
	}
}

// runAudit runs a service's own audit and shows what it says.
func runAudit(ctx context.Context, command []string) error {
	audit := exec.CommandContext(ctx, command[0], command[1:]...)
	audit.Stdout, audit.Stderr = os.Stdout, os.Stderr
	fmt.Printf("%s audit: ", filepath.Base(command[0]))
	if err := audit.Run(); err != nil {
		return fmt.Errorf("%s audit: %w", filepath.Base(command[0]), err)
	}
	return nil
}
