// Command load puts load on the pair, run as real processes, and reports what
// came of it: throughput, latency, and whether everything is still right.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// cli is the command line.
type cli struct {
	Run   runCommand   `cmd:"" help:"Put one workload on a new pair. Prints a table, writes an HTML page with plots, audits both services, and exits 1 on a violation."`
	Bench benchCommand `cmd:"" help:"Compare stores, callers, batches and wires with each other and with what limits them, in one run and one table. It needs Linux and an engine for containers."`
	Serve echo         `cmd:"" hidden:""`
}

func main() { os.Exit(run()) }

func run() int {
	var c cli
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	command := kong.Parse(&c, kong.Name("load"), kong.Description("Put load on orders and inventory, as real processes, and report what came of it. make load, make replay and make bench build both and run this."), kong.UsageOnError(),
		kong.BindTo(ctx, (*context.Context)(nil)))
	if err := command.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		return 1
	}
	return 0
}
