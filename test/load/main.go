// Command load puts load on both services, run as real processes, and reports
// throughput, latency and violations.
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
	Run   runCommand   `cmd:"" help:"Run one workload on new services. Prints a table, writes an HTML page with plots, audits both services, and exits 1 on a violation."`
	Bench benchCommand `cmd:"" help:"Compare stores, callers, group commit and wires, and the limits of the machine, in one table. Needs Linux and a container engine."`
	Serve echo         `cmd:"" hidden:""`
}

func main() { os.Exit(run()) }

func run() int {
	var c cli
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	command := kong.Parse(&c, kong.Name("load"), kong.Description("Put load on orders and inventory, as real processes, and report the results. make load, make replay and make bench build both and run this."), kong.UsageOnError(),
		kong.BindTo(ctx, (*context.Context)(nil)))
	if err := command.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		return 1
	}
	return 0
}
