package containers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
)

const (
	user, password = "roundtrip", "roundtrip"
	// patience is how long a server may take to start or to recover.
	patience = 5 * time.Minute
)

// Postgres is a PostgreSQL server in a container. It keeps its data when it is
// killed and started again.
type Postgres struct {
	engine    *testcontainers.DockerClient
	container *testcontainers.DockerContainer

	mu        sync.Mutex
	templates map[string]error
	databases int
}

// StartPostgres starts a server and waits until it answers. Its arguments are
// the server's own.
func StartPostgres(ctx context.Context, arguments ...string) (*Postgres, error) {
	return startPostgres(ctx, nil, arguments...)
}

// inMemory is where a server's data is that goes with its container's end.
var inMemory = map[string]string{"/var/lib/postgresql/data": ""}

func startPostgres(ctx context.Context, tmpfs map[string]string, arguments ...string) (*Postgres, error) {
	engine, err := Engine(ctx)
	if err != nil {
		return nil, err
	}
	image, err := PostgresImage.Find(ctx, engine)
	if err != nil {
		return nil, err
	}
	p := &Postgres{engine: engine, templates: map[string]error{}}
	p.container, err = testcontainers.Run(ctx, image,
		testcontainers.WithEnv(map[string]string{"POSTGRES_USER": user, "POSTGRES_PASSWORD": password}),
		testcontainers.WithExposedPorts("5432/tcp"),
		testcontainers.WithHostConfigModifier(func(host *container.HostConfig) {
			// Nobody else on the network reaches it.
			host.PortBindings = network.PortMap{network.MustParsePort("5432/tcp"): {{HostIP: netip.MustParseAddr("127.0.0.1")}}}
			host.ShmSize = 256 << 20
			host.Tmpfs = tmpfs
		}),
		testcontainers.WithCmd(append([]string{"postgres", "-c", "max_connections=400", "-c", "max_wal_size=256MB"}, arguments...)...))
	if err == nil {
		err = p.wait(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start PostgreSQL: %w", err), testcontainers.TerminateContainer(p.container))
	}
	return p, nil
}

// Stop removes the server and its data.
func (p *Postgres) Stop(ctx context.Context) error {
	return p.container.Terminate(ctx, testcontainers.StopTimeout(0))
}

// Kill ends the server as kill -9 does.
func (p *Postgres) Kill(ctx context.Context) error {
	_, err := p.engine.ContainerKill(ctx, p.container.GetContainerID(), client.ContainerKillOptions{Signal: "SIGKILL"})
	return err
}

// Restart starts a server that was killed, and waits until it has recovered.
// [Postgres.Address] may be another one then.
func (p *Postgres) Restart(ctx context.Context) error {
	if _, err := p.engine.ContainerStart(ctx, p.container.GetContainerID(), client.ContainerStartOptions{}); err != nil {
		return err
	}
	return p.wait(ctx)
}

// pauseTries is how often the engine is asked to pause.
const pauseTries = 20

// Pause stops every process of the server where it is, until Resume. An engine on
// cgroup v1 may fail to freeze a server that is just making processes ("unable to
// freeze"); it lets them go on then, and is asked again.
func (p *Postgres) Pause(ctx context.Context) (err error) {
	for range pauseTries {
		if _, err = p.engine.ContainerPause(ctx, p.container.GetContainerID(), client.ContainerPauseOptions{}); err == nil {
			return nil
		}
	}
	return err
}

// Resume lets it go on.
func (p *Postgres) Resume(ctx context.Context) error {
	_, err := p.engine.ContainerUnpause(ctx, p.container.GetContainerID(), client.ContainerUnpauseOptions{})
	return err
}

// Run runs a command in the server's container and returns what it printed.
func (p *Postgres) Run(ctx context.Context, command ...string) (string, error) {
	status, output, err := p.container.Exec(ctx, command, exec.Multiplexed())
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(output)
	if err == nil && status != 0 {
		err = fmt.Errorf("%s: exit %d\n%s", command[0], status, text)
	}
	return string(text), err
}

// CPU is the processor time that the container has used since it was started.
func (p *Postgres) CPU(ctx context.Context) (time.Duration, error) {
	answer, err := p.engine.ContainerStats(ctx, p.container.GetContainerID(), client.ContainerStatsOptions{})
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	var stats container.StatsResponse
	if err := json.NewDecoder(answer.Body).Decode(&stats); err != nil {
		return 0, err
	}
	return time.Duration(stats.CPUStats.CPUUsage.TotalUsage), nil
}

// Address is that of a database, from outside the container.
func (p *Postgres) Address(ctx context.Context, database string) (string, error) {
	endpoint, err := p.endpoint(ctx)
	if err != nil {
		return "", err
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, password), Host: endpoint, Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String(), nil
}

// endpoint is where the server is reached: at the container's own address where
// that is routed, as it is on Linux. Behind a published port there is a process of
// the engine's that copies every byte, and would be measured with the server.
func (p *Postgres) endpoint(ctx context.Context) (string, error) {
	if ip, err := p.container.ContainerIP(ctx); err == nil && ip != "" && runtime.GOOS == "linux" {
		direct := net.JoinHostPort(ip, "5432")
		dialer := net.Dialer{Timeout: 200 * time.Millisecond}
		if connection, err := dialer.DialContext(ctx, "tcp", direct); err == nil {
			return direct, connection.Close()
		}
	}
	return p.container.PortEndpoint(ctx, "5432/tcp", "")
}

// AddressInside is that of a database from inside the container, for [Postgres.Run].
func (p *Postgres) AddressInside(database string) string {
	return fmt.Sprintf("postgres://%s:%s@127.0.0.1:5432/%s", user, password, database)
}

// wait returns once the server answers.
func (p *Postgres) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		// Asked anew each time: a container that is started again has another port.
		err := p.execute(ctx, "SELECT 1")
		if err == nil {
			return nil
		}
		if state, failure := p.container.State(ctx); failure == nil && !state.Running {
			return fmt.Errorf("it ended with status %d: %s", state.ExitCode, p.Log(ctx))
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w\n%s", err, p.Log(ctx))
		}
	}
}

