package integration

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"roundtrip/test/integration/report"
)

// section is a section of the report. Its rows are in the order in which row made
// them.
type section struct {
	title, about string

	mu   sync.Mutex
	rows []*row
}

// row is a row of a section.
type row struct {
	section     *section
	name, about string
	cells       []*cell
}

// row finds or makes a row.
func (s *section) row(name, about string) *row {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows {
		if r.name == name {
			return r
		}
	}
	s.rows = append(s.rows, &row{section: s, name: name, about: about})
	return s.rows[len(s.rows)-1]
}

// The sections, in the report's order.
var (
	outcomes = &section{title: "Each exchange to each outcome", about: "No fault. Checked for each request: the response, orders' row, inventory's reservation, " +
		"levels and ledger, the same request id in both logs, and one attempt."}
	faults = &section{title: "Each exchange under each fault", about: "One request of each exchange is sent during the fault. No response comes more than a second after its " +
		"deadline. An unknown outcome is 202. Reads that need no inventory succeed. Within 30 s after the fault all intents are settled, both services agree, and the audits find nothing."}
	races = &section{title: "Races", about: "A request or response arrives late, after another decision was made."}
	loads = &section{title: "Faults and replacements under load", about: "Several callers place, amend, confirm and cancel orders. Each retries until it gets a final response. Afterwards every " +
		"order agrees with its caller's responses."}
	oldOrders    = &section{title: "The previous version of orders with this inventory", about: "On the current schema: each exchange to each outcome, and lost responses."}
	oldInventory = &section{title: "The previous version of inventory with this orders", about: oldOrders.about}
)

// cell is a cell of the report while its case runs.
type cell struct {
	testing.TB
	report.Cell
	reasons []string
	// order selects the cell's calls by order. If it is "", the cell has all calls of
	// its exchange.
	order string
}

// explained has the names of failed tests whose cell has a reason.
var explained sync.Map

// Errorf fails the test and adds the reason to the cell.
func (c *cell) Errorf(format string, args ...any) {
	c.Helper()
	explained.Store(c.Name(), true)
	c.TB.Errorf(format, args...)
	c.reasons = append(c.reasons, fmt.Sprintf(format, args...))
}

// open adds a cell for each exchange to a row. The cells of the given exchanges are
// failed until [system.close]. The others are impossible for the reason whyNot.
func (r *row) open(t testing.TB, wire, store, whyNot string, exchanges ...string) map[string]*cell {
	opened := map[string]*cell{}
	for _, e := range allExchanges {
		c := &cell{TB: t, Cell: report.Cell{Exchange: e, Wire: wire, Store: store, Result: report.Impossible, Why: whyNot}}
		if slices.Contains(exchanges, e) {
			c.Result, c.Why = report.Failed, "The case ended early. See its output."
			opened[e] = c
		}
		r.add(c)
	}
	return opened
}

func (r *row) add(c *cell) {
	r.section.mu.Lock()
	defer r.section.mu.Unlock()
	r.cells = append(r.cells, c)
}

// close fills the cells with the results of the case. A failure without a cell of
// its own fails all cells.
func (sys *system) close(opened map[string]*cell) {
	sys.Helper()
	b := sys.readLogs()
	for exchange, c := range opened {
		calls := sys.recorder.of(exchange, c.order)
		var durations, lateness []time.Duration
		for _, call := range calls {
			c.Requests++
			durations = append(durations, call.end.Sub(call.began))
			switch {
			case call.response.Err != nil:
				c.Broken++
				continue
			case call.unknown():
				c.Unknown++
			case call.refused():
				c.Refused++
			}
			c.Attempts += b.attempts(call.requestID)
			lateness = append(lateness, call.late())
			if call.late() > time.Second {
				c.Errorf("%s %s: the response came %s after the deadline, with %d", call.operation, call.order, call.late(), call.response.Status)
			}
		}
		slices.Sort(durations)
		if len(durations) > 0 {
			c.P99MS = float64(durations[(len(durations)*99-1)/100].Microseconds()) / 1000
		} else {
			c.Errorf("no request was sent")
		}
		if len(lateness) > 0 {
			c.MostLateMS = float64(slices.Max(lateness).Microseconds()) / 1000
		}
		c.SettledMS = float64(sys.recorder.settled.Microseconds()) / 1000
		if len(calls) > 0 {
			c.Timeline = sys.timeline(b, pickCall(calls))
		}
	}
	_, known := explained.Load(sys.Name())
	for _, c := range opened {
		switch {
		case len(c.reasons) > 0:
			c.Why = strings.Join(c.reasons, "\n")
		case sys.Failed() && !known:
			c.Why = "Another part of the case failed. See its output."
		default:
			c.Result, c.Why = report.Passed, ""
		}
	}
}

// pickCall picks the call whose timeline is shown: the first with an unknown
// outcome, or else the longest.
func pickCall(calls []call) call {
	if i := slices.IndexFunc(calls, call.unknown); i >= 0 {
		return calls[i]
	}
	return slices.MaxFunc(calls, func(a, b call) int { return cmp.Compare(a.end.Sub(a.began), b.end.Sub(b.began)) })
}

// buildReport makes the report of the run.
func buildReport(began time.Time) report.Report {
	r := report.Report{Version: version(), Began: began, Seconds: time.Since(began).Seconds(), Machine: machine()}
	for _, s := range []*section{outcomes, faults, races, loads, oldOrders, oldInventory} {
		if len(s.rows) == 0 { // it was not run
			continue
		}
		part := report.Section{Title: s.title, About: s.about}
		for _, row := range s.rows {
			written := report.Row{Name: row.name, About: row.about}
			for _, c := range row.cells {
				written.Cells = append(written.Cells, c.Cell)
			}
			part.Rows = append(part.Rows, written)
		}
		r.Sections = append(r.Sections, part)
	}
	return r
}
