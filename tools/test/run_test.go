package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// buffer collects the output of a run.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func shell(name, script string, slot slot) part {
	return part{name: name, slot: slot, commands: []command{{argv: []string{"sh", "-c", script}}}}
}

// runParts runs parts in a new folder. Their commands have its path in $FOLDER.
func runParts(t *testing.T, ctx context.Context, parts ...part) (status int, out, folder string) {
	t.Helper()
	folder = t.TempDir()
	for _, p := range parts {
		for i := range p.commands {
			p.commands[i].env = append(p.commands[i].env, "FOLDER="+folder)
		}
	}
	var printed buffer
	status = newRunner(&printed, filepath.Join(folder, "logs"), limits{tests: 2, computes: 1}, false).run(ctx, parts)
	return status, printed.String(), folder
}

func after(p part, names ...string) part { p.after = names; return p }
func needs(p part, names ...string) part { p.needs = names; return p }

func contains(t *testing.T, out string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("%q is missing in:\n%s", text, out)
		}
	}
}

func TestPartsRunInParallelAndInOrder(t *testing.T) {
	t.Parallel()
	// first and second wait for each other, so both must run at the same time.
	meet := func(mine, other string) string {
		return "touch $FOLDER/" + mine + "; until [ -e $FOLDER/" + other + " ]; do sleep 0.01; done"
	}
	status, out, _ := runParts(t, t.Context(),
		shell("first", meet("a", "b")+"; echo 'ok  \tpackage\t1s'; echo 'not of interest'", tests),
		after(shell("third", "[ -e $FOLDER/first-ended ]", tests), "second"),
		shell("second", meet("b", "a")+"; sleep 0.1; touch $FOLDER/first-ended", tests),
	)
	if status != 0 {
		t.Errorf("the status is %d", status)
	}
	contains(t, out, "first ok after", "ok  \tpackage\t1s\n", "third   0:00  ok", "== all passed")
	if strings.Contains(out, "not of interest") {
		t.Errorf("the run prints too much:\n%s", out)
	}
}

func TestFailureIsPrintedAndOtherPartsContinue(t *testing.T) {
	t.Parallel()
	status, out, folder := runParts(t, t.Context(),
		shell("bad", "echo '=== RUN   TestX'; echo 'x.go:1: it broke'; exit 3", computes),
		needs(shell("needs", "touch $FOLDER/needs", tests), "bad"),
		after(shell("after", "touch $FOLDER/after", tests), "bad"),
	)
	if status != 1 {
		t.Errorf("the status is %d", status)
	}
	contains(t, out, "x.go:1: it broke", "FAILED after 0:00: bad ("+filepath.Join(folder, "logs", "bad.log")+")", "== not run because of that: needs")
	if strings.Contains(out, "TestX") {
		t.Errorf("the run prints noise:\n%s", out)
	}
	if _, err := os.Stat(filepath.Join(folder, "after")); err != nil {
		t.Errorf("the part that only comes after it did not run: %v", err)
	}
	if _, err := os.Stat(filepath.Join(folder, "needs")); err == nil {
		t.Error("the part that needs it ran")
	}
}

func TestHeldPartEndsAfterItsUsers(t *testing.T) {
	t.Parallel()
	engine := shell("engine", "echo ready; cat; touch $FOLDER/released", downloads)
	engine.holds = true
	use := `[ -n "$ROUNDTRIP_ENGINE" ] && sleep 0.1 && [ ! -e $FOLDER/released ]`
	status, out, folder := runParts(t, t.Context(), engine, needs(shell("use", use, tests), "engine"))
	if status != 0 {
		t.Errorf("the status is %d:\n%s", status, out)
	}
	if _, err := os.Stat(filepath.Join(folder, "released")); err != nil {
		t.Error(err)
	}
}

func TestInterruptReachesTheProcessesOfAPart(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	engine := shell("engine", "echo ready; cat; [ -e $FOLDER/clean ] && touch $FOLDER/released", downloads)
	engine.holds = true
	use := needs(shell("use", `trap 'sleep 0.1; touch $FOLDER/clean; exit 1' INT; touch "$STARTED"; while :; do sleep 0.01; done`, tests), "engine")
	started := filepath.Join(t.TempDir(), "started")
	use.commands[0].env = []string{"STARTED=" + started}
	go func() {
		defer cancel()
		for ctx.Err() == nil {
			if _, err := os.Stat(started); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	status, out, folder := runParts(t, ctx, engine, use, needs(shell("later", "true", tests), "use"))
	if status != 130 {
		t.Errorf("the status is %d", status)
	}
	contains(t, out, "later   0:00  not run", "== stopped after")
	if _, err := os.Stat(filepath.Join(folder, "released")); err != nil {
		t.Errorf("the engine ended before its user had cleaned up: %v", err)
	}
}

func TestEveryPartOfTheTableCanBeChosen(t *testing.T) {
	t.Parallel()
	all, err := parts()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, p := range all {
		names[p.name] = true
		if len(p.commands) == 0 && p.late == nil {
			t.Errorf("%s has no commands", p.name)
		}
		if _, err := choose(all, []string{p.name}); err != nil {
			t.Error(err)
		}
		for _, n := range append(p.needs, p.after...) {
			if !names[n] {
				t.Errorf("%s comes before %s in the table", p.name, n)
			}
		}
	}
	for name, g := range groups {
		if chosen, err := choose(all, g.parts); err != nil || len(chosen) < len(g.parts) {
			t.Errorf("%s: %v", name, err)
		}
	}
	check, err := choose(all, groups["check"].parts)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range check {
		if p.brings != "" && p.name != "linter" { // Go builds the linter
			t.Errorf("make check installs %s", p.brings)
		}
	}
}