// execute runs one statement in the server's first database.
func (p *Postgres) execute(ctx context.Context, statement string) error {
	address, err := p.Address(ctx, "postgres")
	if err != nil {
		return err
	}
	connection, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer connection.Close(context.WithoutCancel(ctx))
	_, err = connection.Exec(ctx, statement)
	return err
}

// Log is what the server has written.
func (p *Postgres) Log(ctx context.Context) string {
	log, err := p.container.Logs(context.WithoutCancel(ctx))
	if err != nil {
		return err.Error()
	}
	defer log.Close()
	text, err := io.ReadAll(log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// NewDatabase makes a database and returns its name. It is a copy of one, made
// the first time, that migrate has brought to a schema of that name: to copy a
// database takes a fraction of the time that migrating one does.
func (p *Postgres) NewDatabase(ctx context.Context, schema string, migrate func(address string) error) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	template := "template_" + schema
	if _, ok := p.templates[template]; !ok {
		p.templates[template] = p.makeTemplate(ctx, template, migrate)
	}
	if err := p.templates[template]; err != nil {
		return "", err
	}
	p.databases++
	name := fmt.Sprintf("%s_%d", schema, p.databases)
	return name, p.execute(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", name, template))
}

func (p *Postgres) makeTemplate(ctx context.Context, template string, migrate func(address string) error) error {
	// Its collation sorts unlike bytes: a list that is in the order of bytes has
	// to ask for that.
	if err := p.execute(ctx, "CREATE DATABASE "+template+" TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8' ENCODING 'UTF8'"); err != nil {
		return err
	}
	address, err := p.Address(ctx, template)
	if err != nil {
		return err
	}
	return migrate(address)
}

// Database is the address of a new database for one test; see [Postgres.NewDatabase].
func (p *Postgres) Database(t testing.TB, schema string, migrate func(address string) error) string {
	t.Helper()
	name, err := p.NewDatabase(t.Context(), schema, migrate)
	if err != nil {
		t.Fatalf("make a database: %v", err)
	}
	t.Cleanup(func() {
		if err := p.execute(context.WithoutCancel(t.Context()), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	address, err := p.Address(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// WholeReads is how often each table of a database was read whole since the
// database was made. It waits until the server knows that a table was read by an
// index, which whoever did that says when its connection ends at the latest.
func WholeReads(t testing.TB, address, table string) map[string]int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		byIndex, whole, err := tableReads(ctx, address)
		if err != nil {
			t.Fatal(err)
		}
		if byIndex[table] > 0 {
			return whole
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("the server does not know of any read of %s", table)
		}
	}
}

func tableReads(ctx context.Context, address string) (byIndex, whole map[string]int64, err error) {
	connection, err := pgx.Connect(ctx, address)
	if err != nil {
		return nil, nil, err
	}
	defer connection.Close(context.WithoutCancel(ctx))
	rows, err := connection.Query(ctx, "SELECT relname, coalesce(idx_scan, 0), seq_scan FROM pg_stat_user_tables")
	if err != nil {
		return nil, nil, err
	}
	byIndex, whole = map[string]int64{}, map[string]int64{}
	var table string
	var indexed, sequential int64
	_, err = pgx.ForEachRow(rows, []any{&table, &indexed, &sequential}, func() error {
		byIndex[table], whole[table] = indexed, sequential
		return nil
	})
	return byIndex, whole, err
}
