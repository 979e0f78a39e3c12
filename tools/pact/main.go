// Command pact installs Pact for the contract tests: Pact's library, which contains the
// verifier and the mock server, and Pact's command line.
//
//	pact [--dir=.tools] ffi | cli
//
// If the file is already in the folder, pact uses it. Otherwise it downloads the file
// from the releases of the Pact project on GitHub. If it can't reach them, it uses npm,
// which has the same files. It uses a file only if its SHA-256 is the pinned one. It
// prints the path of the file.
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
		Dir  string `help:"Folder to install into." default:".tools" type:"path"`
		Tool string `arg:"" help:"ffi: the library. cli: the command line." enum:"ffi,cli"`
	}
	kong.Parse(&flags, kong.Description("Installs Pact's library or its command line, and prints its path."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	wanted, ok := tools[flags.Tool][runtime.GOOS+"/"+runtime.GOARCH]
	if !ok {
		fatal(fmt.Errorf("no version of Pact's %s is pinned for %s/%s", flags.Tool, runtime.GOOS, runtime.GOARCH))
	}
	path, err := wanted.install(ctx, flags.Dir)
	if err != nil {
		fatal(err)
	}
	fmt.Println(path)
}

// say prints to standard error, because standard output has only the path.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "== "+format+"\n", args...) }

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "pact:", err)
	os.Exit(1)
}
