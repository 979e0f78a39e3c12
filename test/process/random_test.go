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
	kills  = flag.Int("kills", 50, "how many times a random process is killed")
	pauses = flag.Int("pauses", 10, "how many times a random process is paused past its lease")
	seed   = flag.Uint64("seed", rand.Uint64(), "what victims and orders are drawn by")
)

const (
	// worlds is how many pairs, each with a database server of its own, share the
	// rounds: most of a round is waiting.
	worlds = 2
	// pausedFor is longer than the settler's lease, than any deadline, and than
	// PostgreSQL waits for a transaction to go on.
	pausedFor = 12 * time.Second
)

// world is a pair under load on a server of its own.
type world struct {
	*load
	server *containers.Postgres
}

func TestAnyProcessMayBeKilledOrPausedAtAnyTime(t *testing.T) {
	t.Parallel()
	containers.SharedPostgres(t) // it skips where there is no engine
	t.Logf("go test ./test/process -run %s -seed %d", t.Name(), *seed)
	for n := range worlds {
		t.Run(fmt.Sprint("world-", n), func(t *testing.T) {
			t.Parallel()
			w := startWorld(t, *seed+uint64(n))
			random := rand.New(rand.NewPCG(*seed, uint64(n)))
			for round := n; round < *kills+*pauses && !t.Failed(); round += worlds {
				if round < *kills {
					w.round(w.kill(random.IntN(5)))
				} else {
					w.round(w.pause(random.IntN(5)))
				}
			}
		})
	}
}

func startWorld(t *testing.T, seed uint64) *world {
	server, err := containers.StartPostgres(t.Context(), containers.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	h := startPair(t, store{"postgres", 2, func(t *testing.T, bin, folder, service string) string {
		return postgresDatabase(t, server, bin, folder, service)
	}}, product)
	// Who waits for a process that is paused gives up, and asks the other.
	h.orders.HTTP.Timeout = 3 * time.Second
	return &world{newLoad(h, seed), server}
}

// fault is what is done to a process, what is waited for meanwhile, and how it
// comes back.
type fault struct {
	name                  string
	harm, meanwhile, mend func()
}

// round does one fault to a pair under load, and then holds it to its promises.
func (w *world) round(f fault) {
	w.Helper()
	w.Log(f.name)
	stop := w.Run()
	defer stop()
	w.flows(20)
	f.harm()
	f.meanwhile()
	f.mend()
	w.flows(20)
	stop()
	w.check()
}

// replica is one of the services' four processes.
func (w *world) replica(n int) (*service, *processes.Process) {
	s := []*service{w.orders, w.inventory}[n/2]
	return s, s.replicas[n%2]
}

// kill kills one of five with -9: the replicas, and the database server.
func (w *world) kill(victim int) fault {
	if victim == 4 {
		return fault{"kill PostgreSQL",
			func() { w.must(w.server.Kill(w.Context())) },
			func() {},
			func() { w.must(w.server.Restart(w.Context())); w.moved() }}
	}
	s, p := w.replica(victim)
	return fault{fmt.Sprint("kill ", s.name, victim%2),
		p.Kill,
		func() { w.flows(20) }, // the other replica goes on
		func() { w.restart(s) }}
}

// pause stops one of five where it is, and lets it go on as if nothing had happened.
func (w *world) pause(victim int) fault {
	past := func() {
		since := time.Now()
		w.wait("the pause is longer than a lease", func() bool { return time.Since(since) > pausedFor })
	}
	if victim == 4 {
		return fault{"pause PostgreSQL",
			func() { w.must(w.server.Pause(w.Context())) }, past, func() { w.must(w.server.Resume(w.Context())) }}
	}
	s, p := w.replica(victim)
	return fault{fmt.Sprint("pause ", s.name, victim%2),
		func() { p.Signal(syscall.SIGSTOP) }, past, func() { p.Signal(syscall.SIGCONT) }}
}

// moved tells the services where the server is that was started again.
func (w *world) moved() {
	w.Helper()
	for _, s := range []*service{w.orders, w.inventory} {
		now, err := w.server.Address(w.Context(), w.database(s))
		w.must(err)
		addressFile(w.T, w.folder, s.name, now)
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}
