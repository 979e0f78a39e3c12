package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"roundtrip/test/support/helm"
)

// part is one thing to run.
type part struct {
	name string
	// needs are parts that have to pass first, and are run even where nobody asked
	// for them. after are parts that, where they run, have to end first.
	needs, after []string
	slot         slot
	// commands run one after the other. late makes them when the part starts.
	commands []command
	late     func() ([]command, error)
	// holds says that the command prints "ready" when others may start, and then
	// keeps what they need until its standard input ends.
	holds bool
	// brings is what the part downloads or builds, and takes about how long that
	// is. there says that it is there already; it is nil where a quick look can't tell.
	brings, takes string
	there         func() bool
	// leftOut is what the part does not test in this run, and what to do about it.
	leftOut string
	// failure is why the part can't run at all.
	failure error
}

// command is a program with its arguments, and variables on top of the environment.
type command struct {
	argv []string
	env  []string
}

// slot is what a part competes for.
type slot int

const (
	// downloads wait for the network: they run at once.
	downloads slot = iota
	// computes keep a processor busy. They run at a lower priority, so that tests
	// which wait for real time are not disturbed.
	computes
	// tests wait about as much as they compute.
	tests
)

// groups are what make asks for.
var groups = map[string]struct {
	about string
	parts []string
}{
	"all": {
		"everything; on two cores about 15 minutes from nothing, 8 when all is built",
		[]string{"format", "lint", "tidy", "unit", "unit-postgres", "contract", "charts", "process", "exchanges", "engine"},
	},
	"check": {
		"what needs Go alone; on two cores about 5 minutes from nothing, 1 when all is built",
		[]string{"format", "lint", "tidy", "unit", "unit-postgres"},
	},
}

// engineVariable tells tests, and Go's cache of their results, that there is an engine.
const engineVariable = "ROUNDTRIP_ENGINE"

// parts is the table. Of the parts that may run, the first one runs.
func parts() ([]part, error) {
	goflags, err := output("go", "env", "GOFLAGS")
	if err != nil {
		return nil, err
	}
	// What does not need C is built as the product is. So Go compiles each package
	// twice in all, for the product and for the race detector, and not three times.
	static := []string{"CGO_ENABLED=0", "GOFLAGS=" + strings.TrimSpace(goflags+" -trimpath")}
	plain := func(argv ...string) command { return command{argv: argv, env: static} }
	tool := func(argv ...string) command {
		return plain(append([]string{"go", "tool", "-modfile=tools.mod"}, argv...)...)
	}
	here, err := os.Getwd()
	if err != nil {
		return nil, err
	}

	charts := part{name: "charts", needs: []string{"helm"}, slot: tests, commands: []command{
		plain("go", "test", "-timeout", "10m", "./test/charts/..."),
	}}
	if os.Getenv("CI") != "" || os.Getenv("HELM3") == "1" {
		charts.needs = append(charts.needs, "helm3")
	} else if !brought(helm.Three.Path(".tools"))() {
		charts.leftOut = "the charts with Helm 3; HELM3=1 builds it and tests them with both"
	}
	race, withoutRace, failure := raceDetector()
	return []part{
		{name: "engine", slot: downloads, holds: true,
			brings: "an engine for containers, and images of PostgreSQL, NATS and Toxiproxy", takes: "3 minutes, where they are missing",
			commands: []command{plain("go", "run", "./tools/engine", "sh", "-c", "echo ready; exec cat")}},
		{name: "pact", slot: downloads,
			brings: "Pact's library and command line", takes: "20 seconds", there: both(brought(".tools/pact-*/libpact_ffi.*"), brought(".tools/pact-*/pact")),
			commands: []command{plain("go", "run", "./tools/pact", "ffi"), plain("go", "run", "./tools/pact", "cli")}},

		{name: "format", slot: computes, commands: []command{{argv: []string{"tools/format.sh"}}}},
		{name: "tidy", slot: computes, commands: []command{plain("go", "mod", "tidy", "-diff"), plain("go", "mod", "verify")}},
		{name: "images", needs: []string{"engine"}, slot: computes, commands: []command{{argv: []string{"tools/test-images.sh"}, env: static}}},
		bringHelm("helm", helm.Four, plain), bringHelm("helm3", helm.Three, plain),
		{name: "linter", slot: computes, brings: "golangci-lint", takes: "4 minutes", there: brought(".tools/golangci-lint-*"),
			commands: []command{{argv: []string{"tools/lint.sh", "build"}}}},

		unit(part{name: "unit", failure: failure, leftOut: withoutRace}, race, func(p unitPackages) []string { return p.plain }),
		// With the packages that unit has compiled.
		{name: "lint", needs: []string{"linter"}, after: []string{"unit"}, slot: computes, commands: []command{{argv: []string{"tools/lint.sh"}}}},
		unit(part{name: "unit-postgres", after: []string{"engine", "unit"}, failure: failure}, race, func(p unitPackages) []string { return p.containers }),
		{name: "process", after: []string{"engine"}, slot: tests, commands: []command{
			// Its tests kill at random, and build the services by themselves.
			plain("go", "test", "-count=1", "-timeout", "30m", "-parallel", "4", "./test/process/..."),
		}},
		charts,
		// With the race detector, for which unit has compiled the same packages.
		{name: "contract", needs: []string{"pact"}, after: []string{"unit"}, slot: tests, commands: []command{
			{argv: []string{"tools/with-pact.sh", "go", "test", "-race", "-v", "-timeout", "10m", "-tags", "contract", "./test/contract"}, env: []string{"PACT_BROKER_BASE_URL="}},
		}},
		// Alone, at the end: its deadlines are real ones, and it wants both processors.
		{name: "exchanges", needs: []string{"engine", "images"}, slot: tests,
			after: []string{"helm", "helm3", "linter", "lint", "process", "unit", "unit-postgres", "charts", "contract"}, commands: []command{
				{argv: []string{"rm", "-rf", ".reports/integration"}},
				tool("gotestsum", "--format", "testname", "--hide-summary", "skipped", "--", "-count=1", "-timeout", "30m", "-parallel", "6", "./test/integration",
					"-args", "-report", filepath.Join(here, ".reports", "integration")),
			}},
	}, nil
}

