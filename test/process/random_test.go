package process

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"roundtrip/test/support/containers"
	"roundtrip/test/support/processes"
)

var (
	kills  = flag.Int("kills", 50, "number of random kills")
	pauses = flag.Int("pauses", 10, "number of random pauses that outlast a lease")
	seed   = flag.Uint64("seed", rand.Uint64(), "random seed for victims and orders")
)

const (
	// systems is how many systems, each with its own database server, share the
	// rounds. A round mostly waits.
	systems = 2
	// pausedFor is longer than the settler's lease, any deadline, and PostgreSQL's
	// timeout of idle transactions.
	pausedFor = 12 * time.Second
)

// serverSystem is a system under load on its own database server.
type serverSystem struct {
	*load
	server *containers.Postgres
}

func TestRandomKillsAndPauses(t *testing.T) {
	t.Parallel()
	containers.SharedPostgres(t) // skips the test without a container engine
	t.Logf("go test ./test/process -run %s -seed %d", t.Name(), *seed)
	for n := range systems {
		t.Run(fmt.Sprint("system-", n), func(t *testing.T) {
			t.Parallel()
			w := startServerSystem(t, *seed+uint64(n))
			random := rand.New(rand.NewPCG(*seed, uint64(n)))
			for round := n; round < *kills+*pauses && !t.Failed(); round += systems {
				if round < *kills {
					w.round(w.kill(random.IntN(5)))
				} else {
					w.round(w.pause(random.IntN(5)))
				}
			}
		})
	}
}

func startServerSystem(t *testing.T, seed uint64) *serverSystem {
	server, err := containers.StartPostgres(t.Context(), containers.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	sys := startSystem(t, store{"postgres", 2, func(t *testing.T, bin, folder, service string) string {
		return postgresDatabase(t, server, bin, folder, service)
	}}, product)
	// A caller of a paused process times out and tries the other replica.
	sys.orders.HTTP.Timeout = 3 * time.Second
	return &serverSystem{newLoad(sys, seed), server}
}

// fault is a fault of a process: how it starts, what to wait for, and how it ends.
type fault struct {
	name               string
	inject, wait, heal func()
}

// round injects one fault under load and then checks the system.
func (w *serverSystem) round(f fault) {
	w.Helper()
	w.Log(f.name)
	stop := w.Run()
	defer stop()
	w.waitFor(20)
	f.inject()
	f.wait()
	f.heal()
	w.waitFor(20)
	stop()
	w.check()
}

// replica returns one of the four processes.
func (w *serverSystem) replica(n int) (*service, *processes.Process) {
	s := []*service{w.orders, w.inventory}[n/2]
	return s, s.replicas[n%2]
}

// kill kills a replica, or the database server, with -9.
func (w *serverSystem) kill(victim int) fault {
	if victim == 4 {
		return fault{"kill PostgreSQL",
			func() { w.must(w.server.Kill(w.Context())) },
			func() {},
			func() { w.must(w.server.Restart(w.Context())); w.updateAddresses() }}
	}
	s, p := w.replica(victim)
	return fault{fmt.Sprint("kill ", s.name, victim%2),
		p.Kill,
		func() { w.waitFor(20) }, // the other replica serves
		func() { w.restart(s) }}
}

// pause pauses a replica, or the database server, and resumes it.
func (w *serverSystem) pause(victim int) fault {
	past := func() {
		since := time.Now()
		w.system.wait("the pause is longer than a lease", func() bool { return time.Since(since) > pausedFor })
	}
	if victim == 4 {
		return fault{"pause PostgreSQL",
			func() { w.must(w.server.Pause(w.Context())) }, past, func() { w.must(w.server.Resume(w.Context())) }}
	}
	s, p := w.replica(victim)
	return fault{fmt.Sprint("pause ", s.name, victim%2),
		func() { p.Signal(syscall.SIGSTOP) }, past, func() { p.Signal(syscall.SIGCONT) }}
}

// updateAddresses writes the address of the restarted server for the services.
func (w *serverSystem) updateAddresses() {
	w.Helper()
	for _, s := range []*service{w.orders, w.inventory} {
		now, err := w.server.Address(w.Context(), w.database(s))
		w.must(err)
		addressFile(w.T, w.folder, s.name, now)
	}
}

func (w *serverSystem) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}
