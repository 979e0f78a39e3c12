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
	"roundtrip/test/support/containers"
	"roundtrip/test/support/shop"
)

// patience is how long a test waits for what must happen, on a machine however
// busy. Nothing is judged by it but that it happens.
const patience = 2 * time.Minute

// setting says what a pair is made of.
type setting struct {
	wire, store string
	// ordersReplicas and inventoryReplicas are 1 where they are 0.
	ordersReplicas, inventoryReplicas int
	// proxied puts a proxy into each connection of the wire. Each replica of orders
	// has its own.
	proxied bool
	// ownPostgres and ownNATS give the pair servers that it may break; only what is
	// killed keeps its data on a disk. The arguments are PostgreSQL's.
	ownPostgres, killsPostgres, ownNATS bool
	postgresArgs                        []string
	// ordersArgs go to every replica of orders, and those of ordersArgsOf to one.
	ordersArgs   []string
	ordersArgsOf map[int][]string
	// smallDisk gives a service a disk that can be filled, for its SQLite database.
	smallDisk string
	// ordersImage and inventoryImage are tags; today's where they are empty.
	ordersImage, inventoryImage string
}

// pair is both services, alone with their databases and their wire.
type pair struct {
	testing.TB
	*suite
	setting
	shop.Shop
	name              string
	account           string
	orders, inventory *service
	postgres          *containers.Postgres
	postgresName      string
	nats              *containers.Container
	// links are the proxies: in front of inventory for each replica of orders, or,
	// on NATS, between the server and it, and the last between the server and inventory.
	links []link
	diary *diary
	// disk reaches the small disk, and volumes are what is mounted for a service's
	// SQLite database; hogged are PostgreSQL's connections that a fault took.
	disk    *containers.Container
	volumes map[string]string
	hogged  []*pgx.Conn
}

// service is all replicas of one.
type service struct {
	name, image string
	database    string
	args        func(replica int) []string

	replicas []*containers.Container
	// all are the replicas, also those that were replaced.
	all   []*containers.Container
	front shop.Front
}

const (
	httpPort, adminPort, grpcPort = "8080", "9090", "7070"
)

// startPair starts a pair; what it is made of goes when the test ends.
func startPair(t testing.TB, s setting) *pair {
	t.Helper()
	p := &pair{TB: t, suite: shared(t), setting: s, diary: new(diary)}
	n := p.cases.Add(1)
	if n > accounts {
		t.Fatalf("NATS has accounts for %d cases, and there are more", accounts)
	}
	p.name, p.account = fmt.Sprintf("case%d", n), account(n-1)
	natsHost := p.startServers()
	inventoryArgs, ordersArgs := p.connect(natsHost)
	p.inventory = &service{name: "inventory", image: imageOf("inventory", cmp.Or(s.inventoryImage, *imageTag)), args: inventoryArgs}
	p.orders = &service{name: "orders", image: imageOf("orders", cmp.Or(s.ordersImage, *imageTag)), args: ordersArgs}
	p.Shop.Inventory = p.start(p.inventory, s.inventoryReplicas, openapi.Inventory())
	p.Shop.Orders = p.start(p.orders, s.ordersReplicas, openapi.Orders())
	for _, c := range slices.Concat(p.inventory.replicas, p.orders.replicas) {
		p.ready(c)
	}
	return p
}

// startServers starts the servers that the pair has to itself, and returns the name of
// its NATS server.
func (p *pair) startServers() (natsHost string) {
	p.Helper()
	var err error
	p.postgres, p.postgresName, p.nats, natsHost = p.suite.postgres, postgresName, p.suite.nats, natsName
	if p.ownPostgres {
		p.postgresName = p.name + "-postgres"
		p.postgres, err = p.startPostgres(p.Context(), p.postgresName, !p.killsPostgres, p.postgresArgs...)
		p.check(err)
		p.atEnd(p.postgres.Stop)
	}
	if p.ownNATS && p.wire == "nats" {
		natsHost = p.name + "-nats"
		p.nats, err = p.startNATS(p.Context(), natsHost)
		p.check(err)
		p.atEnd(p.nats.Stop)
	}
	if p.smallDisk != "" {
		p.smallDiskFor(p.smallDisk)
	}
	return natsHost
}

