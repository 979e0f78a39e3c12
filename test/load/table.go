package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// facts are measured once in a run, or describe the machine.
type facts struct {
	when             time.Time
	cpu, kernel      string
	loadBefore       string
	memory           map[string]float64   // MiB, by service and store
	ready            map[string][]float64 // ms, by service and database
	cores, goVersion string
}

func readFacts() facts {
	read := func(path string) string {
		text, _ := os.ReadFile(path) // a missing file leaves the fact empty
		return strings.TrimSpace(string(text))
	}
	f := facts{
		when: time.Now(), kernel: read("/proc/sys/kernel/osrelease"), cpu: "unknown processor",
		memory: map[string]float64{}, ready: map[string][]float64{},
		cores: fmt.Sprint(runtime.NumCPU()), goVersion: runtime.Version(),
	}
	if model := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindStringSubmatch(read("/proc/cpuinfo")); model != nil {
		f.cpu = model[1]
	}
	f.loadBefore, _, _ = strings.Cut(read("/proc/loadavg"), " ")
	return f
}

// measured returns the values that are not NaN, sorted.
func measured(values []float64) []float64 {
	return slices.Sorted(func(yield func(float64) bool) {
		for _, v := range values {
			if !math.IsNaN(v) && !yield(v) {
				return
			}
		}
	})
}

