package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"roundtrip/test/support/containers"
	"roundtrip/test/support/processes"
)

// benchCommand measures in short rounds. Each round measures every case once. Every
// second round runs in reverse order, so that other load on the machine affects all
// cases in the same way. A figure is the median of the rounds. A ratio is the median
// of the rounds' ratios.
type benchCommand struct {
	Bin     string        `help:"Folder with the two binaries." default:".build" type:"existingdir"`
	Rounds  int           `help:"Number of rounds." default:"3"`
	Slice   time.Duration `help:"How long each case is measured in a round." default:"3s"`
	Only    string        `help:"Measure only cases whose name matches this regular expression, such as 'SQLite .* merged'. Names are STORE WIRE merged, STORE WIRE one each, echo http and pgbench." placeholder:"REGEXP"`
	Reports string        `help:"Folder for the table." default:".reports" type:"path"`
}

// warmUp precedes each slice and is not measured.
const warmUp = 400 * time.Millisecond

// benchCase is one row of the table.
type benchCase struct {
	// store is the database of the services, or the name of another measurement.
	store string
	// wire is the wire between the services, or "".
	wire string
	// merged says that group commit merges waiting calls into one transaction.
	merged bool
	// hot says that all orders are for one SKU instead of 10,000.
	hot     bool
	callers int
}

const (
	onSQLite   = "SQLite"
	onPostgres = "PostgreSQL"
	onPgbench  = "pgbench"
	onEcho     = "echo"
)

const (
	overHTTP = "http"
	overGRPC = "grpc"
	overNATS = "nats"
)

// The figures of a case. A figure that is not measured is NaN.
const (
	perSecond = iota
	p50
	p99
	cpuOrders // processor seconds for 1,000 orders
	cpuInventory
	cpuPostgres
	cpuLoad
	syncs // for one order
	figureCount
)

type figures [figureCount]float64

func noFigures() figures {
	var f figures
	for i := range f {
		f[i] = math.NaN()
	}
	return f
}

// candidate is a system that is measured.
type candidate struct {
	store  string
	wire   string
	merged bool
	system *system
	// folder has the SQLite databases. postgres is nil for SQLite.
	folder   string
	postgres *containers.Postgres
}

// bench is one run.
type bench struct {
	benchCommand
	// only selects cases. It may be nil.
	only     *regexp.Regexp
	folder   string
	postgres *containers.Postgres
	// limit is the database for pgbench.
	limit   string
	results map[benchCase][]figures
	facts   facts
	bar     *progressbar.ProgressBar
}

var callerCounts = []int{1, 16, 64}

// The wires are compared in the cases with the smallest other costs: on SQLite,
// merged, with 10,000 SKUs, with few and with many callers.
var (
	wires            = []string{overHTTP, overGRPC, overNATS}
	wireCallerCounts = []int{1, 64}
)

// name is the name for --only.
func name(store, wire string, merged bool) string {
	switch {
	case store == onPgbench:
		return store
	case store == onEcho:
		return store + " " + wire
	}
	return store + " " + wire + " " + transactions(merged)
}

func transactions(merged bool) string {
	if merged {
		return "merged"
	}
	return "one each"
}

// wants says whether this run measures a case.
func (b *bench) wants(store, wire string, merged bool) bool {
	return b.only == nil || b.only.MatchString(name(store, wire, merged))
}

// wantsPostgres says whether this run needs a PostgreSQL server.
func (b *bench) wantsPostgres() bool {
	return b.wants(onPgbench, "", false) || b.wants(onPostgres, overHTTP, true) || b.wants(onPostgres, overHTTP, false)
}

// takes says whether a case applies to a candidate.
func (c candidate) takes(hot bool, callers int) bool {
	switch {
	case c.store == onEcho: // an echo has no SKUs
		return !hot
	case c.wire != overHTTP:
		return !hot && slices.Contains(wireCallerCounts, callers)
	}
	return true
}

// Help is shown below the flags' summary.
func (benchCommand) Help() string {
	return `SQLite and PostgreSQL, 1, 16 and 64 callers, 10,000 SKUs and one, with group commit and with one transaction for each request; the three wires between orders and inventory; two hops of JSON without services; and pgbench with the row changes of one reservation in each transaction. All cases are measured in turns, in several short rounds. Compare the figures of one run only with each other. docs/performance.md says how to read the table.`
}

// Run measures everything and writes the table.
func (c benchCommand) Run(ctx context.Context) (err error) {
	b := &bench{benchCommand: c, results: map[benchCase][]figures{}, facts: readFacts()}
	if c.Only != "" {
		if b.only, err = regexp.Compile(c.Only); err != nil {
			return err
		}
	}
	if b.folder, err = os.MkdirTemp("", "roundtrip-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.folder)
	if b.wantsPostgres() {
		if b.postgres, err = containers.StartPostgres(ctx, containers.PostgresOptions{}); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.postgres.Stop(context.WithoutCancel(ctx))) }()
		if err := b.makeLimit(ctx); err != nil {
			return err
		}
	}

	// Services, echoes and pgbench take turns. Then the syncs on PostgreSQL are counted.
	cases := len(callerCounts) * 2
	b.bar = progressbar.NewOptions(c.Rounds*(4*cases+len(callerCounts)+(len(wires)-1)*len(wireCallerCounts)+2)+2*cases+1, progressbar.OptionSetDescription("bench"),
		progressbar.OptionSetWriter(os.Stderr), progressbar.OptionClearOnFinish(), progressbar.OptionShowCount())
	for _, step := range []func(context.Context) error{b.timeStarts, b.compare, b.countSyncs} {
		if err := step(ctx); err != nil {
			return errors.Join(err, b.bar.Finish())
		}
	}
	if err := b.bar.Finish(); err != nil {
		return err
	}
	table := b.table()
	fmt.Print(table)
	path := filepath.Join(c.Reports, "bench.md")
	if err := os.MkdirAll(c.Reports, 0o755); err != nil {
		return err
	}
	fmt.Printf("\nThe same as Markdown: %s\n", path)
	return os.WriteFile(path, []byte(table), 0o644)
}

