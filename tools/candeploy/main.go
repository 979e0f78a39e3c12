// Command candeploy checks whether a service of the working tree works with the other
// service of a git ref, and so may be deployed. It needs only git, because the pact and
// the tests that verify it are in the repository.
//
//	candeploy --service orders REF      the pact of the working tree, REF's inventory
//	candeploy --service inventory REF   REF's pact, the inventory of the working tree
//
// It prints yes or no, and why. It exits 1 for no. The linker must find Pact's library;
// `make can-i-deploy` sets its path.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

const (
	pact     = "contracts/pacts/orders-inventory.json"
	consumer = "^TestOrdersReliesOnWhatThePactSays$"
	provider = "^TestInventoryAnswersAsThePactSays$"
)

func main() {
	var flags struct {
		Service string `help:"Service to deploy." enum:"orders,inventory" required:""`
		Ref     string `arg:"" help:"Git ref that the other service runs."`
	}
	kong.Parse(&flags, kong.Description("Checks whether a service of the working tree works with the other service of a git ref."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := check(ctx, flags.Service, flags.Ref)
	var no refusal
	switch {
	case err == nil:
		fmt.Printf("yes: %s of the working tree works with %s's %s\n", flags.Service, flags.Ref, other(flags.Service))
	case errors.As(err, &no):
		fmt.Printf("%s\nno: %s of the working tree does not work with %s's %s: %s\n", no.output, flags.Service, flags.Ref, other(flags.Service), no.why)
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "candeploy:", err)
		os.Exit(2)
	}
}

func other(service string) string {
	if service == "orders" {
		return "inventory"
	}
	return "orders"
}

// refusal is a failed test, with the reason and its output.
type refusal struct{ why, output string }

func (r refusal) Error() string { return r.why }

func check(ctx context.Context, service, ref string) (err error) {
	folder, err := os.MkdirTemp("", "roundtrip-against-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	tree := filepath.Join(folder, "tree")
	if out, err := run(ctx, ".", "git", "worktree", "add", "--detach", tree, ref); err != nil {
		return fmt.Errorf("check out %s: %w\n%s", ref, err, out)
	}
	defer func() {
		if out, failure := run(context.WithoutCancel(ctx), ".", "git", "worktree", "remove", "--force", tree); failure != nil {
			err = errors.Join(err, fmt.Errorf("remove the checkout: %w\n%s", failure, out))
		}
	}()
	if _, err := os.Stat(filepath.Join(tree, pact)); err != nil {
		return fmt.Errorf("%s has no %s, so there is no pact to compare with", ref, pact)
	}
	here, err := filepath.Abs(".")
	if err != nil {
		return err
	}
	consumerTree, providerTree := here, tree
	if service == "inventory" {
		consumerTree, providerTree = tree, here
	}
	for _, step := range []struct{ why, tree, test string }{
		{"what orders relies on differs from its pact", consumerTree, consumer},
		{"inventory does not answer as the pact says", providerTree, provider},
	} {
		args := []string{"test", "-count=1", "-timeout", "10m", "-tags", "contract", "-run", step.test, "./test/contract"}
		if step.test == provider {
			args = append(args, "-args", "-pact", filepath.Join(consumerTree, pact))
		}
		out, err := run(ctx, step.tree, "go", args...)
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && strings.Contains(out, "--- FAIL") {
			return refusal{step.why, out}
		}
		if err != nil {
			return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

func run(ctx context.Context, folder, name string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, name, args...)
	command.Dir = folder
	out, err := command.CombinedOutput()
	return string(out), err
}
