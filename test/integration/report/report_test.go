package report

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// lostResponse is the timeline of a place whose response from inventory is lost. The
// settler settles it.
var lostResponse = []Event{
	{From: Caller, To: Orders, AtMS: 0, UntilMS: 1.4, Text: "PUT /v1/orders/a", Detail: "request 7f3a, deadline 1 s"},
	{AtMS: 0.5, UntilMS: 3200, Text: "responses lost"},
	{From: Orders, To: Inventory, AtMS: 3.1, UntilMS: 403, Text: "PutReservation, attempt 1", Detail: "seq 1", Lost: true},
	{From: Orders, To: Inventory, AtMS: 452, UntilMS: 852, Text: "PutReservation, attempt 2", Detail: "seq 1", Lost: true},
	{From: Orders, To: Caller, AtMS: 853, UntilMS: 854.2, Text: "202 pending"},
	{From: Orders, To: Inventory, AtMS: 3410, UntilMS: 3412, Text: "PutReservation, attempt 3", Detail: "seq 1", Repair: true},
	{From: Inventory, To: Orders, AtMS: 3419, UntilMS: 3421, Text: "ok, held already", Repair: true},
	{From: Caller, To: Orders, AtMS: 3500, UntilMS: 3501, Text: "GET /v1/orders/a"},
	{From: Orders, To: Caller, AtMS: 3503, UntilMS: 3504, Text: "200 placed"},
}

var quick = []Event{
	{From: Caller, To: Orders, AtMS: 0, UntilMS: 0.8, Text: "PUT /v1/orders/0198c7e2-5d1a-7c3e-9a41-2f6b8c0d1e77"},
	{From: Orders, To: Inventory, AtMS: 2.2, UntilMS: 2.9, Text: "PutReservation, attempt 1"},
	{From: Inventory, To: Orders, AtMS: 6.5, UntilMS: 7.1, Text: "ok"},
	{From: Orders, To: Orders, AtMS: 7.2, UntilMS: 9.4, Text: "outcome written"},
	{From: Orders, To: Caller, AtMS: 9.6, UntilMS: 10.1, Text: "200 placed"},
}

// sample is a report with one cell of every kind. Extra rows make it as large as a
// real one.
func sample(extra int) Report {
	row := func(name, about string, change func(*Cell), stores ...string) Row {
		r := Row{Name: name, About: about}
		for _, exchange := range exchanges {
			for _, wire := range wires {
				for _, store := range stores {
					c := Cell{Exchange: exchange, Wire: wire, Store: store, Result: Passed, Requests: 40, Attempts: 40, P99MS: 14.2, MostLateMS: -985, Timeline: quick}
					change(&c)
					r.Cells = append(r.Cells, c)
				}
			}
		}
		return r
	}
	faulty := func(c *Cell) {
		c.Unknown, c.Attempts, c.P99MS, c.MostLateMS, c.SettledMS, c.Timeline = 3, 97, 858, 12, 2340, lostResponse
		if c.Exchange == "availability" {
			*c = Cell{Exchange: c.Exchange, Wire: c.Wire, Store: c.Store, Result: Impossible, Why: "It only reads, so a lost response leaves no unknown outcome."}
		}
	}
	r := Report{
		Version: "v0.4.0-12-gc3f8563", Began: time.Date(2026, 11, 27, 9, 2, 0, 0, time.UTC), Seconds: 284.3, Machine: "linux/amd64, 2 processors, Docker 28.0",
		Sections: []Section{
			{Title: "Outcomes", About: "Each exchange on a real network, with every outcome that a caller can cause. The response, both databases and both logs had to agree.", Rows: []Row{
				row("Done", "Enough in stock.", func(*Cell) {}, "sqlite", "postgres"),
				row("Out of stock", "There is one unit fewer than ordered.", func(c *Cell) {
					if c.Exchange == "cancel" || c.Exchange == "confirm" {
						c.Result, c.Why, c.Timeline = Impossible, "It takes nothing from stock.", nil
					}
				}, "sqlite", "postgres"),
			}},
			{Title: "Faults", About: "Each exchange during a fault. No response comes more than a second after its deadline, an unknown outcome is a 202, and all intents are settled within 30 seconds after the fault.", Rows: []Row{
				row("The reply is lost", "Inventory commits. Then the connection breaks before the response.", faulty, "postgres"),
				row("Inventory is paused", "SIGSTOP past the deadline, then SIGCONT.", func(c *Cell) {
					faulty(c)
					if c.Exchange == "amend" && c.Wire == "nats" {
						c.Result, c.MostLateMS = Failed, 1310
						c.Why = "most late: 1310 ms past the deadline, want at most 1000\norder 0198c7e2-5d1a-7c3e-9a41-2f6b8c0d1e77: <script>alert(1)</script> & http://example.org/"
					}
				}, "postgres"),
				row("The disk is full", "The volume with the SQLite database is full.", func(c *Cell) {
					if c.Wire == "nats" {
						c.Result, c.Why, c.Timeline = Impossible, "NATS needs no disk.", nil
					}
				}, "sqlite"),
			}},
		},
	}
	faults := &r.Sections[1]
	faults.Rows[2].Cells = slices.DeleteFunc(faults.Rows[2].Cells, func(c Cell) bool { return c.Exchange == "confirm" && c.Wire == "grpc" })
	for range extra {
		faults.Rows = append(faults.Rows, row("Latency beyond the deadline", "Two seconds each way.", faulty, "postgres"))
	}
	return r
}

