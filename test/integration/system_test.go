package integration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/testcontainers/testcontainers-go"

	"roundtrip/contracts/openapi"
	"roundtrip/test/support/caller"
	"roundtrip/test/support/containers"
	"roundtrip/test/support/wait"
)

// limit is how long a test waits for a condition on a busy machine.
const limit = 2 * time.Minute

// setting says how a system is set up.
type setting struct {
	wire, store string
	// ordersReplicas and inventoryReplicas: default 1.
	ordersReplicas, inventoryReplicas int
	// proxied puts a proxy into each connection of the wire, one for each replica of
	// orders.
	proxied bool
	// ownPostgres and ownNATS start servers for this system only, which it may break.
	// killsPostgres keeps PostgreSQL's data on disk. postgresArgs are its arguments.
	ownPostgres, killsPostgres, ownNATS bool
	postgresArgs                        []string
	// ordersArgs are for every replica of orders, and ordersArgsOf for one.
	ordersArgs   []string
	ordersArgsOf map[int][]string
	// smallDisk names a service whose SQLite database is on a small disk.
	smallDisk string
	// ordersImage and inventoryImage are tags. Default: the current version.
	ordersImage, inventoryImage string
}

// system is both services with their own databases and wire.
type system struct {
	testing.TB
	*suite
	setting
	caller.Services
	name              string
	account           string
	orders, inventory *service
	postgres          *containers.Postgres
	postgresName      string
	nats              *containers.Container
	// proxies has one proxy between each replica of orders and inventory. On NATS the
	// proxies are in front of the server, and the last one is for inventory.
	proxies  []proxy
	recorder *recorder
	// disk is a container with the small disk. volumes are mounted for a service's
	// SQLite database. takenConnections are connections to PostgreSQL that a fault
	// holds.
	disk             *containers.Container
	volumes          map[string]string
	takenConnections []*pgx.Conn
}

// service has all replicas of a service.
type service struct {
	name, image string
	database    string
	args        func(replica int) []string

	replicas []*containers.Container
	// all includes replaced replicas.
	all      []*containers.Container
	balancer caller.Balancer
}

const (
	httpPort, adminPort, grpcPort = "8080", "9090", "7070"
)

// startSystem starts a system. It is removed when the test ends.
func startSystem(t testing.TB, s setting) *system {
	t.Helper()
	sys := &system{TB: t, suite: theSuite(t), setting: s, recorder: new(recorder)}
	n := sys.cases.Add(1)
	if n > accounts {
		t.Fatalf("there are more cases than the %d NATS accounts", accounts)
	}
	sys.name, sys.account = fmt.Sprintf("case%d", n), account(n-1)
	natsHost := sys.startServers()
	inventoryArgs, ordersArgs := sys.connect(natsHost)
	sys.inventory = &service{name: "inventory", image: imageOf("inventory", cmp.Or(s.inventoryImage, *imageTag)), args: inventoryArgs}
	sys.orders = &service{name: "orders", image: imageOf("orders", cmp.Or(s.ordersImage, *imageTag)), args: ordersArgs}
	sys.Services.Inventory = sys.start(sys.inventory, s.inventoryReplicas, openapi.Inventory())
	sys.Services.Orders = sys.start(sys.orders, s.ordersReplicas, openapi.Orders())
	for _, c := range slices.Concat(sys.inventory.replicas, sys.orders.replicas) {
		sys.ready(c)
	}
	return sys
}

// startServers starts the system's own servers and returns the name of its NATS
// server.
func (sys *system) startServers() (natsHost string) {
	sys.Helper()
	var err error
	sys.postgres, sys.postgresName, sys.nats, natsHost = sys.suite.postgres, postgresName, sys.suite.nats, natsName
	if sys.ownPostgres {
		sys.postgresName = sys.name + "-postgres"
		sys.postgres, err = sys.startPostgres(sys.Context(), sys.postgresName, !sys.killsPostgres, sys.postgresArgs...)
		sys.check(err)
		sys.cleanup(sys.postgres.Stop)
	}
	if sys.ownNATS && sys.wire == "nats" {
		natsHost = sys.name + "-nats"
		sys.nats, err = sys.startNATS(sys.Context(), natsHost)
		sys.check(err)
		sys.cleanup(sys.nats.Stop)
	}
	if sys.smallDisk != "" {
		sys.makeSmallDisk(sys.smallDisk)
	}
	return natsHost
}

