// Command mutants checks that the integration tests find bugs. For each of its bugs, it
// builds the services' images with that bug, runs the tests, and prints the cells that
// fail. If no test finds a bug, the tests have a gap, and the command exits 1.
//
//	mutants [NAME…]
//
// The bugs are edits of the source for the build only (go build -overlay). They do not
// change the product's files. It is an error if the text of an edit is missing from the
// source or occurs twice, or if a test can't start.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"roundtrip/test/integration/report"
)

// mutant is a bug, and the tests that must find it.
type mutant struct {
	name  string
	edits []edit
	test  string
}

// edit replaces a text in a file.
type edit struct{ file, old, new string }

const (
	put      = "services/inventory/internal/stock/put.go"
	expiry   = "services/inventory/internal/stock/unit_of_work.go"
	postgres = "services/inventory/internal/store/postgres.go"
	command  = "services/orders/internal/order/command.go"
	classify = "services/orders/internal/order/classify.go"
	protocol = "services/orders/internal/order/protocol.go"
	client   = "services/orders/internal/inventory/inventory.go"
)

var mutants = []mutant{
	{"no tombstone on release", []edit{{put,
		"	case p.Seq > r.Seq:\n",
		"	case p.Seq > r.Seq && p.State == Released && r.State == None:\n		return Result{Reservation: Reservation{ID: p.ID, Seq: p.Seq, State: Released}}\n	case p.Seq > r.Seq:\n",
	}}, "^TestCancelOvertakesRequest$"},
	{"no fence", []edit{
		{put, "	case p.Seq < r.Seq:\n", "	case false:\n"},
		{put, "	case p.Seq > r.Seq:\n", "	case p.Seq != r.Seq:\n"},
	}, "^TestCancelOvertakesRequest$"},
	{"a new seq on each retry", []edit{{client,
		"		answer, err = c.wire.PutReservation(ctx, n, r)\n",
		"		again := r\n		again.Seq += int64(n - 1)\n		answer, err = c.wire.PutReservation(ctx, n, again)\n",
	}}, "^TestEachExchangeUnderEachFault$/^the_response_lost"},
	{"the intent written after the exchange", []edit{{protocol,
		"	result := p.begin(ctx, c)\n	if problem.CodeOf",
		"	if place, ok := c.(Place); ok {\n		o := Order{ID: place.ID, HoldSeconds: place.HoldSeconds, Intent: &Intent{Operation: PlaceOperation, Seq: 1, Lines: place.Lines}}\n" +
			"		_, _ = p.ask(ctx, request(o))\n	}\n	result := p.begin(ctx, c)\n	if problem.CodeOf",
	}}, "^TestOrdersKilledWhileWaitingForResponse$"},
	{"the stored outcome trusted instead of the current state", []edit{{classify,
		"&Outcome{Reservation: r.State, ExpiresAt", "&Outcome{Reservation: asked.State, ExpiresAt",
	}}, "^TestHoldExpiresAfterLostResponse$"},
	{"the outcome written without compare-and-set", []edit{{command,
		"	if o.Intent != nil && o.Intent.Seq == s.Seq {\n",
		"	if o.Intent == nil {\n		o.Intent = &Intent{Operation: s.Operation, Seq: s.Seq}\n	}\n	if true {\n",
	}}, "^TestCancelOvertakesResponse$"},
	{"stock read and then written", []edit{{postgres,
		"ORDER BY l.location, l.sku FOR UPDATE`", "ORDER BY l.location, l.sku`",
	}}, "^TestConcurrentOrdersForLastUnits$"},
	{"a 503 stored as final", []edit{{classify,
		"	p := problem.From(err)\n	switch p.Code {\n",
		"	p := problem.From(err)\n	switch p.Code {\n	case problem.Unavailable:\n		return &Outcome{Rejection: p, Reservation: ReservationNone}, \"\"\n",
	}}, "^TestEachExchangeUnderEachFault$/^inventory_answers_that_it_is_unavailable$"},
	{"the old lines dropped before the amended ones are held", []edit{{put,
		"	wanted := merge(p.Lines)\n",
		"	for _, l := range r.Lines {\n		b.move(l.Key(), 0, -l.Quantity, ReasonReleased, p.ID, p.Seq)\n	}\n	r.Lines = nil\n	wanted := merge(p.Lines)\n",
	}}, "^TestEachExchangeToEachOutcome$"},
	{"a place given up without compare-and-set", []edit{{command,
		"	if o.Intent != nil && o.Intent.Seq == g.Seq && o.Intent.Operation == PlaceOperation {\n",
		"	if o.State == Pending || o.State == Placed {\n",
	}}, "^TestPlaceRetryRacesGiveUp$"},
	{"expiry computed but not written", []edit{{expiry,
		"			b.expire(&r)\n",
		"			for _, l := range r.Lines {\n				b.level(l.Key()).Reserved -= l.Quantity\n			}\n",
	}}, "^TestEachExchangeToEachOutcome$"},
}

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, names []string) error {
	folder, err := filepath.Abs(filepath.Join(".build", "mutants"))
	if err != nil {
		return err
	}
	survivors := 0
	for _, m := range mutants {
		if len(names) > 0 && !slices.Contains(names, m.name) {
			continue
		}
		fmt.Printf("== %s\n", m.name)
		caught, err := m.try(ctx, filepath.Join(folder, strings.ReplaceAll(m.name, " ", "-")))
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if len(caught) == 0 {
			survivors++
			fmt.Println("   NO TEST FOUND IT")
		}
		for _, cell := range caught {
			fmt.Println("   found in:", cell)
		}
	}
	if survivors > 0 {
		return fmt.Errorf("the tests did not find %d bugs", survivors)
	}
	return nil
}