func write(t *testing.T, r Report) string {
	t.Helper()
	page, err := r.Write(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return read(t, page)
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestPageShowsEveryCell(t *testing.T) {
	t.Parallel()
	r := sample(0)
	// A cell with an unknown exchange and wire is shown, too.
	r.Sections[0].Rows[0].Cells = append(r.Sections[0].Rows[0].Cells, Cell{Exchange: "stocktake", Wire: "carrier pigeon", Store: "postgres", Result: Passed})
	page := write(t, r)
	want := 0
	for _, s := range r.Sections {
		for _, row := range s.Rows {
			want += len(row.Cells)
			for _, c := range row.Cells {
				name := (cellView{Cell: c}).Name()
				if !strings.Contains(page, `aria-label="`+name+": "+string(c.Result)) {
					t.Errorf("%s: no cell %s, %s", row.Name, name, c.Result)
				}
			}
		}
	}
	for _, id := range regexp.MustCompile(`<article id="(c\d+)"`).FindAllStringSubmatch(page, -1) {
		want--
		if !strings.Contains(page, `popovertarget="`+id[1]+`" aria-label`) {
			t.Errorf("no button in the matrix opens %s", id[1])
		}
	}
	if want != 0 {
		t.Errorf("%d cells have no details", want)
	}
}

func TestPageEscapesText(t *testing.T) {
	t.Parallel()
	page := write(t, sample(0))
	if strings.Contains(page, "<script>alert") || !strings.Contains(page, "&lt;script&gt;alert") {
		t.Error("a script in a text is not escaped")
	}
}

func TestPageIsSelfContained(t *testing.T) {
	t.Parallel()
	page := write(t, sample(0))
	if found := regexp.MustCompile(`(?i)(src|href|action|data)\s*=|url\([^#]|@import|<(link|iframe|base|object)\b`).FindString(page); found != "" {
		t.Errorf("the page refers to another file: %q", found)
	}
	if !strings.Contains(page, `content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"`) {
		t.Error("the page may load other files")
	}
}

func TestMissingCellIsAnError(t *testing.T) {
	t.Parallel()
	v := view(sample(0))
	if v.Missing != 1 || !v.Bad() {
		t.Errorf("missing: %d, bad: %t", v.Missing, v.Bad())
	}
	page := write(t, sample(0))
	for _, want := range []string{`<div class="cell missing" title="No data for confirm over grpc">`, `<b>The disk is full</b>: no data for confirm over grpc`} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func TestCellWithoutAReasonFails(t *testing.T) {
	t.Parallel()
	for _, result := range []Result{"", "skipped", Failed, Impossible} {
		v := view(Report{Sections: []Section{{Rows: []Row{{Cells: []Cell{{Exchange: "place", Wire: "http", Result: result}}}}}}})
		c := v.Matrices[0].Lines[0].Slots[0].Cells[0]
		if v.Failed != 1 || c.Result != Failed || c.Why == "" {
			t.Errorf("%q: %d failed, the cell %s: %s", result, v.Failed, c.Result, c.Why)
		}
	}
}

func TestFailuresAreListed(t *testing.T) {
	t.Parallel()
	page := write(t, sample(0))
	if !regexp.MustCompile(`popovertarget="c\d+">Inventory is paused: amend over nats on postgres</button>`).MatchString(page) {
		t.Error("no failure links to its cell")
	}
	var fine Report
	if page := write(t, fine); strings.Contains(page, "Failures</h2>") {
		t.Error("a report without failures lists failures")
	}
}

func TestDataFileContainsReport(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if _, err := sample(0).Write(folder); err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(sample(0))
	if err != nil {
		t.Fatal(err)
	}
	if read(t, filepath.Join(folder, "data.json")) != string(want) {
		t.Error("data.json is not the report's JSON")
	}
}

func TestFailedWriteKeepsOldFile(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"index.html", "data.json"} {
		folder := t.TempDir()
		if _, err := sample(0).Write(folder); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(folder, name)
		good := read(t, path)
		// The new file can't be written.
		if err := os.Mkdir(path+".new", 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := (Report{}).Write(folder); err == nil {
			t.Errorf("%s was not written, without an error", name)
		}
		if read(t, path) != good {
			t.Errorf("%s was replaced", name)
		}
	}
}

func TestWriteLeavesTwoFiles(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "new", "folder")
	for range 2 {
		if _, err := sample(0).Write(folder); err != nil {
			t.Fatal(err)
		}
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	if !slices.Equal(names, []string{"data.json", "index.html"}) {
		t.Errorf("the folder has %q", names)
	}
}

func TestLargeReportStaysBelowFiveMegabytes(t *testing.T) {
	t.Parallel()
	r := sample(28)
	for _, row := range r.Sections[1].Rows {
		for i := range row.Cells {
			row.Cells[i].Timeline = slices.Repeat(lostResponse, 4)
		}
	}
	if size := len(write(t, r)); size > 5<<20 {
		t.Errorf("the page has %d bytes", size)
	}
}

func TestDiagramKeepsEventOrder(t *testing.T) {
	t.Parallel()
	d := draw(lostResponse)
	last := diagramTop
	for _, m := range d.Messages {
		if m.Y <= last && m.AtMS > 0 {
			t.Errorf("%s at %d is not below %d", m.Text, m.Y, last)
		}
		last = m.Y
		if at := (textAt{clock(m.AtMS), 0, m.Y + 4}); !slices.Contains(d.Times, at) {
			t.Errorf("%s: no time %v", m.Text, at)
		}
	}
	if last > d.Height {
		t.Errorf("%d is below the diagram's end, %d", last, d.Height)
	}
	if got := d.Gaps; len(got) != 1 || got[0].Text != "⋮ 2.3 s" {
		t.Errorf("gaps: %v", got)
	}
}

func TestDiagramLabelsDoNotOverlap(t *testing.T) {
	t.Parallel()
	// The worst case is all events at once.
	timeline := slices.Repeat([]Event{{From: Orders, To: Inventory, AtMS: 5, UntilMS: 5, Text: "PutReservation"}}, 40)
	d := draw(timeline)
	for i := 1; i < len(d.Messages); i++ {
		if d.Messages[i].Y-d.Messages[i-1].Y < textRoom {
			t.Fatalf("message %d is at %d, the one before at %d", i, d.Messages[i].Y, d.Messages[i-1].Y)
		}
	}
	slices.SortFunc(d.Times, func(a, b textAt) int { return cmp.Compare(a.Y, b.Y) })
	for i := 1; i < len(d.Times); i++ {
		if d.Times[i].Y-d.Times[i-1].Y < timeRoom {
			t.Fatalf("time %v hides %v", d.Times[i], d.Times[i-1])
		}
	}
}

func TestDiagramMarksLostMessages(t *testing.T) {
	t.Parallel()
	for _, m := range draw(lostResponse).Messages {
		if (m.Wait != "") != m.Lost || strings.Contains(m.Class(), "lost") != m.Lost {
			t.Errorf("%s, lost %t: wait %q, class %q", m.Text, m.Lost, m.Wait, m.Class())
		}
		// Half way from orders to inventory.
		if arrives := strings.Contains(m.Path, "L690 "); m.To == Inventory && arrives == m.Lost {
			t.Errorf("%s, lost %t: %s", m.Text, m.Lost, m.Path)
		}
	}
}

func TestDiagramShowsFaultDuration(t *testing.T) {
	t.Parallel()
	d := draw(lostResponse)
	band := d.Notes[0]
	for _, m := range d.Messages {
		inside := m.Y > band.Top && m.Y < band.Top+band.Height
		if during := m.AtMS > band.AtMS && m.AtMS < band.UntilMS; inside != during {
			t.Errorf("%s at %.0f ms: in the band %t, during the fault %t", m.Text, m.AtMS, inside, during)
		}
	}
}

func TestLongLabelIsShortened(t *testing.T) {
	t.Parallel()
	m := draw(quick).Messages[0]
	if got := len([]rune(m.Label)); got != longestLabel || !strings.Contains(m.Title(), m.Text) {
		t.Errorf("%d letters: %q, title %q", got, m.Label, m.Title())
	}
}
