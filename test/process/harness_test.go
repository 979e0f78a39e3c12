// Package process tests both services as real processes: killed with -9 at every
// step and at random, stopped under load, paused, and without the other service or
// the database. On SQLite a service is one process; on PostgreSQL, which needs a
// container engine, it is two.
package process

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"roundtrip/contracts/openapi"
	"roundtrip/test/support/caller"
	"roundtrip/test/support/containers"
	"roundtrip/test/support/processes"
	"roundtrip/test/support/wait"
)

// product and crashing are folders with the services' binaries: the release build,
// and the build with failpoints.
var product, crashing string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "roundtrip-process-")
	if err != nil {
		panic(err)
	}
	containers.AtEnd(func(context.Context) error { return os.RemoveAll(folder) })
	product, crashing = filepath.Join(folder, "product"), filepath.Join(folder, "crashing")
	for path, tags := range map[string][]string{product: nil, crashing: {"failpoints"}} {
		if err := errors.Join(os.Mkdir(path, 0o700), processes.Build(context.Background(), path, tags...)); err != nil {
			fmt.Fprintln(os.Stderr, errors.Join(err, os.RemoveAll(folder)))
			return 1
		}
	}
	return containers.Main(m)
}

// limit is how long a test waits for a condition on a busy machine.
const limit = 3 * time.Minute

// store is a kind of database, and how many replicas of a service share it.
type store struct {
	name     string
	replicas int
	// database makes the database of a service and returns the flag for it. bin is
	// the folder with the binary.
	database func(t *testing.T, bin, folder, service string) string
}

var sqlite = store{"sqlite", 1, func(_ *testing.T, _, folder, service string) string {
	return "--database=sqlite:" + filepath.Join(folder, service+".db")
}}

// postgres uses the server that all tests share.
var postgres = store{"postgres", 2, func(t *testing.T, bin, folder, service string) string {
	return postgresDatabase(t, containers.SharedPostgres(t), bin, folder, service)
}}

func postgresDatabase(t *testing.T, server *containers.Postgres, bin, folder, service string) string {
	return addressFile(t, folder, service, server.Database(t, service, migrate(t, bin, service)))
}

// onBothStores runs a test on SQLite and on PostgreSQL.
func onBothStores(t *testing.T, test func(t *testing.T, on store)) {
	t.Parallel()
	for _, on := range []store{sqlite, postgres} {
		t.Run(on.name, func(t *testing.T) {
			t.Parallel()
			test(t, on)
		})
	}
}

// migrate migrates a database with the service's own command.
func migrate(t *testing.T, bin, service string) func(address string) error {
	return func(address string) error {
		out, err := command(t, bin, service, "migrate", "up", "--database="+address)
		if err != nil {
			return fmt.Errorf("%s migrate up: %w\n%s", service, err, out)
		}
		return nil
	}
}

// command runs a command of a service and returns its output.
func command(t *testing.T, bin, service string, args ...string) (string, error) {
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, service), args...).CombinedOutput()
	return string(out), err
}

// addressFile writes a database's address to the service's address file, atomically,
// and returns the flag for the file.
func addressFile(t *testing.T, folder, service, address string) string {
	t.Helper()
	path := addressPath(folder, service)
	if err := errors.Join(os.WriteFile(path+".new", []byte(address), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	return "--database-file=" + path
}

func addressPath(folder, service string) string { return filepath.Join(folder, service+".address") }

// system is both services, with the store's number of replicas of each.
type system struct {
	*testing.T
	bin, folder       string
	orders, inventory *service
}

// service has all replicas of a service and a client for them.
type service struct {
	name, database string
	replicas       []*processes.Process
	// balancer is nil for one replica, which the client calls directly.
	balancer *caller.Balancer
	*caller.Client
}

// startSystem starts both services. They stop when the test ends.
func startSystem(t *testing.T, on store, bin string, ordersArgs ...string) *system {
	t.Helper()
	sys := &system{T: t, bin: bin, folder: t.TempDir()}
	sys.inventory = sys.start(on, "inventory", openapi.Inventory())
	sys.orders = sys.start(on, "orders", openapi.Orders(), append([]string{"--inventory-url=" + sys.inventory.URL}, ordersArgs...)...)
	return sys
}

func (sys *system) start(on store, name string, contract *openapi.Document, args ...string) *service {
	sys.Helper()
	s := &service{name: name, database: on.database(sys.T, sys.bin, sys.folder, name)}
	ctx, cancel := context.WithTimeout(sys.Context(), limit)
	defer cancel()
	sys.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(sys.Context()), limit)
		defer cancel()
		for _, p := range s.replicas {
			if err := p.Stop(ctx); err != nil {
				sys.Errorf("%s: %v\n%s", name, err, p.Log())
			}
		}
	})
	for range on.replicas {
		p, err := processes.Start(ctx, processes.Options{
			// Requests in flight take long on a busy machine.
			Binary: filepath.Join(sys.bin, name), Args: append([]string{s.database, "--drain-timeout=60s"}, args...), Env: []string{"FAILPOINTS=" + sys.folder},
		})
		if err != nil {
			sys.Fatal(err)
		}
		s.replicas = append(s.replicas, p)
	}
	url := s.replicas[0].URL
	if on.replicas > 1 {
		s.balancer = &caller.Balancer{}
		var addresses []string
		for _, p := range s.replicas {
			addresses = append(addresses, p.Addr())
		}
		s.balancer.Set(addresses...)
		sys.open(s)
		sys.Cleanup(s.balancer.Close)
		url = s.balancer.URL()
	}
	s.Client = caller.NewClient(url, contract, func(err error) { sys.Error(err) })
	return s
}

