package order

import (
	"slices"
	"strings"
	"testing"
)

// forEachCell runs a check for each cell of a table. The table's first line is its
// heading: a word for the rows, and the name of each column. Every other line has a
// row's name and a word for each column. The cell "-" is not checked. The table must have
// each of rows exactly once, in this order.
func forEachCell(t *testing.T, rows, columns []string, table string, check func(t *testing.T, row string, column int, cell string)) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(table), "\n")
	if heading := strings.Fields(lines[0])[1:]; !slices.Equal(heading, columns) {
		t.Fatalf("the table has the columns %v, want %v", heading, columns)
	}
	var seen []string
	for _, line := range lines[1:] {
		cells := strings.Fields(line)
		if len(cells) != len(columns)+1 {
			t.Fatalf("%q has %d cells for %d columns", line, len(cells)-1, len(columns))
		}
		seen = append(seen, cells[0])
		for i, cell := range cells[1:] {
			if cell == "-" {
				continue
			}
			t.Run(cells[0]+" "+columns[i], func(t *testing.T) { check(t, cells[0], i, cell) })
		}
	}
	if !slices.Equal(seen, rows) {
		t.Errorf("the table has the rows %v, want %v", seen, rows)
	}
}