// median is the median of the measured values, or NaN if there are none.
func median(values []float64) float64 {
	sorted := measured(values)
	n := len(sorted)
	if n == 0 {
		return math.NaN()
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func pick(rounds []figures, figure int) []float64 {
	values := make([]float64, len(rounds))
	for i, f := range rounds {
		values[i] = f[figure]
	}
	return values
}

// ratios returns, for each round, the ratio of two cases' orders a second.
func (b *bench) ratios(of, to benchCase) []float64 {
	var ratios []float64
	for i := range min(len(b.results[of]), len(b.results[to])) {
		ratios = append(ratios, b.results[of][i][perSecond]/b.results[to][i][perSecond])
	}
	return measured(ratios)
}

// wireRatios returns, for each round, the ratio of the slowest wire's orders a second
// to the fastest wire's.
func (b *bench) wireRatios(callers int) []float64 {
	var ratios []float64
	for round := 0; ; round++ {
		var perWire []float64
		for _, wire := range wires {
			rounds := b.results[benchCase{onSQLite, wire, true, false, callers}]
			if round >= len(rounds) {
				return measured(ratios)
			}
			perWire = append(perWire, rounds[round][perSecond])
		}
		ratios = append(ratios, slices.Min(perWire)/slices.Max(perWire))
	}
}

// number formats a figure for the table.
func number(v float64, decimals int) string {
	if math.IsNaN(v) {
		return "–"
	}
	return fmt.Sprintf("%.*f", decimals, v)
}

// table returns the results in Markdown.
func (b *bench) table() string {
	var out strings.Builder
	f := b.facts
	fmt.Fprintf(&out, "%s, on %s cores of %s (Linux %s, %s), which the services, the databases and the load share.\n",
		f.when.UTC().Format("2006-01-02 15:04 UTC"), f.cores, f.cpu, f.kernel, f.goVersion)
	fmt.Fprintf(&out, "%d rounds of %s a case; the machine's load was %s before.\n\n", b.Rounds, b.Slice, f.loadBefore)

	rows := [][]string{{"store", "wire", "SKUs", "callers", "transactions", "orders/s", "× one each", "p50 ms", "p99 ms",
		"CPU s per 1,000: orders", "inventory", "PostgreSQL", "load", "syncs an order"}}
	add := func(c benchCase, transactions string, times float64) {
		if b.only == nil || len(b.results[c]) > 0 {
			rows = append(rows, b.row(c, transactions, times))
		}
	}
	for _, store := range []string{onSQLite, onPostgres} {
		for _, hot := range []bool{false, true} {
			for _, callers := range callerCounts {
				for _, merged := range []bool{false, true} {
					c := benchCase{store, overHTTP, merged, hot, callers}
					one := c
					one.merged = false
					times := math.NaN()
					if merged {
						times = median(b.ratios(c, one))
					}
					add(c, transactions(merged), times)
				}
			}
		}
	}
	for _, wire := range wires[1:] {
		for _, callers := range wireCallerCounts {
			add(benchCase{onSQLite, wire, true, false, callers}, transactions(true), math.NaN())
		}
	}
	for _, callers := range callerCounts {
		add(benchCase{onEcho, overHTTP, false, false, callers}, "none: two hops of JSON", math.NaN())
	}
	for _, hot := range []bool{false, true} {
		add(benchCase{onPgbench, "", false, hot, pgbenchClients}, "one reservation each", math.NaN())
	}
	writeTable(&out, rows)

	out.WriteString("\n")
	goals := [][]string{{"goal", "wanted", "reached", "least … most", ""}}
	for _, g := range b.goals() {
		if b.only != nil && len(measured(g.reached)) == 0 {
			continue
		}
		goals = append(goals, g.row())
	}
	writeTable(&out, goals)
	return out.String()
}

func (b *bench) row(c benchCase, transactions string, times float64) []string {
	rounds := b.results[c]
	row := []string{c.store, cmp.Or(c.wire, "–"), map[bool]string{true: "1", false: "10,000"}[c.hot], fmt.Sprint(c.callers), transactions,
		number(median(pick(rounds, perSecond)), 0), number(times, 2)}
	if c.store == onEcho {
		row[2] = "–"
	}
	for _, figure := range []int{p50, p99, cpuOrders, cpuInventory, cpuPostgres, cpuLoad, syncs} {
		row = append(row, number(median(pick(rounds, figure)), 2))
	}
	return row
}

// goal is a performance goal.
type goal struct {
	what string
	// reached has the value of each round. The median counts.
	reached []float64
	// wanted is the minimum. If below is set, it is the maximum.
	wanted float64
	below  bool
	unit   string
}

func (g goal) row() []string {
	reached := median(g.reached)
	sign, met := "≥", reached >= g.wanted
	if g.below {
		sign, met = "≤", reached <= g.wanted
	}
	result := "missed"
	if met {
		result = "reached"
	}
	spread := ""
	if sorted := measured(g.reached); len(sorted) > 1 {
		spread = fmt.Sprintf("%.2f … %.2f", sorted[0], sorted[len(sorted)-1])
	}
	return []string{g.what, fmt.Sprintf("%s %g%s", sign, g.wanted, g.unit), number(reached, 2) + g.unit, spread, result}
}

// equal is the minimum ratio of two cases that do the same work: with one caller
// there is nothing to merge, so the difference is noise.
const equal = 0.95

func (b *bench) goals() []goal {
	var goals []goal
	for _, store := range []string{onSQLite, onPostgres} {
		at := func(merged, hot bool, callers int) benchCase { return benchCase{store, overHTTP, merged, hot, callers} }
		goals = append(goals,
			goal{what: store + ": merged against one each, 64 callers, 10,000 SKUs", wanted: 4, unit: " ×", reached: b.ratios(at(true, false, 64), at(false, false, 64))},
			goal{what: store + ": merged against one each, 64 callers, one SKU", wanted: 4, unit: " ×", reached: b.ratios(at(true, true, 64), at(false, true, 64))},
			goal{what: store + ": one SKU against 10,000, 64 callers", wanted: 0.9, unit: " ×", reached: b.ratios(at(true, true, 64), at(true, false, 64))},
			goal{what: store + ": merged against one each, one caller", wanted: equal, unit: " ×", reached: b.ratios(at(true, false, 1), at(false, false, 1))},
			goal{what: store + ": orders/s against pgbench's reservations/s, 64 callers", wanted: 1, unit: " ×",
				reached: b.ratios(at(true, false, 64), benchCase{onPgbench, "", false, false, pgbenchClients})},
		)
	}
	goals = append(goals, goal{what: "the slowest wire against the fastest, 64 callers", wanted: 0.75, unit: " ×", reached: b.wireRatios(64)})
	for _, name := range slices.Sorted(maps.Keys(b.facts.memory)) {
		goals = append(goals, goal{what: "most resident memory of " + name, wanted: 64, below: true, unit: " MiB", reached: []float64{b.facts.memory[name]}})
	}
	for _, name := range slices.Sorted(maps.Keys(b.facts.ready)) {
		goals = append(goals, goal{what: "from start to ready on SQLite: " + name, wanted: 200, below: true, unit: " ms", reached: b.facts.ready[name]})
	}
	return goals
}

// writeTable writes a Markdown table with aligned columns.
func writeTable(out *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for r, row := range rows {
		for i, cell := range row {
			padding := strings.Repeat(" ", widths[i]-len([]rune(cell)))
			if i == 0 {
				fmt.Fprintf(out, "| %s%s ", cell, padding)
			} else {
				fmt.Fprintf(out, "| %s%s ", padding, cell)
			}
		}
		out.WriteString("|\n")
		if r > 0 {
			continue
		}
		for i, width := range widths {
			if i == 0 {
				fmt.Fprintf(out, "|:%s-", strings.Repeat("-", width))
			} else {
				fmt.Fprintf(out, "|-%s:", strings.Repeat("-", width))
			}
		}
		out.WriteString("|\n")
	}
}
