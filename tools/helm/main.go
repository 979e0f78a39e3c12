// Command setup brings the Helm that the charts are tested with, and prints where
// it is.
//
//	setup [--dir=.tools] helm | helm3
//
// What is there already is used. Otherwise Go builds the pinned version, which
// takes some minutes, and its checksum database says whether the source is right.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/alecthomas/kong"

	"roundtrip/test/support/helm"
)

func main() {
	var flags struct {
		Dir  string `help:"Where it goes." default:".tools" type:"path"`
		Tool string `arg:"" help:"helm: the one that is used. helm3: the one that the charts also work with." enum:"helm,helm3"`
	}
	kong.Parse(&flags, kong.Description("Brings Helm, and prints where it is."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	version := map[string]helm.Version{"helm": helm.Four, "helm3": helm.Three}[flags.Tool]
	path := version.Path(flags.Dir)
	if _, err := os.Stat(path); err != nil {
		fmt.Fprintf(os.Stderr, "== %s: building it, which takes some minutes the first time\n", version.Package())
		build := exec.CommandContext(ctx, "go", "install", version.Package())
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+filepath.Dir(path))
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "setup: %v\n%s", err, out)
			os.Exit(1)
		}
	}
	fmt.Println(path)
}