// connect makes the links, and the arguments by which the services find each other,
// for each of their replicas.
func (p *pair) connect(natsHost string) (inventory, orders func(replica int) []string) {
	p.Helper()
	natsAt := func(host string) string { return fmt.Sprintf("nats://%[1]s:%[1]s@%s", p.account, host) }
	// upstream is what orders connects to, and at makes an --inventory-url of a host and
	// port.
	upstream, at := net.JoinHostPort(p.host("inventory"), httpPort), func(host string) string { return "http://" + host }
	var inventoryArgs []string
	switch p.wire {
	case "grpc":
		upstream, at = net.JoinHostPort(p.host("inventory"), grpcPort), func(host string) string { return "dns:///" + host }
		inventoryArgs = []string{"--grpc-addr=:" + grpcPort}
	case "nats":
		upstream, at = net.JoinHostPort(natsHost, "4222"), natsAt
	}
	urls := slices.Repeat([]string{at(upstream)}, max(1, p.ordersReplicas))
	fromInventory := upstream
	if p.proxied {
		for i := range urls {
			urls[i] = at(p.link(upstream))
		}
		if p.wire == "nats" {
			fromInventory = p.link(upstream)
		}
	}
	if p.wire == "nats" {
		inventoryArgs = []string{"--nats-url=" + natsAt(fromInventory)}
	}
	return func(int) []string { return inventoryArgs }, func(i int) []string {
		return slices.Concat([]string{"--inventory-wire=" + p.wire, "--inventory-url=" + urls[i%len(urls)]}, p.ordersArgs, p.ordersArgsOf[i])
	}
}

// host is a service's name in the network.
func (p *pair) host(service string) string { return p.name + "-" + service }

// start starts a service, and returns a client that reaches its replicas in turn.
func (p *pair) start(s *service, replicas int, contract *openapi.Document) *shop.Client {
	p.Helper()
	if p.store == "postgres" {
		s.database = p.database(p, p.postgres, p.postgresName, s.name)
	}
	for range max(1, replicas) {
		p.add(s)
	}
	p.check(s.front.Open())
	p.Cleanup(s.front.Close)
	return shop.NewClient(s.front.URL(), contract, func(err error) { p.Error(err) })
}

func (p *pair) check(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *pair) atEnd(end func(context.Context) error) {
	p.Cleanup(func() {
		if err := end(context.WithoutCancel(p.Context())); err != nil {
			p.Error(err)
		}
	})
}

// add starts one more replica.
func (p *pair) add(s *service) *containers.Container {
	p.Helper()
	args := append([]string{"serve", "--drain-timeout=60s"}, s.args(len(s.all))...)
	if s.database != "" {
		args = append(args, "--database="+s.database)
	}
	c, err := containers.Start(p.Context(), s.image, []string{httpPort, adminPort}, p.as(p.host(s.name)), testcontainers.WithCmd(args...),
		testcontainers.WithHostConfigModifier(func(host *container.HostConfig) {
			host.ReadonlyRootfs = true
			host.CapDrop = []string{"ALL"}
			host.Mounts = []mount.Mount{{Type: mount.TypeVolume, Source: p.volumes[s.name], Target: "/data"}}
		}))
	p.check(err)
	s.replicas, s.all = append(s.replicas, c), append(s.all, c)
	log := fmt.Sprintf("%s-%d.log", s.name, len(s.all))
	p.atEnd(func(ctx context.Context) error {
		if p.Failed() {
			p.save(log, c.Log(ctx))
		}
		return c.Stop(ctx)
	})
	p.route(s)
	return c
}

// route tells a service's front where its replicas are.
func (p *pair) route(s *service) {
	p.Helper()
	var addresses []string
	for _, c := range s.replicas {
		if _, ended := c.Ended(p.Context()); ended {
			continue
		}
		endpoint, err := c.Endpoint(p.Context(), httpPort)
		p.check(err)
		addresses = append(addresses, endpoint)
	}
	s.front.Set(addresses...)
}

