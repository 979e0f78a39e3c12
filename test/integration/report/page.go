package report

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"slices"
	"time"
)

//go:embed page.html
var pageSource string

var pageTemplate = template.Must(template.New("page").Parse(pageSource))

// The columns of every matrix. Exchanges and wires of other cells are added.
var (
	exchanges = []string{"place", "amend", "confirm", "cancel", "reservation", "availability"}
	wires     = []string{"http", "grpc", "nats"}
)

// Write writes index.html and data.json into the folder and returns the path of
// index.html, which needs no other file. It replaces each file atomically.
func (r Report) Write(folder string) (page string, err error) {
	data, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("encode the report's data: %w", err)
	}
	var html bytes.Buffer
	if err := pageTemplate.Execute(&html, view(r)); err != nil {
		return "", fmt.Errorf("render the report: %w", err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	page = filepath.Join(folder, "index.html")
	if err := errors.Join(replace(filepath.Join(folder, "data.json"), data), replace(page, html.Bytes())); err != nil {
		return "", err
	}
	return page, nil
}

// replace writes a file atomically.
func replace(path string, content []byte) error {
	fresh := path + ".new"
	if err := os.WriteFile(fresh, content, 0o644); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}

// pageView is a report as the page shows it.
type pageView struct {
	Report
	Passed, Failed, Impossible, Missing int
	Matrices                            []matrix
}

type matrix struct {
	Section
	Exchanges, Wires []string
	// Stores says that there are several stores, so that each cell names its own.
	Stores bool
	Lines  []line
}

type line struct {
	Row
	Slots []slot
}

// slot has the cells of an exchange and a wire in a row. Without cells it is missing.
type slot struct {
	Exchange, Wire string
	Cells          []cellView
}

type cellView struct {
	Cell
	ID      string
	Diagram diagram
}

func view(r Report) pageView {
	v := pageView{Report: r}
	for _, s := range r.Sections {
		m := matrix{Section: s, Exchanges: slices.Clone(exchanges), Wires: slices.Clone(wires)}
		var stores []string
		for _, row := range s.Rows {
			for _, c := range row.Cells {
				m.Exchanges, m.Wires = include(m.Exchanges, c.Exchange), include(m.Wires, c.Wire)
				if c.Store != "" {
					stores = include(stores, c.Store)
				}
			}
		}
		m.Stores = len(stores) > 1
		for _, row := range s.Rows {
			l := line{Row: row}
			for _, exchange := range m.Exchanges {
				for _, wire := range m.Wires {
					l.Slots = append(l.Slots, slot{exchange, wire, v.cells(row, exchange, wire)})
				}
			}
			m.Lines = append(m.Lines, l)
		}
		v.Matrices = append(v.Matrices, m)
	}
	return v
}

// cells returns the row's cells for an exchange and a wire, and counts their results.
// A cell that has not passed and has no reason counts as failed.
func (v *pageView) cells(row Row, exchange, wire string) []cellView {
	var found []cellView
	for _, c := range row.Cells {
		if c.Exchange != exchange || c.Wire != wire {
			continue
		}
		switch {
		case c.Result == Passed:
			v.Passed++
		case c.Result == Impossible && c.Why != "":
			v.Impossible++
		default:
			if c.Why == "" {
				c.Why = fmt.Sprintf("The result is %q, without a reason.", c.Result)
			}
			c.Result = Failed
			v.Failed++
		}
		id := fmt.Sprintf("c%d", v.Passed+v.Impossible+v.Failed)
		found = append(found, cellView{c, id, draw(c.Timeline)})
	}
	if found == nil {
		v.Missing++
	}
	return found
}

func include(all []string, one string) []string {
	if slices.Contains(all, one) {
		return all
	}
	return append(all, one)
}

// The following methods are for the page.

// When is the start of the run.
func (v pageView) When() string { return v.Began.UTC().Format("2 January 2006, 15:04 UTC") }

// Took is the duration of the run.
func (v pageView) Took() time.Duration {
	return time.Duration(v.Seconds * float64(time.Second)).Round(time.Second)
}

// Bad says that the run failed.
func (v pageView) Bad() bool { return v.Failed+v.Missing > 0 }

// Missing returns the slots without a cell.
func (l line) Missing() []slot {
	return slices.DeleteFunc(slices.Clone(l.Slots), func(s slot) bool { return s.Cells != nil })
}

// Failed returns the failed cells.
func (l line) Failed() []cellView {
	var failed []cellView
	for _, s := range l.Slots {
		for _, c := range s.Cells {
			if c.Result == Failed {
				failed = append(failed, c)
			}
		}
	}
	return failed
}

// First says that the slot is its exchange's first.
func (m matrix) First(i int) bool { return i%len(m.Wires) == 0 }

// Sign is the symbol of the result.
func (c cellView) Sign() string {
	return map[Result]string{Passed: "✓", Failed: "✗", Impossible: "–"}[c.Result]
}

// Name identifies the cell in its row.
func (c cellView) Name() string {
	name := c.Exchange + " over " + c.Wire
	if c.Store != "" {
		name += " on " + c.Store
	}
	return name
}

// Settled is the time until all intents were settled, or "" if there were none.
func (c cellView) Settled() string {
	if c.SettledMS == 0 {
		return ""
	}
	return duration(c.SettledMS)
}

// P99 is the 99th percentile of the latency.
func (c cellView) P99() string { return duration(c.P99MS) }

// Late says how long before or after its deadline the latest response came.
func (c cellView) Late() string {
	if c.MostLateMS < 0 {
		return duration(-c.MostLateMS) + " early"
	}
	return duration(c.MostLateMS) + " late"
}
