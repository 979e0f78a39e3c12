// Command setup runs a command with all that its tests need of the machine: an
// engine for containers, and the images.
//
//	go run ./test/containers/setup go test ./...
//
// It takes what is there, then the ordinary source, then builds the thing from
// Debian's packages where it may (on Debian, as root), and says in one line each
// what it did. An engine that it started itself it stops at the end.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"roundtrip/test/containers"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "setup:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, command []string) (err error) {
	engine, stop, err := findEngine(ctx)
	if err != nil {
		return err
	}
	if len(command) == 0 {
		// There is nothing to wait for: whoever asked wants the engine to stay.
		stop = func() error { return nil }
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := findImages(ctx, engine); err != nil || len(command) == 0 {
		return err
	}
	// The same signals reach the command, which ends when it has cleaned up.
	c := exec.Command(command[0], command[1:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.Env = append(os.Environ(), "ROUNDTRIP_ENGINE=yes")
	return c.Run()
}

func say(format string, args ...any) { fmt.Printf("== "+format+"\n", args...) }

// findImages brings the images into the engine.
func findImages(ctx context.Context, engine *engine) error {
	if err := engine.pull(ctx, containers.Ryuk); err != nil {
		say("no %s: what a killed test leaves in the engine stays there (%s)", containers.Ryuk, oneLine(err))
	}
	image := containers.PostgresImage
	if name, err := image.Find(ctx, engine.DockerClient); err == nil {
		say("PostgreSQL: %s is there", name)
		return nil
	}
	pulling := engine.pull(ctx, image.Registry)
	if pulling == nil {
		say("PostgreSQL: pulled %s", image.Registry)
		return nil
	}
	say("PostgreSQL: can't pull %s (%s); building %s from Debian's packages, which takes a minute or two", image.Registry, oneLine(pulling), image.Built)
	if err := buildPostgres(ctx, engine, image.Built); err != nil {
		return fmt.Errorf("there is no way to an image of PostgreSQL here; name one that the engine has in %s: %w", image.Variable, err)
	}
	return nil
}