// connect makes the proxies, and the arguments that connect the replicas.
func (sys *system) connect(natsHost string) (inventory, orders func(replica int) []string) {
	sys.Helper()
	natsAt := func(host string) string { return fmt.Sprintf("nats://%[1]s:%[1]s@%s", sys.account, host) }
	// upstream is what orders connects to. at makes an --inventory-url from a host and
	// port.
	upstream, at := net.JoinHostPort(sys.host("inventory"), httpPort), func(host string) string { return "http://" + host }
	var inventoryArgs []string
	switch sys.wire {
	case "grpc":
		upstream, at = net.JoinHostPort(sys.host("inventory"), grpcPort), func(host string) string { return "dns:///" + host }
		inventoryArgs = []string{"--grpc-addr=:" + grpcPort}
	case "nats":
		upstream, at = net.JoinHostPort(natsHost, "4222"), natsAt
	}
	urls := slices.Repeat([]string{at(upstream)}, max(1, sys.ordersReplicas))
	fromInventory := upstream
	if sys.proxied {
		for i := range urls {
			urls[i] = at(sys.proxy(upstream))
		}
		if sys.wire == "nats" {
			fromInventory = sys.proxy(upstream)
		}
	}
	if sys.wire == "nats" {
		inventoryArgs = []string{"--nats-url=" + natsAt(fromInventory)}
	}
	return func(int) []string { return inventoryArgs }, func(i int) []string {
		return slices.Concat([]string{"--inventory-wire=" + sys.wire, "--inventory-url=" + urls[i%len(urls)]}, sys.ordersArgs, sys.ordersArgsOf[i])
	}
}

// host is a service's host name in the network.
func (sys *system) host(service string) string { return sys.name + "-" + service }

// start starts a service and returns a client for it.
func (sys *system) start(s *service, replicas int, contract *openapi.Document) *caller.Client {
	sys.Helper()
	if sys.store == "postgres" {
		s.database = sys.database(sys, sys.postgres, sys.postgresName, s.name)
	}
	for range max(1, replicas) {
		sys.add(s)
	}
	sys.check(s.balancer.Open())
	sys.Cleanup(s.balancer.Close)
	return caller.NewClient(s.balancer.URL(), contract, func(err error) { sys.Error(err) })
}

func (sys *system) check(err error) {
	sys.Helper()
	if err != nil {
		sys.Fatal(err)
	}
}

func (sys *system) cleanup(end func(context.Context) error) {
	sys.Cleanup(func() {
		if err := end(context.WithoutCancel(sys.Context())); err != nil {
			sys.Error(err)
		}
	})
}

// add starts another replica.
func (sys *system) add(s *service) *containers.Container {
	sys.Helper()
	args := append([]string{"serve", "--drain-timeout=60s"}, s.args(len(s.all))...)
	if s.database != "" {
		args = append(args, "--database="+s.database)
	}
	c, err := containers.Start(sys.Context(), s.image, []string{httpPort, adminPort}, sys.as(sys.host(s.name)), testcontainers.WithCmd(args...),
		testcontainers.WithHostConfigModifier(func(host *container.HostConfig) {
			host.ReadonlyRootfs = true
			host.CapDrop = []string{"ALL"}
			host.Mounts = []mount.Mount{{Type: mount.TypeVolume, Source: sys.volumes[s.name], Target: "/data"}}
		}))
	sys.check(err)
	s.replicas, s.all = append(s.replicas, c), append(s.all, c)
	log := fmt.Sprintf("%s-%d.log", s.name, len(s.all))
	sys.cleanup(func(ctx context.Context) error {
		if sys.Failed() {
			sys.save(log, c.Log(ctx))
		}
		return c.Stop(ctx)
	})
	sys.route(s)
	return c
}

// route sets the replicas of a service's load balancer.
func (sys *system) route(s *service) {
	sys.Helper()
	var addresses []string
	for _, c := range s.replicas {
		if _, end := c.Ended(sys.Context()); end {
			continue
		}
		endpoint, err := c.Endpoint(sys.Context(), httpPort)
		sys.check(err)
		addresses = append(addresses, endpoint)
	}
	s.balancer.Set(addresses...)
}

