// Command test runs the project's checks and tests, in parallel if possible.
//
//	test [--tests=1] [--computes=1] [--plan] GROUP | PART...
//
// A part is one check or test suite, or something that a suite needs: an engine
// for containers, Helm, Pact's library. Each part waits for the parts that it
// needs. The output of a part goes to .reports/test/PART.log. When a part ends, the
// command prints its result; when a part fails, its whole output. If only one part is
// named, it prints its output while it runs. A failed part does not stop the others.
// Ctrl-C stops all parts and gives each time to clean up. A second Ctrl-C kills them.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// logs is the folder with the output of each part.
var logs = filepath.Join(".reports", "test")

func main() { os.Exit(run()) }

func run() int {
	limits := limits{}
	flag.IntVar(&limits.tests, "tests", max(1, runtime.NumCPU()/2), "how many test suites run at the same time")
	flag.IntVar(&limits.computes, "computes", max(1, runtime.NumCPU()/2), "how many parts that only compute run at the same time")
	plan := flag.Bool("plan", false, "print the plan and run nothing")
	flag.Usage = usage
	flag.Parse()
	all, err := parts()
	if err != nil {
		fmt.Fprintln(os.Stderr, "test:", err)
		return 1
	}
	asked, about := flag.Args(), ""
	if len(asked) == 1 {
		if g, ok := groups[asked[0]]; ok {
			asked, about = g.parts, g.about
		}
	}
	chosen, err := choose(all, asked)
	if err != nil {
		fmt.Fprintln(os.Stderr, "test:", err)
		flag.Usage()
		return 2
	}
	live := len(asked) == 1
	printPlan(os.Stdout, chosen, about, live)
	if *plan {
		return 0
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := newRunner(os.Stdout, logs, limits, live)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-signals
		fmt.Println("== stopping; a second signal kills all parts")
		cancel()
		<-signals
		r.kill()
	}()
	return r.run(ctx, chosen)
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: test [flags] GROUP | PART...")
	flag.PrintDefaults()
	for _, name := range []string{"all", "check"} {
		fmt.Fprintf(os.Stderr, "group %s: %s\n", name, strings.Join(groups[name].parts, " "))
	}
}
