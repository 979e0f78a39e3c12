// Package containers starts the servers that tests need, in containers, with
// testcontainers-go.
//
// A test process shares one server of a kind. The first test that needs it starts
// it, and [Main] stops it. A test that breaks its server starts its own. This
// package pulls and builds nothing: `make test` runs the tests through
// tools/engine, which provides an engine and the images. Without an engine a test is
// skipped with a message; in CI it fails.
package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"
)

// ErrNoEngine reports that no container engine is running.
var ErrNoEngine = errors.New("no Docker engine responds; start Docker Desktop, Docker Engine or Podman's socket (DOCKER_HOST), or run `make engine`")

// Engine connects to the engine that testcontainers finds. Without one the error is
// [ErrNoEngine].
func Engine(ctx context.Context) (*testcontainers.DockerClient, error) {
	log.SetDefault(log.NewNoopLogger()) // failures are returned as errors
	// Go's test cache sees this: a test that was skipped runs again once there is an engine.
	_ = os.Getenv("ROUNDTRIP_ENGINE")
	if err := configure(ctx); err != nil {
		return nil, err
	}
	engine, err := testcontainers.NewDockerClientWithOpts(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrNoEngine, err)
	}
	if _, err := engine.Info(ctx, client.InfoOptions{}); err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrNoEngine, err)
	}
	return engine, nil
}

// configure sets testcontainers' environment variables before testcontainers reads
// them, if its defaults do not work.
func configure(ctx context.Context) error {
	usual, err := client.New(client.FromEnv)
	if err != nil {
		return err
	}
	defer usual.Close()
	info, err := usual.Info(ctx, client.InfoOptions{})
	if err != nil {
		return nil // testcontainers may find an engine elsewhere
	}
	settings := map[string]string{}
	// On a machine that looks like a container, testcontainers expects containers'
	// ports at the gateway. An engine with this machine's host name runs on this
	// machine.
	if here, err := os.Hostname(); err == nil && here == info.Info.Name {
		settings["TESTCONTAINERS_HOST_OVERRIDE"] = "localhost"
	}
	// Ryuk removes the containers of killed tests. It needs its image.
	if _, err := usual.ImageInspect(ctx, Ryuk); err != nil {
		settings["TESTCONTAINERS_RYUK_DISABLED"] = "true"
	}
	for name, value := range settings {
		if os.Getenv(name) == "" {
			if err := os.Setenv(name, value); err != nil {
				return err
			}
		}
	}
	return nil
}

var shared struct {
	sync.Mutex
	postgres *Postgres
	err      error
	ends     []func(context.Context) error
}

// SharedPostgres is the shared server of this test process. A test makes its own
// databases and must not stop the server. The data is in memory, so that tests do
// not wait for the disk.
func SharedPostgres(t testing.TB) *Postgres {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.postgres == nil && shared.err == nil {
		if shared.postgres, shared.err = StartPostgres(context.Background(), PostgresOptions{InMemory: true}); shared.err == nil {
			shared.ends = append(shared.ends, shared.postgres.Stop)
		}
	}
	Check(t, shared.err)
	return shared.postgres
}

// Check fails a test on an error. For [ErrNoEngine] it skips the test, except in CI.
func Check(t testing.TB, err error) {
	t.Helper()
	switch {
	case errors.Is(err, ErrNoEngine) && os.Getenv("CI") == "":
		t.Skipf("LEFT OUT: %s", err)
	case err != nil:
		t.Fatal(err)
	}
}

// Main runs a package's tests and stops the shared servers. Call it from TestMain.
// On Ctrl-C it removes the tests' containers, networks and volumes.
func Main(m *testing.M) int {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		signal.Stop(interrupted) // a second signal ends the process at once
		starting.Lock()          // wait for containers that are starting, and start no more
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := errors.Join(end(ctx), sweep(ctx)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(130) // 128 + SIGINT
	}()
	status := m.Run()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := end(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

// end stops the shared servers in reverse order of their start.
func end(ctx context.Context) (err error) {
	shared.Lock()
	defer shared.Unlock()
	for _, end := range slices.Backward(shared.ends) {
		err = errors.Join(err, end(ctx))
	}
	shared.ends = nil
	return err
}

// AtEnd registers a cleanup for [Main], which runs cleanups in reverse order. Use it
// for servers that a package's tests share in addition to [SharedPostgres].
func AtEnd(end func(context.Context) error) {
	shared.Lock()
	defer shared.Unlock()
	shared.ends = append(shared.ends, end)
}

// starting is held while a container starts.
var starting sync.RWMutex

// label marks the tests' containers, networks and volumes with their session.
const label = "roundtrip.tests"

// Labels are the labels for networks and volumes of a test.
func Labels() map[string]string { return map[string]string{label: testcontainers.SessionID()} }

// sweep removes all containers, networks and volumes of this session, including those
// of other packages in the same `go test`, which also get the signal.
func sweep(ctx context.Context) error {
	engine, err := Engine(ctx)
	if errors.Is(err, ErrNoEngine) {
		return nil
	} else if err != nil {
		return err
	}
	session := client.Filters{}.Add("label", label+"="+testcontainers.SessionID())
	containers, err := engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: session})
	for _, c := range containers.Items {
		_, failure := engine.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		err = errors.Join(err, failure)
	}
	networks, failure := engine.NetworkList(ctx, client.NetworkListOptions{Filters: session})
	err = errors.Join(err, failure)
	for _, n := range networks.Items {
		_, failure := engine.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
		err = errors.Join(err, failure)
	}
	volumes, failure := engine.VolumeList(ctx, client.VolumeListOptions{Filters: session})
	err = errors.Join(err, failure)
	for _, v := range volumes.Items {
		_, failure := engine.VolumeRemove(ctx, v.Name, client.VolumeRemoveOptions{Force: true})
		err = errors.Join(err, failure)
	}
	return err
}
