// Command setup brings what contract tests need and Go does not: Pact's library,
// which its verifier and its mock server are in, and Pact's command line.
//
//	setup [--dir=.tools] ffi | cli
//
// What is there already is used. Otherwise it comes from the project's releases on
// GitHub, and where those can't be reached from npm, which carries the same files.
// A file is used only if its SHA-256 is the pinned one. It prints where it is.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/alecthomas/kong"
)

func main() {
	var flags struct {
		Dir  string `help:"Where it goes." default:".tools" type:"path"`
		Tool string `arg:"" help:"ffi: the library. cli: the command line." enum:"ffi,cli"`
	}
	kong.Parse(&flags, kong.Description("Brings Pact's library or its command line, and prints where it is."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	wanted, ok := tools[flags.Tool][runtime.GOOS+"/"+runtime.GOARCH]
	if !ok {
		fatal(fmt.Errorf("no %s of Pact's is pinned for %s/%s", flags.Tool, runtime.GOOS, runtime.GOARCH))
	}
	path, err := wanted.install(ctx, flags.Dir)
	if err != nil {
		fatal(err)
	}
	fmt.Println(path)
}

// say goes to the standard error: the standard output is the path.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "== "+format+"\n", args...) }

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "setup:", err)
	os.Exit(1)
}
