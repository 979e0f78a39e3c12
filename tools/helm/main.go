// Command helm installs the version of Helm that the charts are tested with, and prints
// its path.
//
//	helm [--dir=.tools] helm | helm3
//
// If the pinned version is already installed, the command uses it. Otherwise Go builds it,
// which takes some minutes. Go verifies the source with its checksum database.
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
		Dir  string `help:"Folder to install into." default:".tools" type:"path"`
		Tool string `arg:"" help:"helm: Helm 4, the default version. helm3: Helm 3, which the charts also support." enum:"helm,helm3"`
	}
	kong.Parse(&flags, kong.Description("Installs Helm and prints its path."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	version := map[string]helm.Version{"helm": helm.Four, "helm3": helm.Three}[flags.Tool]
	path := version.Path(flags.Dir)
	if _, err := os.Stat(path); err != nil {
		fmt.Fprintf(os.Stderr, "== %s: building it; this takes some minutes the first time\n", version.Package())
		build := exec.CommandContext(ctx, "go", "install", "-trimpath", version.Package())
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+filepath.Dir(path))
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "helm: %v\n%s", err, out)
			os.Exit(1)
		}
	}
	fmt.Println(path)
}
