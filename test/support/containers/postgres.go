package containers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/moby/moby/api/types/container"
	"github.com/testcontainers/testcontainers-go"
)

const (
	user, password = "roundtrip", "roundtrip"
	postgresPort   = "5432"
	// limit is how long a server may take to start or to recover.
	limit = 5 * time.Minute
)

// Postgres is a PostgreSQL server in a container. Unless its data is in memory, it
// keeps the data over a kill and a restart.
type Postgres struct {
	*Container

	mu        sync.Mutex
	templates map[string]error
	databases int
}

// PostgresOptions are all optional.
type PostgresOptions struct {
	// InMemory keeps the data in memory. It is lost when the container stops.
	InMemory bool
	// Arguments are the server's arguments.
	Arguments []string
	// Options are the container's options.
	Options []testcontainers.ContainerCustomizer
}

// StartPostgres starts a server and waits until it accepts connections.
func StartPostgres(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	options := append([]testcontainers.ContainerCustomizer{
		testcontainers.WithEnv(map[string]string{"POSTGRES_USER": user, "POSTGRES_PASSWORD": password}),
		testcontainers.WithHostConfigModifier(func(host *container.HostConfig) {
			host.ShmSize = 256 << 20
			if o.InMemory {
				host.Tmpfs = map[string]string{"/var/lib/postgresql/data": ""}
			}
		}),
		testcontainers.WithCmd(append([]string{"postgres", "-c", "max_connections=400", "-c", "max_wal_size=256MB"}, o.Arguments...)...),
	}, o.Options...)
	c, err := PostgresImage.Start(ctx, []string{postgresPort}, options...)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	p := &Postgres{Container: c, templates: map[string]error{}}
	if err := p.wait(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start PostgreSQL: %w", err), p.Stop(context.WithoutCancel(ctx)))
	}
	return p, nil
}

// Restart starts a killed server and waits until it has recovered. Then
// [Postgres.Address] may be different.
func (p *Postgres) Restart(ctx context.Context) error {
	if err := p.Start(ctx); err != nil {
		return err
	}
	return p.wait(ctx)
}

// Address is the address of a database for this machine.
func (p *Postgres) Address(ctx context.Context, database string) (string, error) {
	endpoint, err := p.Endpoint(ctx, postgresPort)
	return addressAt(endpoint, database), err
}

// AddressAt is the address of a database at another host name of the server, such as
// its name in a container network.
func (p *Postgres) AddressAt(host, database string) string {
	return addressAt(net.JoinHostPort(host, postgresPort), database)
}

func addressAt(endpoint, database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, password), Host: endpoint, Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}

// AddressInside is the address of a database inside the container, for
// [Container.Run].
func (p *Postgres) AddressInside(database string) string { return p.AddressAt("127.0.0.1", database) }

// wait waits until the server accepts connections.
func (p *Postgres) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		// Get the address each time: a restarted container has another port.
		err := p.execute(ctx, "SELECT 1")
		if err == nil {
			return nil
		}
		if status, ended := p.Ended(ctx); ended {
			return fmt.Errorf("the server exited with status %d: %s", status, p.Log(ctx))
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the server accepts no connections: %w\n%s", err, p.Log(ctx))
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

// NewDatabase makes a database with a schema and returns its name. The database is a
// copy of a template. The first call for a schema makes the template and migrates it.
// Copying a database takes a fraction of the time of migrating one.
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
	// Its collation does not sort in byte order. So a query that needs byte order
	// must say so.
	if err := p.execute(ctx, "CREATE DATABASE "+template+" TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8' ENCODING 'UTF8'"); err != nil {
		return err
	}
	address, err := p.Address(ctx, template)
	if err != nil {
		return err
	}
	return migrate(address)
}

// Database makes a database for one test and returns its address. See
// [Postgres.NewDatabase].
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

// WholeReads is the number of sequential scans of each table of a database since the
// database was made. It waits until the server has counted an index scan of the given
// table, because a connection may not report its scans until it closes.
func WholeReads(t testing.TB, address, table string) map[string]int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
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
			t.Fatalf("the server counted no index scan of %s", table)
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
