// Package process tests the pair as the processes that it is shipped as: killed
// with -9 at every step and at random, stopped under load, paused, and left
// alone by its other half or by its database. On SQLite each service is one
// process; on PostgreSQL, which needs an engine for containers, it is two.
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
	"roundtrip/test/support/containers"
	"roundtrip/test/support/processes"
	"roundtrip/test/support/shop"
)

// product and crashing are folders with the services' binaries: as they are
// shipped, and with failpoints.
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

// patience is how long a test waits for what must happen, on a machine however
// busy. Nothing is judged by it but that it happens.
const patience = 3 * time.Minute

// store is where a pair keeps its data, and how many processes share it.
type store struct {
	name     string
	replicas int
	// database makes the database of a service whose binary is in a folder, and
	// returns the flag that names it.
	database func(t *testing.T, bin, folder, service string) string
}

var sqlite = store{"sqlite", 1, func(_ *testing.T, _, folder, service string) string {
	return "--database=sqlite:" + filepath.Join(folder, service+".db")
}}

// postgres takes the server that all tests share.
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

// migrate brings a database to a service's schema, by the service's own command.
func migrate(t *testing.T, bin, service string) func(address string) error {
	return func(address string) error {
		out, err := command(t, bin, service, "migrate", "up", "--database="+address)
		if err != nil {
			return fmt.Errorf("%s migrate up: %w\n%s", service, err, out)
		}
		return nil
	}
}

// command runs one of a service's commands and returns all that it wrote.
func command(t *testing.T, bin, service string, args ...string) (string, error) {
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, service), args...).CombinedOutput()
	return string(out), err
}

// addressFile writes a database's address to where its service reads it, in one
// step, and returns the flag that says so.
func addressFile(t *testing.T, folder, service, address string) string {
	t.Helper()
	path := addressPath(folder, service)
	if err := errors.Join(os.WriteFile(path+".new", []byte(address), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	return "--database-file=" + path
}

func addressPath(folder, service string) string { return filepath.Join(folder, service+".address") }

// harness is a pair, with as many replicas of each service as its store has.
type harness struct {
	*testing.T
	bin, folder       string
	orders, inventory *service
}

// service is all replicas of one, seen from outside.
type service struct {
	name, database string
	replicas       []*processes.Process
	// front is nil where there is one replica, which is reached directly.
	front *shop.Front
	*shop.Client
}

// startPair starts both services and stops them when the test ends.
func startPair(t *testing.T, on store, bin string, ordersArgs ...string) *harness {
	t.Helper()
	h := &harness{T: t, bin: bin, folder: t.TempDir()}
	h.inventory = h.start(on, "inventory", openapi.Inventory())
	h.orders = h.start(on, "orders", openapi.Orders(), append([]string{"--inventory-url=" + h.inventory.URL}, ordersArgs...)...)
	return h
}

func (h *harness) start(on store, name string, contract *openapi.Document, args ...string) *service {
	h.Helper()
	s := &service{name: name, database: on.database(h.T, h.bin, h.folder, name)}
	ctx, cancel := context.WithTimeout(h.Context(), patience)
	defer cancel()
	h.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(h.Context()), patience)
		defer cancel()
		for _, p := range s.replicas {
			if err := p.Stop(ctx); err != nil {
				h.Errorf("%s: %v\n%s", name, err, p.Log())
			}
		}
	})
	for range on.replicas {
		p, err := processes.Start(ctx, processes.Options{
			// What is in flight may take its time on a busy machine.
			Binary: filepath.Join(h.bin, name), Args: append([]string{s.database, "--drain-timeout=60s"}, args...), Env: []string{"FAILPOINTS=" + h.folder},
		})
		if err != nil {
			h.Fatal(err)
		}
		s.replicas = append(s.replicas, p)
	}
	url := s.replicas[0].URL
	if on.replicas > 1 {
		s.front = &shop.Front{}
		var addresses []string
		for _, p := range s.replicas {
			addresses = append(addresses, p.Addr())
		}
		s.front.Set(addresses...)
		h.open(s)
		h.Cleanup(s.front.Close)
		url = s.front.URL()
	}
	s.Client = shop.NewClient(url, contract, func(err error) { h.Error(err) })
	return s
}

