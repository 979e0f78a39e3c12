// Package containers starts what tests need and the pair does not bring: real
// servers, in containers, with testcontainers-go.
//
// A test process shares one server of a kind, started when the first test asks
// for it and stopped by [Main]; a test that breaks its server gets one of its
// own. Nothing is pulled or built here: `make test` runs the tests by way of
// tools/engine, which brings an engine and the images and says what it
// did. Where there is no engine a test is skipped, which make says aloud, and in
// CI it fails.
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

// ErrNoEngine says what is missing and how to get it.
var ErrNoEngine = errors.New("no Docker engine answers; start Docker Desktop, Docker Engine or Podman's socket (DOCKER_HOST), or run `make engine`")

// Engine connects to the engine, wherever testcontainers finds one. The error
// is [ErrNoEngine] where none answers.
func Engine(ctx context.Context) (*testcontainers.DockerClient, error) {
	log.SetDefault(log.NewNoopLogger()) // it greets; what goes wrong comes as an error
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

// configure tells testcontainers, by its own variables and before it first reads
// them, what it would get wrong with an engine in the usual place.
func configure(ctx context.Context) error {
	usual, err := client.New(client.FromEnv)
	if err != nil {
		return err
	}
	defer usual.Close()
	info, err := usual.Info(ctx, client.InfoOptions{})
	if err != nil {
		return nil // testcontainers may know of another place
	}
	settings := map[string]string{}
	// A machine that looks like a container makes it look for containers' ports at
	// the gateway. An engine with this machine's own name runs right here.
	if here, err := os.Hostname(); err == nil && here == info.Info.Name {
		settings["TESTCONTAINERS_HOST_OVERRIDE"] = "localhost"
	}
	// Ryuk removes containers whose tests were killed. It can't where its image is not there.
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

// SharedPostgres is the one server of this test process. It is for tests that
// use databases of their own and leave the server alone. Its data is in memory,
// so that a test which makes a database makes nobody wait for the disk.
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

// Check ends a test that got an error instead of a container. Where that is for
// want of an engine, and not in CI, the test is skipped.
func Check(t testing.TB, err error) {
	t.Helper()
	switch {
	case errors.Is(err, ErrNoEngine) && os.Getenv("CI") == "":
		t.Skipf("LEFT OUT: %s", err)
	case err != nil:
		t.Fatal(err)
	}
}

// Main runs a package's tests and stops the servers that they shared; a test
// package that uses any calls it from its TestMain. On Ctrl-C it removes what the
// tests have in the engine.
func Main(m *testing.M) int {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		signal.Stop(interrupted) // the second ends it at once
		starting.Lock()          // what is being started is there before it is looked for, and no more is
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

// end ends what is shared, what was begun last first.
func end(ctx context.Context) (err error) {
	shared.Lock()
	defer shared.Unlock()
	for _, end := range slices.Backward(shared.ends) {
		err = errors.Join(err, end(ctx))
	}
	shared.ends = nil
	return err
}

// AtEnd has [Main] do something when all tests have ended, what was given last
// first. It is for what a package's tests share beside [SharedPostgres].
func AtEnd(end func(context.Context) error) {
	shared.Lock()
	defer shared.Unlock()
	shared.ends = append(shared.ends, end)
}

// starting is held by whoever starts a container.
var starting sync.RWMutex

// label marks what tests have in the engine, with the session that they belong to.
const label = "roundtrip.tests"

// Labels are for what a test makes in the engine beside containers.
func Labels() map[string]string { return map[string]string{label: testcontainers.SessionID()} }

// sweep removes all that this session has in the engine: what its tests made, and
// those of other packages in the same `go test`, which end as this one does.
func sweep(ctx context.Context) error {
	engine, err := Engine(ctx)
	if errors.Is(err, ErrNoEngine) {
		return nil
	} else if err != nil {
		return err
	}
	ours := client.Filters{}.Add("label", label+"="+testcontainers.SessionID())
	containers, err := engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: ours})
	for _, c := range containers.Items {
		_, failure := engine.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		err = errors.Join(err, failure)
	}
	networks, failure := engine.NetworkList(ctx, client.NetworkListOptions{Filters: ours})
	err = errors.Join(err, failure)
	for _, n := range networks.Items {
		_, failure := engine.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
		err = errors.Join(err, failure)
	}
	volumes, failure := engine.VolumeList(ctx, client.VolumeListOptions{Filters: ours})
	err = errors.Join(err, failure)
	for _, v := range volumes.Items {
		_, failure := engine.VolumeRemove(ctx, v.Name, client.VolumeRemoveOptions{Force: true})
		err = errors.Join(err, failure)
	}
	return err
}