// kill kills every replica.
func (s *service) kill() {
	for _, p := range s.replicas {
		p.Kill()
	}
	if s.balancer != nil {
		s.balancer.Close()
	}
}

func (sys *system) open(s *service) {
	sys.Helper()
	if err := s.balancer.Open(); err != nil {
		sys.Fatal(err)
	}
}

func (s *service) signal(signal os.Signal) {
	for _, p := range s.replicas {
		p.Signal(signal)
	}
}

// restart restarts the replicas that have exited, at the same addresses.
func (sys *system) restart(s *service) {
	sys.Helper()
	ctx, cancel := context.WithTimeout(sys.Context(), limit)
	defer cancel()
	for i, p := range s.replicas {
		if !exited(p) {
			continue
		}
		again, err := p.Restart(ctx)
		if err != nil {
			sys.Fatal(err)
		}
		s.replicas[i] = again
	}
	if s.balancer != nil {
		sys.open(s)
	}
}

func exited(p *processes.Process) bool {
	select {
	case <-p.Exited():
		return true
	default:
		return false
	}
}

type response = caller.Response

func (sys *system) services() caller.Services {
	return caller.Services{Orders: sys.orders.Client, Inventory: sys.inventory.Client}
}

func (sys *system) stock(sku string, onHand int64) {
	sys.Helper()
	sys.wait("there is stock of "+sku, func() bool { return sys.services().Count(sys.Context(), sku, onHand).Done() })
}

func (sys *system) place(id, sku string, quantity int64, headers ...string) response {
	return sys.services().Place(sys.Context(), id, sku, quantity, headers...)
}

// placed retries a place until it is done.
func (sys *system) placed(id, sku string, quantity int64) {
	sys.Helper()
	sys.wait(id+" is placed", func() bool { return sys.place(id, sku, quantity).Done() })
}

func (sys *system) amend(id, sku string, quantity int64) response {
	return sys.services().Amend(sys.Context(), id, sku, quantity)
}

func (sys *system) confirm(id string) response { return sys.services().Confirm(sys.Context(), id) }

func (sys *system) cancel(id string, headers ...string) response {
	return sys.services().Cancel(sys.Context(), id, headers...)
}

func (sys *system) get(id string) response { return sys.services().Order(sys.Context(), id) }

func (sys *system) level(sku string) (onHand, reserved int64) {
	sys.Helper()
	l, err := sys.services().Level(sys.Context(), sku)
	if err != nil {
		sys.Fatal(err)
	}
	return l.OnHand, l.Reserved
}

// wait waits for a condition.
func (sys *system) wait(what string, condition func() bool) {
	sys.Helper()
	sys.within(limit, what, condition)
}

func (sys *system) within(limit time.Duration, what string, condition func() bool) {
	sys.Helper()
	wait.Until(sys, limit, what, sys.logs, condition)
}

// logs is the output of every replica.
func (sys *system) logs() string {
	var all strings.Builder
	for _, s := range []*service{sys.orders, sys.inventory} {
		if s == nil { // not started
			continue
		}
		for _, p := range s.replicas {
			fmt.Fprintf(&all, "\n--- %s %d\n%s", s.name, p.PID(), p.Log())
		}
	}
	return all.String()
}

func (sys *system) settled(id string) response {
	sys.Helper()
	var r response
	sys.wait(id+" is settled", func() bool {
		r = sys.get(id)
		return r.Status == http.StatusNotFound || r.Status == http.StatusOK && r.Intent == nil
	})
	return r
}

// audit runs both services' audits. A difference fails the test.
func (sys *system) audit() {
	sys.Helper()
	for _, audit := range [][]string{
		{"inventory", "audit", sys.inventory.database},
		{"orders", "audit", sys.orders.database, "--inventory-url=" + sys.inventory.URL},
	} {
		var out string
		var err error
		sys.wait(audit[0]+" audit runs", func() bool {
			out, err = command(sys.T, sys.bin, audit[0], audit[1:]...)
			return err == nil || exitCode(err) == 1
		})
		if err != nil {
			sys.Errorf("%s audit: %v\n%s", audit[0], err, out)
		}
	}
}

// concurrently sends n requests at the same time.
func concurrently(n int, call func(i int) response) []response {
	replies := make([]response, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { replies[i] = call(i) })
	}
	all.Wait()
	return replies
}