// makeLimit makes a database for pgbench with inventory's schema and the same stock.
func (b *bench) makeLimit(ctx context.Context) (err error) {
	if b.limit, err = b.postgres.NewDatabase(ctx, "limit", func(address string) error {
		_, err := target{Bin: b.Bin}.service(ctx, "inventory", address, "")
		return err
	}); err != nil {
		return err
	}
	_, err = b.postgres.Run(ctx, "psql", "-c", fmt.Sprintf(`WITH made AS (
			INSERT INTO levels (location, sku, on_hand, version)
			SELECT 'main', 'sku-' || lpad(i::text, 5, '0'), %d, 1 FROM generate_series(0, %d) AS i RETURNING *)
		INSERT INTO ledger (at, location, sku, on_hand_delta, reserved_delta, on_hand, reserved, reason, ref, seq)
		SELECT now(), location, sku, on_hand, 0, on_hand, 0, 'imported', 'pgbench', row_number() OVER () FROM made`,
		plenty, allSKUs-1), b.postgres.AddressInside(b.limit))
	return err
}

// start starts both services with stock.
func (b *bench) start(ctx context.Context, store, wire string, merged bool) (candidate, error) {
	c := candidate{store: store, wire: wire, merged: merged, folder: filepath.Join(b.folder, strings.ReplaceAll(name(store, wire, merged), " ", "-"))}
	t := target{Bin: b.Bin, Wire: wire}
	var err error
	if store == onPostgres {
		c.postgres = b.postgres
		if t, err = t.on(ctx, b.postgres); err != nil {
			return c, err
		}
	}
	var args []string
	if !merged {
		args = append(args, "--batch-max=1")
	}
	if c.system, err = t.start(ctx, c.folder, args...); err != nil {
		return c, err
	}
	return c, c.system.importStock(ctx, plentyOfAll())
}

// startEcho starts two echoes.
func (b *bench) startEcho(ctx context.Context) (candidate, error) {
	self, err := os.Executable()
	if err != nil {
		return candidate{}, err
	}
	echoes, err := processes.StartSystem(ctx, b.folder, processes.Wire{Name: overHTTP}, processes.Options{Binary: self}, processes.Options{Binary: self})
	return candidate{store: onEcho, wire: overHTTP, system: &system{System: echoes}}, err
}

// candidates returns the candidates of this run. They are not started.
func (b *bench) candidates() []candidate {
	var all []candidate
	for _, store := range []string{onSQLite, onPostgres} {
		for _, merged := range []bool{true, false} {
			all = append(all, candidate{store: store, wire: overHTTP, merged: merged})
		}
	}
	for _, wire := range wires[1:] { // HTTP is in the list already
		all = append(all, candidate{store: onSQLite, wire: wire, merged: true})
	}
	return slices.DeleteFunc(all, func(c candidate) bool { return !b.wants(c.store, c.wire, c.merged) })
}

// compare runs the rounds and audits every candidate at the end.
func (b *bench) compare(ctx context.Context) (err error) {
	var candidates []candidate
	defer func() {
		for _, c := range candidates {
			err = errors.Join(err, c.system.stop(ctx))
		}
	}()
	for _, c := range b.candidates() {
		if c, err = b.start(ctx, c.store, c.wire, c.merged); err != nil {
			return err
		}
		candidates = append(candidates, c)
	}
	if b.wants(onEcho, overHTTP, false) {
		echoes, err := b.startEcho(ctx)
		if err != nil {
			return err
		}
		candidates = append(candidates, echoes)
	}

	for round := range b.Rounds {
		for _, callers := range callerCounts {
			for _, hot := range []bool{false, true} {
				for _, c := range candidates {
					if !c.takes(hot, callers) {
						continue
					}
					if err := b.turn(ctx, c, hot, callers); err != nil {
						return err
					}
				}
				slices.Reverse(candidates)
			}
		}
		slices.Reverse(candidates)
		for _, hot := range []bool{round%2 == 0, round%2 != 0} {
			if !b.wants(onPgbench, "", false) {
				continue
			}
			if err := b.turnOfPgbench(ctx, hot); err != nil {
				return err
			}
		}
	}
	return b.close(ctx, candidates)
}

// close records the candidates' memory and audits them.
func (b *bench) close(ctx context.Context, candidates []candidate) error {
	for _, c := range candidates {
		if c.store == onEcho {
			continue
		}
		if c.merged {
			for service, process := range map[string]*processes.Process{"orders": c.system.Orders, "inventory": c.system.Inventory} {
				peak, err := peakMemory(process.PID())
				if err != nil {
					return err
				}
				where := service + " on " + c.store
				if c.wire != overHTTP {
					where += ", " + c.wire
				}
				b.facts.memory[where] = float64(peak) / (1 << 20)
			}
		}
		if err := c.system.audit(ctx); err != nil {
			return err
		}
	}
	if !b.wants(onPgbench, "", false) {
		return nil
	}
	// The audit shows that pgbench makes the changes of a reservation.
	limit, err := b.postgres.Address(ctx, b.limit)
	if err != nil {
		return err
	}
	return runAudit(ctx, filepath.Join(b.Bin, "inventory"), "--database="+limit)
}

func skusOf(hot bool) int {
	if hot {
		return 1
	}
	return allSKUs
}