// tag is the tag of the images with a bug.
const tag = "mutant"

// try builds the images with the bug, runs the tests, and returns the failed cells.
func (m mutant) try(ctx context.Context, folder string) (caught []string, err error) {
	overlay, err := m.overlay(folder)
	if err != nil {
		return nil, err
	}
	if out, err := execute(ctx, "go", "run", "./deploy/image", "--here", "--load", "--tag="+tag, "--overlay="+overlay, "--out="+filepath.Join(folder, "images")); err != nil {
		return nil, fmt.Errorf("build the images: %w\n%s", err, out)
	}
	written := filepath.Join(folder, "report")
	if err := os.RemoveAll(written); err != nil {
		return nil, err
	}
	out, err := execute(ctx, "go", "test", "-count=1", "-timeout=15m", "-parallel=6", "-run", m.test, "./test/integration", "-args", "-image="+tag, "-report="+written)
	if err == nil {
		return nil, nil
	}
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(written, "data.json"))
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	var r report.Report
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, err
	}
	for _, s := range r.Sections {
		for _, row := range s.Rows {
			failed := map[string][]string{}
			for _, c := range row.Cells {
				if c.Result == report.Failed {
					failed[c.Exchange] = append(failed[c.Exchange], c.Wire)
				}
			}
			for exchange, wires := range failed {
				slices.Sort(wires)
				caught = append(caught, fmt.Sprintf("%s · %s (%s)", row.Name, exchange, strings.Join(slices.Compact(wires), ", ")))
			}
		}
	}
	slices.Sort(caught)
	if len(caught) == 0 {
		return nil, fmt.Errorf("the tests failed, but no cell failed:\n%s", out)
	}
	return caught, nil
}

// overlay writes edited copies of the files, and a file that lists them for go build.
// It returns the path of that file.
func (m mutant) overlay(folder string) (path string, err error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	changed := map[string]string{}
	for _, e := range m.edits {
		if changed[e.file] == "" {
			text, err := os.ReadFile(e.file)
			if err != nil {
				return "", err
			}
			changed[e.file] = string(text)
		}
		if n := strings.Count(changed[e.file], e.old); n != 1 {
			return "", fmt.Errorf("%s must contain this text once, but contains it %d times: %q", e.file, n, e.old)
		}
		changed[e.file] = strings.Replace(changed[e.file], e.old, e.new, 1)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	replace := map[string]string{}
	for file, text := range changed {
		edited := filepath.Join(folder, filepath.Base(file))
		if err := os.WriteFile(edited, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(here, file)] = edited
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path = filepath.Join(folder, "overlay.json")
	return path, os.WriteFile(path, text, 0o600)
}

func execute(ctx context.Context, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	// go test does not forward signals. So its whole process group gets the signal, and
	// each process cleans up.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGINT) }
	out, err := c.CombinedOutput()
	return string(out), err
}