// ready waits until a replica is ready.
func (sys *system) ready(c *containers.Container) {
	sys.Helper()
	ctx, cancel := context.WithTimeout(sys.Context(), limit)
	defer cancel()
	sys.check(poll(ctx, func() error {
		if status, end := c.Ended(ctx); end {
			sys.Fatalf("a replica exited with status %d: %s", status, c.Log(ctx))
		}
		url, err := adminURL(ctx, c)
		if err != nil {
			return err
		}
		response, err := http.Get(url + "/readyz")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		return nil
	}))
}

func adminURL(ctx context.Context, c *containers.Container) (string, error) {
	endpoint, err := c.Endpoint(ctx, adminPort)
	return "http://" + endpoint, err
}

// metric gets a metric of a replica.
func (sys *system) metric(c *containers.Container, name string, labels ...string) (float64, error) {
	url, err := adminURL(sys.Context(), c)
	if err != nil {
		return 0, err
	}
	return caller.Metric(sys.Context(), url, name, labels...)
}

// kill kills every replica of a service.
func (sys *system) kill(s *service) {
	sys.Helper()
	for _, c := range s.replicas {
		sys.check(c.Kill(sys.Context()))
	}
	s.balancer.Set()
}

// restart starts the replicas of a service that have exited.
func (sys *system) restart(s *service) {
	sys.Helper()
	for _, c := range s.replicas {
		if _, end := c.Ended(sys.Context()); end {
			sys.check(c.Start(sys.Context()))
		}
	}
	sys.route(s)
	for _, c := range s.replicas {
		sys.ready(c)
	}
}

// routeDelay is the time between the end of routing and SIGTERM. A connection may
// still be on its way to the replica.
const routeDelay = 300 * time.Millisecond

// remove stops a replica as an orchestrator does: it gets no more connections, then
// SIGTERM, and it may finish its requests.
func (sys *system) remove(s *service, c *containers.Container) {
	sys.Helper()
	s.replicas = slices.DeleteFunc(s.replicas, func(other *containers.Container) bool { return other == c })
	sys.route(s)
	closedWithin(sys.Context().Done(), routeDelay)
	sys.check(c.Signal(sys.Context(), "SIGTERM"))
	ctx, cancel := context.WithTimeout(sys.Context(), limit)
	defer cancel()
	sys.check(poll(ctx, func() error {
		status, end := c.Ended(ctx)
		if !end {
			return fmt.Errorf("the replica does not stop: %s", c.Log(ctx))
		}
		if status != 0 {
			sys.Errorf("%s stopped with status %d", s.name, status)
		}
		return nil
	}))
}

// audit runs both services' audits in their containers. A difference fails the
// test.
func (sys *system) audit() {
	sys.Helper()
	for _, a := range []struct {
		*service
		args []string
	}{
		{sys.inventory, []string{"/inventory", "audit"}},
		{sys.orders, []string{"/orders", "audit", "--inventory-url=http://" + net.JoinHostPort(sys.host("inventory"), httpPort)}},
	} {
		if a.database != "" {
			a.args = append(a.args, "--database="+a.database)
		}
		if out, err := a.replicas[0].Run(sys.Context(), a.args...); err != nil {
			sys.Errorf("%s\n%s", err, out)
		}
	}
}

// unsettled is the number of unsettled intents.
func (sys *system) unsettled() (n float64, err error) {
	return sys.metric(sys.orders.replicas[0], "orders_intents_unsettled")
}

// settleWithin is the limit of the protocol from a fault's end until all intents are
// settled.
const settleWithin = 30 * time.Second

// waitSettled waits until all intents are settled and returns the time it took.
func (sys *system) waitSettled() time.Duration {
	sys.Helper()
	began := time.Now()
	wait.Until(sys, settleWithin, "all intents are settled", nil, func() bool {
		n, err := sys.unsettled()
		return err == nil && n == 0
	})
	return time.Since(began)
}

// logs is the output of a service.
func (sys *system) logs(s *service) string {
	var all strings.Builder
	for _, c := range s.all {
		all.WriteString(c.Log(sys.Context()))
	}
	return all.String()
}

// save saves the log of a failed case.
func (sys *system) save(name, text string) {
	if *reportTo == "" {
		sys.Logf("--- %s\n%s", name, text)
		return
	}
	path := filepath.Join(*reportTo, "logs", strings.ReplaceAll(sys.Name(), "/", "_"), name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		sys.Error(err)
	}
	sys.Logf("log: %s", path)
}
