package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2/client"
	mobynetwork "github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/network"

	"roundtrip/test/support/containers"
)

var (
	imageTag    = flag.String("image", "test", "the tag of the services' images")
	previousTag = flag.String("previous", "previous", "the tag of the images of the previous release")
	reportTo    = flag.String("report", "", "the folder for the report; without it no report is written")
)

func TestMain(m *testing.M) {
	flag.Parse()
	began := time.Now()
	status := containers.Main(m)
	if *reportTo != "" {
		page, err := buildReport(began).Write(*reportTo)
		if err != nil {
			fmt.Fprintln(os.Stderr, "integration:", err)
			status = 1
		}
		fmt.Println(page)
	}
	os.Exit(status)
}

// suite has what all cases share.
type suite struct {
	engine    *testcontainers.DockerClient
	network   *testcontainers.DockerNetwork
	postgres  *containers.Postgres
	nats      *containers.Container
	toxiproxy *toxiproxy.Client
	// gateway is the network's first address.
	gateway netip.Addr
	// ports counts the proxies' ports, addresses the containers' addresses, and cases
	// the cases.
	ports, addresses, cases atomic.Int64
}

// Names in the network.
const (
	postgresName = "postgres"
	natsName     = "nats"
	proxyName    = "toxiproxy"
)

// firstPort is the port of the first proxy.
const firstPort = 10_000

var start = sync.OnceValues(func() (*suite, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	s := new(suite)
	var err error
	if s.engine, err = containers.Engine(ctx); err != nil {
		return nil, err
	}
	for _, service := range []string{"inventory", "orders"} {
		if _, err := s.engine.ImageInspect(ctx, imageOf(service, *imageTag)); err != nil {
			return nil, fmt.Errorf("the engine has no image %s; run `make integration`", imageOf(service, *imageTag))
		}
	}
	if err := s.makeNetwork(ctx); err != nil {
		return nil, fmt.Errorf("make a network: %w", err)
	}
	var proxies *containers.Container
	var all sync.WaitGroup
	var failures [3]error
	all.Go(func() {
		s.postgres, failures[0] = s.startPostgres(ctx, postgresName, true)
	})
	all.Go(func() { s.nats, failures[1] = s.startNATS(ctx, natsName) })
	all.Go(func() {
		proxies, failures[2] = containers.ToxiproxyImage.Start(ctx, []string{"8474"}, testcontainers.WithCmd("-host=0.0.0.0"), s.as(proxyName))
	})
	all.Wait()
	if err := errors.Join(failures[:]...); err != nil {
		return nil, err
	}
	for _, c := range []*containers.Container{s.postgres.Container, s.nats, proxies} {
		containers.AtEnd(c.Stop)
	}
	endpoint, err := proxies.Endpoint(ctx, "8474")
	if err != nil {
		return nil, err
	}
	s.toxiproxy = toxiproxy.NewClient(endpoint)
	return s, poll(ctx, func() error {
		_, err := s.toxiproxy.Version()
		return err
	})
})

// theSuite starts the suite once. Without an engine it skips the test; in CI the test
// fails.
func theSuite(t testing.TB) *suite {
	t.Helper()
	s, err := start()
	containers.Check(t, err)
	return s
}

func imageOf(service, tag string) string { return "roundtrip/" + service + ":" + tag }

// makeNetwork makes a network in which the tests choose the containers' addresses. An
// engine allows that only if the tests choose the subnet, too. So the network is made
// twice: the first one shows which subnet is free.
func (s *suite) makeNetwork(ctx context.Context) error {
	labels := network.WithLabels(containers.Labels())
	first, err := network.New(ctx, labels)
	if err != nil {
		return err
	}
	found, err := s.engine.NetworkInspect(ctx, first.ID, client.NetworkInspectOptions{})
	if err = errors.Join(err, first.Remove(ctx)); err != nil {
		return err
	}
	ipam := found.Network.IPAM
	if len(ipam.Config) == 0 {
		return errors.New("the engine gave the network no subnet")
	}
	s.gateway = ipam.Config[0].Subnet.Masked().Addr().Next()
	if s.network, err = network.New(ctx, labels, network.WithIPAM(&ipam)); err != nil {
		return err
	}
	containers.AtEnd(func(ctx context.Context) error { return s.network.Remove(ctx) })
	return nil
}

// address returns an address that no container had before. The engine would reuse
// the address of a removed container, and a client of the old one would reach the
// wrong container.
func (s *suite) address() netip.Addr {
	a := s.gateway
	for range s.addresses.Add(1) {
		a = a.Next()
	}
	return a
}

