// Command doctor lists the tools that the project's commands need, whether each is
// installed, and how to install it. It changes nothing. It exits 1 if a tool is missing
// that no make target installs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"roundtrip/test/support/containers"
	"roundtrip/test/support/helm"
)

// finding is one tool and whether it is installed.
type finding struct {
	what, neededBy string
	// there describes the installed tool. It is "" if the tool is missing.
	there string
	// mend is the command that installs it. comes says that a make target installs it when
	// it is needed.
	mend  string
	comes bool
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	missing := false
	for _, f := range []finding{
		{"Go", "everything", runtime.Version(), "", false},
		{"a C compiler", "make check (the race detector), make contract", program(ctx, compiler(ctx), "--version"),
			"apt-get install gcc, or xcode-select --install", false},
		{"git", "make check, make images, make integration, make breaking, make can-i-deploy", program(ctx, "git", "--version"), "apt-get install git", false},
		{"an engine for containers", "make test, make integration", engine(ctx), "make engine", true},
		{"Pact's library", "make contract", brought(".tools/pact-*/libpact_ffi.so", ".tools/pact-*/libpact_ffi.dylib"), "go run ./tools/pact ffi", true},
		{"Pact's command line", "make stub, make contract-publish", brought(".tools/pact-*/pact"), "go run ./tools/pact cli", true},
		{"Helm 4", "make charts, make packages, make e2e", brought(helm.Four.Path(".tools")), "go run ./tools/helm helm", true},
		{"Helm 3", "make charts HELM3=1, make e2e", brought(helm.Three.Path(".tools")), "go run ./tools/helm helm3", true},
		{"kubectl", "make e2e, which also needs a cluster: make kind-up", program(ctx, "kubectl", "version", "--client"), "see https://kubernetes.io/docs/tasks/tools", false},
		{"npm", "Pact, only if GitHub can't be reached", program(ctx, "npm", "--version"), "apt-get install npm", true},
	} {
		mark, says := "ok     ", f.there
		switch {
		case f.there == "" && f.comes:
			mark, says = "later  ", "not installed; the make target installs it, or run: "+f.mend
		case f.there == "":
			mark, says, missing = "MISSING", f.mend, true
		}
		fmt.Printf("%s  %-26s %s (for %s)\n", mark, f.what, says, f.neededBy)
	}
	if missing {
		os.Exit(1)
	}
}

// program returns the first line that a program prints, or "" if it is not installed.
func program(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// compiler returns the C compiler that Go uses.
func compiler(ctx context.Context) string {
	return program(ctx, "go", "env", "CC")
}

func engine(ctx context.Context) string {
	client, err := containers.Engine(ctx)
	if err != nil {
		return ""
	}
	defer client.Close()
	return "it runs at " + client.DaemonHost()
}

// brought returns the path of a file that a make target installs, or "" if it is missing.
func brought(patterns ...string) string {
	for _, pattern := range patterns {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	return ""
}