func bringHelm(name string, version helm.Version, run func(...string) command) part {
	return part{name: name, slot: computes, brings: "Helm " + string(version), takes: "3 minutes", there: brought(version.Path(".tools")),
		commands: []command{run("go", "run", "./tools/helm", name)}}
}

// unit is a part of the unit tests. pick picks its packages.
func unit(p part, race []string, pick func(packages unitPackages) []string) part {
	p.slot = tests
	p.late = func() ([]command, error) {
		packages, err := listUnitPackages()
		if err != nil {
			return nil, err
		}
		// The part lint looks for more than go test would.
		arguments := append([]string{"go", "test", "-vet=off", "-timeout", "20m"}, race...)
		return []command{{argv: append(arguments, pick(packages)...)}}, nil
	}
	return p
}

// unitPackages are the packages with unit tests, by whether those use containers.
type unitPackages struct{ plain, containers []string }

var listUnitPackages = sync.OnceValues(func() (p unitPackages, err error) {
	out, err := output("go", "list", "-test", "-f", `{{.ImportPath}} {{join .Deps " "}}`, "./...")
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		name, isTest := strings.CutSuffix(words[0], ".test")
		suite := slices.ContainsFunc([]string{"process", "integration", "charts", "e2e"}, func(s string) bool { return strings.HasSuffix(name, "/test/"+s) })
		switch {
		case !isTest || suite:
		case slices.Contains(words, "roundtrip/test/support/containers"):
			p.containers = append(p.containers, name)
		default:
			p.plain = append(p.plain, name)
		}
	}
	return p, err
})

// raceDetector is the flag for it, where there is a C compiler to link it.
func raceDetector() (flags []string, leftOut string, failure error) {
	compiler, err := output("go", "env", "CC")
	if err == nil {
		if _, err = exec.LookPath(compiler); err == nil {
			return []string{"-race"}, "", nil
		}
	}
	leftOut = "the race detector; it needs a C compiler (Debian: apt-get install gcc; macOS: xcode-select --install)"
	if os.Getenv("CI") != "" {
		failure = fmt.Errorf("there is no C compiler for the race detector, and in CI nothing is left out")
	}
	return nil, leftOut, failure
}

func brought(pattern string) func() bool {
	return func() bool {
		found, _ := filepath.Glob(pattern)
		return len(found) > 0
	}
}

func both(first, second func() bool) func() bool { return func() bool { return first() && second() } }

func output(name string, arguments ...string) (string, error) {
	c := exec.CommandContext(context.Background(), name, arguments...) // it is quick, and Ctrl-C reaches it too
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(arguments, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// choose is the parts that are asked for, and those that they need, in the table's order.
func choose(all []part, asked []string) ([]part, error) {
	if len(asked) == 0 {
		return nil, fmt.Errorf("which part?")
	}
	wanted := map[string]bool{}
	var want func(name string) error
	want = func(name string) error {
		i := slices.IndexFunc(all, func(p part) bool { return p.name == name })
		if i < 0 {
			return fmt.Errorf("there is no part %s", name)
		}
		wanted[name] = true
		for _, n := range all[i].needs {
			if err := want(n); err != nil {
				return err
			}
		}
		return nil
	}
	for _, name := range asked {
		if err := want(name); err != nil {
			return nil, err
		}
	}
	var chosen []part
	for _, p := range all {
		if wanted[p.name] {
			if p.name == "unit-postgres" && !wanted["engine"] && os.Getenv(engineVariable) == "" {
				p.leftOut = "PostgreSQL, unless an engine for containers is running, and the library of Pact; make test brings both"
			}
			chosen = append(chosen, p)
		}
	}
	return chosen, nil
}
