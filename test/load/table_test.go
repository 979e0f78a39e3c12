package main

import (
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRatioIsMedianOfRounds(t *testing.T) {
	t.Parallel()
	of, to := benchCase{store: onSQLite, merged: true}, benchCase{store: onSQLite}
	b := &bench{results: map[benchCase][]figures{}}
	if got := b.ratios(of, to); len(got) > 0 {
		t.Errorf("without rounds: %g", got)
	}
	// The machine is sometimes busy, for both cases. The ratio of the medians, 100 and
	// 30, would differ.
	for _, round := range []struct{ of, to float64 }{{300, 30}, {20, 5}, {100, 50}} {
		for c, orders := range map[benchCase]float64{of: round.of, to: round.to} {
			f := noFigures()
			f[perSecond] = orders
			b.results[c] = append(b.results[c], f)
		}
	}
	// Syncs are counted in an extra round.
	for _, c := range []benchCase{of, to} {
		f := noFigures()
		f[syncs] = 1
		b.results[c] = append(b.results[c], f)
	}
	if got := b.ratios(of, to); !slices.Equal(got, []float64{2, 4, 10}) || median(got) != 4 {
		t.Errorf("got %g", got)
	}
}

func TestWireRatiosAreComparedPerRound(t *testing.T) {
	t.Parallel()
	b := &bench{results: map[benchCase][]figures{}}
	for wire, rounds := range map[string][]float64{overHTTP: {100, 80, 300}, overGRPC: {50, 100, 240}, overNATS: {75, 90, 270}} {
		if got := b.wireRatios(64); len(got) > 0 {
			t.Errorf("without %s: %g", wire, got)
		}
		for _, orders := range rounds {
			f := noFigures()
			f[perSecond] = orders
			c := benchCase{onSQLite, wire, true, false, 64}
			b.results[c] = append(b.results[c], f)
		}
	}
	if got := b.wireRatios(64); !slices.Equal(got, []float64{0.5, 0.8, 0.8}) {
		t.Errorf("got %g", got)
	}
}

func TestOnlyFlagSelectsCases(t *testing.T) {
	t.Parallel()
	for only, want := range map[string]int{"": 6, "SQLite .* merged": 3, "one each": 2, "nats": 1, "echo|pgbench": 0} {
		b := &bench{}
		if only != "" {
			b.only = regexp.MustCompile(only)
		}
		if got := b.candidates(); len(got) != want {
			t.Errorf("%q: %v", only, got)
		}
	}
}

func TestMedianIgnoresMissingValues(t *testing.T) {
	t.Parallel()
	none := math.NaN()
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3, 1, 2}, 2}, {[]float64{4, 1, none, 2, 9}, 3}, {[]float64{none, 7}, 7}, {[]float64{none}, none}, {nil, none},
	} {
		if got := median(test.values); got != test.want && !(math.IsNaN(got) && math.IsNaN(test.want)) {
			t.Errorf("%v: got %g, want %g", test.values, got, test.want)
		}
	}
}

func TestGoalIsReachedOrMissed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		goal   goal
		spread string
		want   string
	}{
		{goal{wanted: 4, reached: []float64{4}}, "", "reached"},
		{goal{wanted: 4, reached: []float64{3.99}}, "", "missed"},
		{goal{wanted: 4, reached: []float64{5, 3.9, 4}}, "3.90 … 5.00", "reached"},
		{goal{wanted: 4, reached: []float64{9, 3.9, 3}}, "3.00 … 9.00", "missed"},
		{goal{wanted: 200, below: true, reached: []float64{200}}, "", "reached"},
		{goal{wanted: 200, below: true, reached: []float64{201}}, "", "missed"},
		// A goal without measurements is missed.
		{goal{wanted: 4, reached: []float64{math.NaN()}}, "", "missed"},
		{goal{wanted: 4, below: true}, "", "missed"},
	} {
		if got := test.goal.row(); got[3] != test.spread || got[4] != test.want {
			t.Errorf("%+v: got %v", test.goal, got)
		}
	}
}

func TestTableHasARowForEveryCase(t *testing.T) {
	t.Parallel()
	b := &bench{benchCommand: benchCommand{Rounds: 3, Slice: time.Second}, results: map[benchCase][]figures{}, facts: readFacts()}
	c := benchCase{onPostgres, overHTTP, true, true, 64}
	f := noFigures()
	f[perSecond], f[syncs] = 4321, 0.17
	b.results[c] = []figures{f}
	table := b.table()
	rows := 0
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "|") {
			continue
		}
		rows++
		if columns := strings.Count(line, "|") - 1; columns != 14 && columns != 5 {
			t.Errorf("%d columns: %s", columns, line)
		}
		if strings.Contains(line, "NaN") {
			t.Errorf("a figure is NaN: %s", line)
		}
		if strings.Contains(line, "4321") && (!strings.HasPrefix(line, "| PostgreSQL | http |      1 |      64 |") || !strings.Contains(line, "0.17")) {
			t.Errorf("in the row of another case: %s", line)
		}
	}
	// Two tables with two lines of headings; 24 cases on HTTP, 4 on other wires, 3 echoes, 2 of pgbench; 11 goals.
	if want := 4 + 24 + 4 + 3 + 2 + 11; rows != want {
		t.Errorf("%d rows, want %d:\n%s", rows, want, table)
	}
}
