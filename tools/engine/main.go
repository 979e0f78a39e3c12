// Command engine gives a command what its tests need: an engine for containers, and the
// images. Then it runs the command.
//
//	go run ./tools/engine go test ./...
//
// It uses what the machine already has. It downloads what is missing. If a download
// fails, it builds the image from Go source or from Debian's packages (on Debian, as
// root). It prints one line for each image. If it has started the engine, it stops the
// engine at the end; without a command, it leaves the engine running.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"

	"roundtrip/test/support/containers"
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
		fmt.Fprintln(os.Stderr, "engine:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, command []string) error {
	found, err := containers.Engine(ctx)
	if err != nil {
		return runWithOwnEngine(ctx, command, err)
	}
	engine := &engine{found}
	version, err := engine.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return err
	}
	say("engine: %s answers", version.Version)
	if err := findImages(ctx, engine); err != nil || len(command) == 0 {
		return err
	}
	// Signals also reach the command. It cleans up and then ends.
	return execute(append(os.Environ(), "ROUNDTRIP_ENGINE=yes"), command[0], command[1:]...)
}

// runWithOwnEngine starts an engine if none is running and this user may start one. The
// rest of the work runs in another process, because testcontainers looks for an engine
// only once in each process.
func runWithOwnEngine(ctx context.Context, command []string, missing error) error {
	const started = "ROUNDTRIP_ENGINE_STARTED"
	if os.Geteuid() != 0 || os.Getenv("DOCKER_HOST") != "" || os.Getenv(started) != "" {
		return missing
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	stop, err := startEngine(ctx)
	if err != nil {
		return errors.Join(containers.ErrNoEngine, err)
	}
	err = execute(append(os.Environ(), started+"=yes"), self, command...)
	if err == nil && len(command) == 0 {
		return nil // without a command, the engine keeps running
	}
	return errors.Join(err, stop())
}

func execute(environment []string, name string, arguments ...string) error {
	c := exec.Command(name, arguments...) //nolint:noctx // Ctrl-C reaches the command too and ends it.
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.Env = environment
	return c.Run()
}

func say(format string, args ...any) { fmt.Printf("== "+format+"\n", args...) }

// findImages loads the images into the engine. It loads them in parallel, so it can build
// some while it downloads others.
func findImages(ctx context.Context, e *engine) error {
	bringing, ctx := errgroup.WithContext(ctx)
	bringing.Go(func() error {
		if err := e.pull(ctx, containers.Ryuk); err != nil {
			say("no %s: if a test is killed, its containers stay in the engine (%s)", containers.Ryuk, oneLine(err))
		}
		return nil
	})
	for _, image := range []containers.Image{containers.PostgresImage, containers.NATSImage, containers.ToxiproxyImage} {
		bringing.Go(func() error {
			if err := e.bring(ctx, image); err != nil {
				return fmt.Errorf("can't get an image of %s; set %s to an image that the engine has: %w", image.Name, image.Variable, err)
			}
			return nil
		})
	}
	return bringing.Wait()
}

// bring finds an image in the engine, or pulls it, or builds it.
func (e *engine) bring(ctx context.Context, image containers.Image) error {
	if name, err := image.Find(ctx, e.DockerClient); err == nil {
		say("%s: the engine has %s", image.Name, name)
		return nil
	}
	pulling := e.pull(ctx, image.Registry)
	if pulling == nil {
		say("%s: pulled %s", image.Name, image.Registry)
		return nil
	}
	from := cmp.Or(image.Program, "Debian's packages, which takes a minute or two")
	say("%s: can't pull %s (%s); building %s from %s", image.Name, image.Registry, oneLine(pulling), image.Built, from)
	if image.Program != "" {
		return buildProgram(ctx, e, image.Program, image.Built)
	}
	return buildPostgres(ctx, e, image.Built)
}