// ready waits until a replica takes requests.
func (p *pair) ready(c *containers.Container) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), patience)
	defer cancel()
	p.check(poll(ctx, func() error {
		if status, ended := c.Ended(ctx); ended {
			p.Fatalf("it ended with status %d: %s", status, c.Log(ctx))
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

// metric is a replica's.
func (p *pair) metric(c *containers.Container, name string, labels ...string) (float64, error) {
	url, err := adminURL(p.Context(), c)
	if err != nil {
		return 0, err
	}
	return shop.Metric(url, name, labels...)
}

// kill kills every replica of a service at once.
func (p *pair) kill(s *service) {
	p.Helper()
	for _, c := range s.replicas {
		p.check(c.Kill(p.Context()))
	}
	s.front.Set()
}

// again starts the replicas of a service that have ended.
func (p *pair) again(s *service) {
	p.Helper()
	for _, c := range s.replicas {
		if _, ended := c.Ended(p.Context()); ended {
			p.check(c.Start(p.Context()))
		}
	}
	p.route(s)
	for _, c := range s.replicas {
		p.ready(c)
	}
}

// routed is how long a replica that gets no more connections is left alone before it
// is asked to stop: one may just be on its way there.
const routed = 300 * time.Millisecond

// remove stops a replica as an orchestrator does: it gets no more connections, is
// asked to stop, and may answer what it has.
func (p *pair) remove(s *service, c *containers.Container) {
	p.Helper()
	s.replicas = slices.DeleteFunc(s.replicas, func(other *containers.Container) bool { return other == c })
	p.route(s)
	isClosed(p.Context().Done(), routed)
	p.check(c.Signal(p.Context(), "SIGTERM"))
	ctx, cancel := context.WithTimeout(p.Context(), patience)
	defer cancel()
	p.check(poll(ctx, func() error {
		status, ended := c.Ended(ctx)
		if !ended {
			return fmt.Errorf("it does not stop: %s", c.Log(ctx))
		}
		if status != 0 {
			p.Errorf("%s stopped with status %d", s.name, status)
		}
		return nil
	}))
}

// audit runs both services' own audits, in their containers; every difference
// fails the test.
func (p *pair) audit() {
	p.Helper()
	for _, a := range []struct {
		*service
		args []string
	}{
		{p.inventory, []string{"/inventory", "audit"}},
		{p.orders, []string{"/orders", "audit", "--inventory-url=http://" + net.JoinHostPort(p.host("inventory"), httpPort)}},
	} {
		if a.database != "" {
			a.args = append(a.args, "--database="+a.database)
		}
		if out, err := a.replicas[0].Run(p.Context(), a.args...); err != nil {
			p.Errorf("%s\n%s", err, out)
		}
	}
}

// unsettled is how many intents are.
func (p *pair) unsettled() (n float64, err error) {
	return p.metric(p.orders.replicas[0], "orders_intents_unsettled")
}

// settleWithin is how long after a fault's end everything is settled.
const settleWithin = 30 * time.Second

// settles waits until everything is settled, and says how long that took.
func (p *pair) settles() time.Duration {
	p.Helper()
	began := time.Now()
	shop.Wait(p, settleWithin, "everything is settled", nil, func() bool {
		n, err := p.unsettled()
		return err == nil && n == 0
	})
	return time.Since(began)
}

// logs is all that a service wrote.
func (p *pair) logs(s *service) string {
	var all strings.Builder
	for _, c := range s.all {
		all.WriteString(c.Log(p.Context()))
	}
	return all.String()
}

// save keeps a log of a case that failed, whole.
func (p *pair) save(name, text string) {
	if *reportTo == "" {
		p.Logf("--- %s\n%s", name, text)
		return
	}
	path := filepath.Join(*reportTo, "logs", strings.ReplaceAll(p.Name(), "/", "_"), name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		p.Error(err)
	}
	p.Logf("its log: %s", path)
}
