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

// benchCommand measures in short rounds. In each round everything that is
// compared takes its turn, in an order that is reversed every other round, so
// that whatever else the machine does hits all alike. A figure is the median of
// the rounds; a ratio is the median of the rounds' ratios.
type benchCommand struct {
	Bin     string        `help:"Folder with the two binaries." default:".build" type:"existingdir"`
	Rounds  int           `help:"How many rounds there are." default:"3"`
	Slice   time.Duration `help:"For how long each case is measured in a round." default:"3s"`
	Only    string        `help:"Measure only what has a name that this regular expression matches, such as 'SQLite .* merged'. Names are STORE WIRE merged, STORE WIRE one each, echo http and pgbench." placeholder:"REGEXP"`
	Reports string        `help:"The folder to write the table into." default:".reports" type:"path"`
}

// warmUp goes before each slice and is not measured.
const warmUp = 400 * time.Millisecond

// benchCase is one row of the table.
type benchCase struct {
	// store is where the pair keeps its state, or what is measured beside it.
	store string
	// wire is what carries its exchanges; "" for what has none.
	wire string
	// merged says that a batch holds what is waiting, not one request.
	merged bool
	// hot says that all orders are for one SKU, not any of 10,000.
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

// The figures of a case. Those that are not measured are NaN.
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

// contender is a pair that takes its turn.
type contender struct {
	store   string
	wire    string
	merged  bool
	subject *subject
	// folder holds the databases on SQLite; postgres is nil there.
	folder   string
	postgres *containers.Postgres
}

// bench is one run.
type bench struct {
	benchCommand
	// only is what is measured; nil for everything.
	only     *regexp.Regexp
	folder   string
	postgres *containers.Postgres
	// limit is the database of pgbench.
	limit   string
	results map[benchCase][]figures
	facts   facts
	bar     *progressbar.ProgressBar
}

var callerCounts = []int{1, 16, 64}

// The wires are compared where the least else takes time: on SQLite, merged, with
// 10,000 SKUs, with few and with many callers.
var (
	wires            = []string{overHTTP, overGRPC, overNATS}
	wireCallerCounts = []int{1, 64}
)

// name is what --only chooses by.
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

// wants tells whether something is measured in this run.
func (b *bench) wants(store, wire string, merged bool) bool {
	return b.only == nil || b.only.MatchString(name(store, wire, merged))
}

// wantsPostgres tells whether a server is needed.
func (b *bench) wantsPostgres() bool {
	return b.wants(onPgbench, "", false) || b.wants(onPostgres, overHTTP, true) || b.wants(onPostgres, overHTTP, false)
}

// takes tells whether a contender is measured in a case.
func (c contender) takes(hot bool, callers int) bool {
	switch {
	case c.store == onEcho: // it knows no SKUs
		return !hot
	case c.wire != overHTTP:
		return !hot && slices.Contains(wireCallerCounts, callers)
	}
	return true
}

// Help is shown below the flags' summary.
func (benchCommand) Help() string {
	return `SQLite and PostgreSQL, 1, 16 and 64 callers, 10,000 SKUs and one, with transactions that serve many callers and with one each; the three wires between orders and inventory; beside them two hops of JSON with nothing behind them, and pgbench making the row changes of one reservation in each transaction. Everything is measured in turns, in several short rounds, so figures of one run may be compared with each other; figures of two runs may not. docs/performance.md says how to read the table.`
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

	// Pairs, echoes and pgbench take turns; then the syncs of what is on PostgreSQL.
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

// makeLimit makes inventory's schema for pgbench, and in it the stock that the
// pairs have.
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

// start starts a pair with stock.
func (b *bench) start(ctx context.Context, store, wire string, merged bool) (contender, error) {
	c := contender{store: store, wire: wire, merged: merged, folder: filepath.Join(b.folder, strings.ReplaceAll(name(store, wire, merged), " ", "-"))}
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
	if c.subject, err = t.start(ctx, c.folder, args...); err != nil {
		return c, err
	}
	return c, c.subject.importStock(ctx, plentyOfAll())
}

// startEcho starts a pair of echoes.
func (b *bench) startEcho(ctx context.Context) (contender, error) {
	self, err := os.Executable()
	if err != nil {
		return contender{}, err
	}
	echoes, err := processes.StartPair(ctx, b.folder, processes.Wire{Name: overHTTP}, processes.Options{Binary: self}, processes.Options{Binary: self})
	return contender{store: onEcho, wire: overHTTP, subject: &subject{Pair: echoes}}, err
}

// contenders are the pairs that this run measures, not started.
func (b *bench) contenders() []contender {
	var all []contender
	for _, store := range []string{onSQLite, onPostgres} {
		for _, merged := range []bool{true, false} {
			all = append(all, contender{store: store, wire: overHTTP, merged: merged})
		}
	}
	for _, wire := range wires[1:] { // HTTP is there
		all = append(all, contender{store: onSQLite, wire: wire, merged: true})
	}
	return slices.DeleteFunc(all, func(c contender) bool { return !b.wants(c.store, c.wire, c.merged) })
}

// compare runs the rounds, and audits every pair at the end.
func (b *bench) compare(ctx context.Context) (err error) {
	var contenders []contender
	defer func() {
		for _, c := range contenders {
			err = errors.Join(err, c.subject.stop(ctx))
		}
	}()
	for _, c := range b.contenders() {
		if c, err = b.start(ctx, c.store, c.wire, c.merged); err != nil {
			return err
		}
		contenders = append(contenders, c)
	}
	if b.wants(onEcho, overHTTP, false) {
		echoes, err := b.startEcho(ctx)
		if err != nil {
			return err
		}
		contenders = append(contenders, echoes)
	}

	for round := range b.Rounds {
		for _, callers := range callerCounts {
			for _, hot := range []bool{false, true} {
				for _, c := range contenders {
					if !c.takes(hot, callers) {
						continue
					}
					if err := b.turn(ctx, c, hot, callers); err != nil {
						return err
					}
				}
				slices.Reverse(contenders)
			}
		}
		slices.Reverse(contenders)
		for _, hot := range []bool{round%2 == 0, round%2 != 0} {
			if !b.wants(onPgbench, "", false) {
				continue
			}
			if err := b.turnOfPgbench(ctx, hot); err != nil {
				return err
			}
		}
	}
	return b.close(ctx, contenders)
}

// close notes the pairs' memory and audits them.
func (b *bench) close(ctx context.Context, contenders []contender) error {
	for _, c := range contenders {
		if c.store == onEcho {
			continue
		}
		if c.merged {
			for service, process := range map[string]*processes.Process{"orders": c.subject.Orders, "inventory": c.subject.Inventory} {
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
		if err := c.subject.audit(ctx); err != nil {
			return err
		}
	}
	if !b.wants(onPgbench, "", false) {
		return nil
	}
	// That pgbench makes the changes of a reservation is shown by the same audit.
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

// turn measures one contender once.
func (b *bench) turn(ctx context.Context, c contender, hot bool, callers int) error {
	if _, err := measure(ctx, c.subject.Orders.URL, newPlacing(skusOf(hot)), pace{callers: callers, duration: warmUp}, func() {}); err != nil {
		return err
	}
	before, err := c.used(ctx)
	if err != nil {
		return err
	}
	result, err := c.place(ctx, hot, pace{callers: callers, duration: b.Slice})
	if err != nil {
		return err
	}
	f, err := c.used(ctx)
	if err != nil {
		return err
	}
	for i := cpuOrders; i <= syncs; i++ {
		f[i] = (f[i] - before[i]) / float64(result.total.counts[done])
	}
	f[perSecond] = result.throughput(result.total)
	f[p50], f[p99] = result.total.quantile(0.5).Seconds()*1000, result.total.quantile(0.99).Seconds()*1000
	b.note(benchCase{c.store, c.wire, c.merged, hot, callers}, f)
	return nil
}

func (b *bench) note(c benchCase, f figures) {
	b.results[c] = append(b.results[c], f)
	_ = b.bar.Add(1) // it only shows
}

// place places orders. What was not known in time or was refused is not done;
// an order that is rejected or fails is an error.
func (c contender) place(ctx context.Context, hot bool, p pace) (result, error) {
	samples, err := measure(ctx, c.subject.Orders.URL, newPlacing(skusOf(hot)), p, func() {})
	if err != nil {
		return result{}, err
	}
	r := tally(samples)
	if err := r.violation(); err != nil {
		return r, fmt.Errorf("%s, %s: %w", c.store, p, err)
	}
	return r, nil
}

// used is what has been used so far: each process's milliseconds of processor
// time (so that for one order they are seconds for 1,000), and the syncs.
func (c contender) used(ctx context.Context) (figures, error) {
	f := noFigures()
	for figure, pid := range map[int]int{cpuOrders: c.subject.Orders.PID(), cpuInventory: c.subject.Inventory.PID(), cpuLoad: os.Getpid()} {
		cpu, err := processCPU(pid)
		if err != nil {
			return f, err
		}
		f[figure] = cpu.Seconds() * 1000
	}
	switch c.store {
	case onSQLite:
		f[syncs] = 0
		for _, service := range []string{"inventory", "orders"} {
			n, err := fileSyncs(filepath.Join(c.folder, service+".db"))
			if err != nil {
				return f, err
			}
			f[syncs] += float64(n)
		}
	case onPostgres:
		cpu, err := c.postgres.CPU(ctx)
		if err != nil {
			return f, err
		}
		f[cpuPostgres] = cpu.Seconds() * 1000
	}
	return f, nil
}

const pgbenchClients = 64

func (b *bench) turnOfPgbench(ctx context.Context, hot bool) error {
	before, err := b.postgres.CPU(ctx)
	if err != nil {
		return err
	}
	result, err := pgbench(ctx, b.postgres, b.limit, pgbenchClients, skusOf(hot), b.Slice)
	if err != nil {
		return err
	}
	after, err := b.postgres.CPU(ctx)
	if err != nil {
		return err
	}
	f := noFigures()
	f[perSecond], f[cpuPostgres] = result.perSecond, (after-before).Seconds()*1000/float64(result.done)
	b.note(benchCase{onPgbench, "", false, hot, pgbenchClients}, f)
	return nil
}

// countSyncs measures how often PostgreSQL asks the disk to confirm. A connection
// tells the server what it did when it ends at the latest, so each case has a pair
// to itself that is stopped before the server is asked, and nothing else is
// measured here.
func (b *bench) countSyncs(ctx context.Context) error {
	for _, merged := range []bool{true, false} {
		if !b.wants(onPostgres, overHTTP, merged) {
			continue
		}
		if err := b.countSyncsOf(ctx, merged); err != nil {
			return err
		}
	}
	if !b.wants(onPgbench, "", false) {
		return nil
	}
	before, err := serverSyncs(ctx, b.postgres)
	if err != nil {
		return err
	}
	result, err := pgbench(ctx, b.postgres, b.limit, pgbenchClients, allSKUs, b.Slice)
	if err != nil {
		return err
	}
	after, err := serverSyncs(ctx, b.postgres)
	b.noteSyncs(benchCase{onPgbench, "", false, false, pgbenchClients}, after-before, result.done)
	return err
}

func (b *bench) countSyncsOf(ctx context.Context, merged bool) (err error) {
	c, err := b.start(ctx, onPostgres, overHTTP, merged)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.subject.stop(ctx)) }()
	before, err := c.restart(ctx)
	for _, callers := range callerCounts {
		for _, hot := range []bool{false, true} {
			if err != nil {
				return err
			}
			result, err := c.place(ctx, hot, pace{callers: callers, duration: b.Slice})
			if err != nil {
				return err
			}
			after, err := c.restart(ctx)
			if err != nil {
				return err
			}
			b.noteSyncs(benchCase{onPostgres, overHTTP, merged, hot, callers}, after-before, result.total.counts[done])
			before = after
		}
	}
	return err
}

func (b *bench) noteSyncs(c benchCase, n, orders int) {
	f := noFigures()
	f[syncs] = float64(n) / float64(orders)
	b.note(c, f)
}

// restart stops the pair, counts the server's syncs, and starts it again.
func (c contender) restart(ctx context.Context) (int, error) {
	if err := c.subject.stop(ctx); err != nil {
		return 0, err
	}
	n, err := serverSyncs(ctx, c.postgres)
	for _, process := range []**processes.Process{&c.subject.Inventory, &c.subject.Orders} {
		if err == nil {
			*process, err = (*process).Again(ctx)
		}
	}
	return n, err
}

// starts is how often each start is timed.
const starts = 7

// timeStarts measures how long it is from the start of a process on SQLite until
// it takes requests; not in a run of some cases only.
func (b *bench) timeStarts(ctx context.Context) error {
	if b.only != nil {
		return nil
	}
	for i := range starts {
		for _, service := range []string{"inventory", "orders"} {
			for _, database := range []string{"new", "existing"} {
				o, err := target{Bin: b.Bin}.service(ctx, service, "", filepath.Join(b.folder, fmt.Sprint("start-", i)))
				if err != nil {
					return err
				}
				began := time.Now()
				process, err := processes.Start(ctx, o)
				took := time.Since(began)
				if err == nil {
					err = process.Stop(ctx)
				}
				if err != nil {
					return err
				}
				name := service + ", " + database + " database"
				b.facts.ready[name] = append(b.facts.ready[name], took.Seconds()*1000)
			}
		}
	}
	return nil
}