// kill kills every replica: nobody listens any more.
func (s *service) kill() {
	for _, p := range s.replicas {
		p.Kill()
	}
	if s.front != nil {
		s.front.Close()
	}
}

func (h *harness) open(s *service) {
	h.Helper()
	if err := s.front.Open(); err != nil {
		h.Fatal(err)
	}
}

func (s *service) signal(signal os.Signal) {
	for _, p := range s.replicas {
		p.Signal(signal)
	}
}

// restart starts the replicas that have ended again, where they were.
func (h *harness) restart(s *service) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), patience)
	defer cancel()
	for i, p := range s.replicas {
		if !ended(p) {
			continue
		}
		again, err := p.Again(ctx)
		if err != nil {
			h.Fatal(err)
		}
		s.replicas[i] = again
	}
	if s.front != nil {
		h.open(s)
	}
}

func ended(p *processes.Process) bool {
	select {
	case <-p.Exited():
		return true
	default:
		return false
	}
}

type reply = shop.Reply

func (h *harness) shop() shop.Shop {
	return shop.Shop{Orders: h.orders.Client, Inventory: h.inventory.Client}
}

func (h *harness) stock(sku string, onHand int64) {
	h.Helper()
	h.wait("there is stock of "+sku, func() bool { return h.shop().Count(h.Context(), sku, onHand).Done() })
}

func (h *harness) place(id, sku string, quantity int64, headers ...string) reply {
	return h.shop().Place(h.Context(), id, sku, quantity, headers...)
}

// placed places an order, however often that has to be tried.
func (h *harness) placed(id, sku string, quantity int64) {
	h.Helper()
	h.wait(id+" is placed", func() bool { return h.place(id, sku, quantity).Done() })
}

func (h *harness) amend(id, sku string, quantity int64) reply {
	return h.shop().Amend(h.Context(), id, sku, quantity)
}

func (h *harness) confirm(id string) reply { return h.shop().Confirm(h.Context(), id) }

func (h *harness) cancel(id string, headers ...string) reply {
	return h.shop().Cancel(h.Context(), id, headers...)
}

func (h *harness) get(id string) reply { return h.shop().Order(h.Context(), id) }

func (h *harness) level(sku string) (onHand, reserved int64) {
	h.Helper()
	l, err := h.shop().Level(h.Context(), sku)
	if err != nil {
		h.Fatal(err)
	}
	return l.OnHand, l.Reserved
}

// wait waits for a condition.
func (h *harness) wait(what string, condition func() bool) {
	h.Helper()
	h.within(patience, what, condition)
}

func (h *harness) within(patience time.Duration, what string, condition func() bool) {
	h.Helper()
	shop.Wait(h, patience, what, h.logs, condition)
}

// logs is what every replica wrote.
func (h *harness) logs() string {
	var all strings.Builder
	for _, s := range []*service{h.orders, h.inventory} {
		if s == nil { // it was not started
			continue
		}
		for _, p := range s.replicas {
			fmt.Fprintf(&all, "\n--- %s %d\n%s", s.name, p.PID(), p.Log())
		}
	}
	return all.String()
}

func (h *harness) settled(id string) reply {
	h.Helper()
	var r reply
	h.wait(id+" is settled", func() bool {
		r = h.get(id)
		return r.Status == http.StatusNotFound || r.Status == http.StatusOK && r.Intent == nil
	})
	return r
}

// audit runs both services' own audits; every difference fails the test.
func (h *harness) audit() {
	h.Helper()
	for _, audit := range [][]string{
		{"inventory", "audit", h.inventory.database},
		{"orders", "audit", h.orders.database, "--inventory-url=" + h.inventory.URL},
	} {
		var out string
		var err error
		h.wait(audit[0]+" can be audited", func() bool {
			out, err = command(h.T, h.bin, audit[0], audit[1:]...)
			return err == nil || exitCode(err) == 1
		})
		if err != nil {
			h.Errorf("%s audit: %v\n%s", audit[0], err, out)
		}
	}
}

// at makes n calls at the same time.
func at(n int, call func(i int) reply) []reply {
	replies := make([]reply, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { replies[i] = call(i) })
	}
	all.Wait()
	return replies
}
