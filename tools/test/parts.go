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
	// needs are parts that must pass first. They run even if the user did not name them.
	// after are parts that must end first, if they run at all.
	needs, after []string
	slot         slot
	// commands run one after the other. late returns them when the part starts.
	commands []command
	late     func() ([]command, error)
	// holds says that the command provides something to other parts. It prints "ready"
	// when they may start, and provides it until its standard input ends.
	holds bool
	// brings is what the part downloads or builds. takes says roughly how long that takes.
	// there reports whether it is already installed. It is nil if no quick check exists.
	brings, takes string
	there         func() bool
	// leftOut is what the part does not test in this run, and how to test it.
	leftOut string
	// failure is why the part can't run at all.
	failure error
}

// command is a program with its arguments and with additional environment variables.
type command struct {
	argv []string
	env  []string
}

// slot is the resource that a part competes for.
type slot int

const (
	// downloads wait for the network. Their number is not limited.
	downloads slot = iota
	// computes keep a processor busy. They run at a lower priority, so that they do not
	// disturb tests that depend on real time.
	computes
	// tests spend about half of their time waiting.
	tests
)

// groups are the groups of parts that make runs.
var groups = map[string]struct {
	about string
	parts []string
}{
	"all": {
		"all tests; on two cores about 30 minutes the first time, and 15 minutes when everything is built",
		[]string{"format", "lint", "tidy", "unit", "unit-postgres", "contract", "charts", "process", "exchanges", "engine"},
	},
	"check": {
		"checks and tests that need only Go; on two cores about 5 minutes the first time, and 1 minute when everything is built",
		[]string{"format", "lint", "tidy", "unit", "unit-postgres"},
	},
}

// engineVariable tells tests that an engine is running. Go's cache of test results
// depends on it too.
const engineVariable = "ROUNDTRIP_ENGINE"

// parts returns the table of parts. If several parts can start, the first one starts.
func parts() ([]part, error) {
	goflags, err := output("go", "env", "GOFLAGS")
	if err != nil {
		return nil, err
	}
	// Parts that do not need C use the build settings of the product. So Go compiles each
	// package only twice: for the product and for the race detector.
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
		charts.leftOut = "the charts with Helm 3; HELM3=1 builds Helm 3 and tests the charts with both versions"
	}
	race, withoutRace, failure := raceDetector()
	return []part{
		{name: "engine", slot: downloads, holds: true,
			brings: "an engine for containers, and images of PostgreSQL, NATS and Toxiproxy", takes: "3 minutes, if they are missing",
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
		// lint runs after unit, because it reuses the packages that unit has compiled.
		{name: "lint", needs: []string{"linter"}, after: []string{"unit"}, slot: computes, commands: []command{{argv: []string{"tools/lint.sh"}}}},
		unit(part{name: "unit-postgres", after: []string{"engine", "unit"}, failure: failure}, race, func(p unitPackages) []string { return p.containers }),
		{name: "process", after: []string{"engine"}, slot: tests, commands: []command{
			// -count=1 disables Go's cache of results, because the tests kill processes at
			// random times and build the services themselves.
			plain("go", "test", "-count=1", "-timeout", "30m", "-parallel", "4", "./test/process/..."),
		}},
		charts,
		// contract runs after unit, because it reuses the packages that unit has compiled
		// with -race.
		{name: "contract", needs: []string{"pact"}, after: []string{"unit"}, slot: tests, commands: []command{
			{argv: []string{"tools/with-pact.sh", "go", "test", "-race", "-v", "-timeout", "10m", "-tags", "contract", "./test/contract"}, env: []string{"PACT_BROKER_BASE_URL="}},
		}},
		// exchanges runs alone and last, because its deadlines are in real time and it needs
		// both processors.
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

// unit completes a part that runs unit tests. pick selects its packages.
func unit(p part, race []string, pick func(packages unitPackages) []string) part {
	p.slot = tests
	p.late = func() ([]command, error) {
		packages, err := listUnitPackages()
		if err != nil {
			return nil, err
		}
		// The part lint checks more than go test's vet.
		arguments := append([]string{"go", "test", "-vet=off", "-timeout", "20m"}, race...)
		return []command{{argv: append(arguments, pick(packages)...)}}, nil
	}
	return p
}

// unitPackages are the packages with unit tests. Tests of the packages in plain use no
// containers; tests of those in containers do.
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

// raceDetector returns the flag of the race detector, if the C compiler that links it is
// installed. Otherwise leftOut says that it is missing. In CI, that is also a failure.
func raceDetector() (flags []string, leftOut string, failure error) {
	compiler, err := output("go", "env", "CC")
	if err == nil {
		if _, err = exec.LookPath(compiler); err == nil {
			return []string{"-race"}, "", nil
		}
	}
	leftOut = "the race detector; it needs a C compiler (Debian: apt-get install gcc; macOS: xcode-select --install)"
	if os.Getenv("CI") != "" {
		failure = fmt.Errorf("the race detector needs a C compiler, and CI must run all tests")
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
	c := exec.CommandContext(context.Background(), name, arguments...) // the command is quick, and Ctrl-C reaches it too
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(arguments, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// choose returns the named parts and the parts that they need, in the order of the table.
func choose(all []part, asked []string) ([]part, error) {
	if len(asked) == 0 {
		return nil, fmt.Errorf("name a part or a group")
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
				p.leftOut = "tests with PostgreSQL, unless an engine for containers is running, and with Pact's library; make test installs both"
			}
			chosen = append(chosen, p)
		}
	}
	return chosen, nil
}
