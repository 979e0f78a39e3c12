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

// section is a part of the report; its rows come in the order in which they are first
// asked for.
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

// row finds a row, or makes it.
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
	outcomes = &section{title: "Each exchange, to each outcome", about: "Nothing is broken. Of each request: what its caller was told, orders' row, inventory's reservation, " +
		"levels and ledger, the same request id in both logs, and one attempt."}
	faults = &section{title: "Each exchange, while the wire or the other side is broken", about: "One request of each exchange is made while the fault lasts. None is answered more than a second past its " +
		"deadline; what orders can't know is 202; reads that need no inventory go on. Afterwards everything is settled within 30 s, both sides agree, and the audits find nothing."}
	races = &section{title: "Requests and answers that are overtaken", about: "What comes late meets what was decided meanwhile."}
	loads = &section{title: "Under load, while a part is broken or replaced", about: "Several callers take orders through their lives, and each repeats what was not answered for good. Afterwards every " +
		"order is what its caller was told."}
	oldOrders    = &section{title: "The last version of orders beside this inventory", about: "On today's schema: each exchange to each outcome, and replies that vanish."}
	oldInventory = &section{title: "The last version of inventory beside this orders", about: oldOrders.about}
)

// cell is one of the report's, while its case runs.
type cell struct {
	testing.TB
	report.Cell
	reasons []string
	// order is that of the calls which are the cell's; all of its exchange's where it
	// is empty.
	order string
}

// explained has the names of the tests of which a cell says why they failed.
var explained sync.Map

// Errorf fails the test, and the cell says why.
func (c *cell) Errorf(format string, args ...any) {
	c.Helper()
	explained.Store(c.Name(), true)
	c.TB.Errorf(format, args...)
	c.reasons = append(c.reasons, fmt.Sprintf(format, args...))
}

// open puts a cell for each exchange into a row. They are failed until they are
// closed. The other exchanges' cells say why they can't be.
func (r *row) open(t testing.TB, wire, store, whyNot string, exchanges ...string) map[string]*cell {
	opened := map[string]*cell{}
	for _, e := range everyExchange {
		c := &cell{TB: t, Cell: report.Cell{Exchange: e, Wire: wire, Store: store, Result: report.Impossible, Why: whyNot}}
		if slices.Contains(exchanges, e) {
			c.Result, c.Why = report.Failed, "The case ended before this was known; its output says why."
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

// close fills the cells of a pair's case with what happened. A failure that no cell
// explains is one of all.
func (p *pair) close(opened map[string]*cell) {
	p.Helper()
	b := p.read()
	for exchange, c := range opened {
		calls := p.diary.of(exchange, c.order)
		var durations, lateness []time.Duration
		for _, call := range calls {
			c.Requests++
			durations = append(durations, call.ended.Sub(call.began))
			switch {
			case call.reply.Err != nil:
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
				c.Errorf("%s %s was answered %s past its deadline, with %d", call.operation, call.order, call.late(), call.reply.Status)
			}
		}
		slices.Sort(durations)
		if len(durations) > 0 {
			c.P99MS = float64(durations[(len(durations)*99-1)/100].Microseconds()) / 1000
		} else {
			c.Errorf("there was no request for it")
		}
		if len(lateness) > 0 {
			c.MostLateMS = float64(slices.Max(lateness).Microseconds()) / 1000
		}
		c.SettledMS = float64(p.diary.settled.Microseconds()) / 1000
		if len(calls) > 0 {
			c.Story = p.story(b, tell(calls))
		}
	}
	_, known := explained.Load(p.Name())
	for _, c := range opened {
		switch {
		case len(c.reasons) > 0:
			c.Why = strings.Join(c.reasons, "\n")
		case p.Failed() && !known:
			c.Why = "Something of the case failed; its output says what."
		default:
			c.Result, c.Why = report.Passed, ""
		}
	}
}

// tell picks the call whose story is told: the first that was not answered for good,
// else the longest.
func tell(calls []call) call {
	if i := slices.IndexFunc(calls, call.unknown); i >= 0 {
		return calls[i]
	}
	return slices.MaxFunc(calls, func(a, b call) int { return cmp.Compare(a.ended.Sub(a.began), b.ended.Sub(b.began)) })
}

// theReport is that of the whole run.
func theReport(began time.Time) report.Report {
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