// as connects a container to the network under names.
func (s *suite) as(names ...string) testcontainers.CustomizeRequestOption {
	return func(request *testcontainers.GenericContainerRequest) error {
		return errors.Join(network.WithNetwork(names, s.network).Customize(request),
			testcontainers.WithEndpointSettingsModifier(func(settings map[string]*mobynetwork.EndpointSettings) {
				settings[s.network.Name].IPAMConfig = &mobynetwork.EndpointIPAMConfig{IPv4Address: s.address()}
			}).Customize(request))
	}
}

// startPostgres starts a server. Data in memory is lost when it is killed.
func (s *suite) startPostgres(ctx context.Context, name string, inMemory bool, arguments ...string) (*containers.Postgres, error) {
	return containers.StartPostgres(ctx, containers.PostgresOptions{
		InMemory: inMemory, Arguments: arguments, Options: []testcontainers.ContainerCustomizer{s.as(name)},
	})
}

// accounts is the number of accounts of a NATS server. Each case has its own, so that
// cases do not see each other's messages.
const accounts = 500

func account(n int64) string { return fmt.Sprintf("case%d", n) }

// startNATS starts a server and waits until it listens.
func (s *suite) startNATS(ctx context.Context, name string) (*containers.Container, error) {
	var config strings.Builder
	config.WriteString("accounts {\n")
	for n := range int64(accounts) {
		fmt.Fprintf(&config, "%[1]s { users = [{user: %[1]s, password: %[1]s}] }\n", account(n))
	}
	config.WriteString("}\n")
	c, err := containers.NATSImage.Start(ctx, []string{"4222"}, testcontainers.WithCmd("-c", "/nats.conf"), s.as(name),
		testcontainers.WithFiles(testcontainers.ContainerFile{Reader: strings.NewReader(config.String()), ContainerFilePath: "/nats.conf", FileMode: 0o444}))
	if err != nil {
		return nil, fmt.Errorf("start NATS: %w", err)
	}
	return c, listens(ctx, c, "4222")
}

// listens waits until something listens on a container's port.
func listens(ctx context.Context, c *containers.Container, port string) error {
	return poll(ctx, func() error {
		endpoint, err := c.Endpoint(ctx, port)
		if err != nil {
			return err
		}
		connection, err := net.DialTimeout("tcp", endpoint, time.Second)
		if err != nil {
			if status, end := c.Ended(ctx); end {
				return fmt.Errorf("the server exited with status %d: %s", status, c.Log(ctx))
			}
			return err
		}
		return connection.Close()
	})
}

// poll retries until there is no error, or ctx ends.
func poll(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// database makes a database with a service's current schema and returns its address
// in the network. name is the server's name there.
func (s *suite) database(t testing.TB, server *containers.Postgres, name, service string) string {
	t.Helper()
	inside := func(address string) string {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		u.Host = net.JoinHostPort(name, "5432")
		return u.String()
	}
	return inside(server.Database(t, service, func(address string) error {
		c, err := containers.Start(t.Context(), imageOf(service, *imageTag), nil, s.as(), testcontainers.WithCmd("migrate", "up", "--database="+inside(address)))
		if err != nil {
			return err
		}
		var status int
		err = poll(t.Context(), func() error {
			var end bool
			if status, end = c.Ended(t.Context()); !end {
				return errors.New("the migration is running")
			}
			return nil
		})
		if err == nil && status != 0 {
			err = fmt.Errorf("%s migrate up: exit %d\n%s", service, status, c.Log(t.Context()))
		}
		return errors.Join(err, c.Stop(context.WithoutCancel(t.Context())))
	}))
}

// version is the version in the images' labels.
func version() string {
	s, err := start()
	if err != nil {
		return "unknown"
	}
	image, err := s.engine.ImageInspect(context.Background(), imageOf("orders", *imageTag))
	if err != nil || image.Config == nil {
		return "unknown"
	}
	return image.Config.Labels["org.opencontainers.image.version"]
}

// machine describes the machine.
func machine() string {
	text := fmt.Sprintf("%s/%s, %d processors", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	s, err := start()
	if err != nil {
		return text
	}
	version, err := s.engine.ServerVersion(context.Background(), client.ServerVersionOptions{})
	if err != nil {
		return text
	}
	return text + ", engine " + version.Version
}

var (
	wires  = []string{"http", "grpc", "nats"}
	stores = []string{"sqlite", "postgres"}
)
