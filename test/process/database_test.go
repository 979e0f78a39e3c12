package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"roundtrip/internal/database"
	"roundtrip/test/support/containers"
	"roundtrip/test/support/processes"
)

// statements runs SQL on a database as the server's owner and returns its output.
func statements(t *testing.T, server *containers.Postgres, database, sql string) string {
	t.Helper()
	out, err := server.Run(t.Context(), "psql", "-v", "ON_ERROR_STOP=1", "-Atc", sql, server.AddressInside(database))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// name is the database name in an address.
func name(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}

// addRole makes a role that may read and write the rows of a database, and returns
// its address.
func addRole(t *testing.T, server *containers.Postgres, address, suffix string) string {
	t.Helper()
	role := name(t, address) + suffix
	statements(t, server, name(t, address), fmt.Sprintf(`CREATE ROLE %s LOGIN PASSWORD 'secret';
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %[1]s`, role))
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "secret")
	return u.String()
}

// asRoles is a store in which each service has its own role.
var asRoles = store{"postgres", 2, func(t *testing.T, bin, folder, service string) string {
	server := containers.SharedPostgres(t)
	address := server.Database(t, service, migrate(t, bin, service))
	return addressFile(t, folder, service, addRole(t, server, address, "_first"))
}}

// database is the name of a service's database.
func (sys *system) database(s *service) string {
	sys.Helper()
	address, err := os.ReadFile(addressPath(sys.folder, s.name))
	if err != nil {
		sys.Fatal(err)
	}
	return name(sys.T, string(address))
}

func TestDatabaseCredentialsChangeUnderLoad(t *testing.T) {
	t.Parallel()
	server := containers.SharedPostgres(t)
	sys := startSystem(t, asRoles, product)
	l := newLoad(sys, *seed)
	stop := l.Run()
	defer stop()
	l.waitFor(20)
	for _, s := range []*service{sys.orders, sys.inventory} {
		name := sys.database(s)
		address, err := server.Address(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		addressFile(t, sys.folder, s.name, addRole(t, server, address, "_second"))
		statements(t, server, name, fmt.Sprintf(`ALTER ROLE %s_first NOLOGIN;
			SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '%[1]s_first'`, name))
	}
	l.waitFor(50)
	stop()
	l.check()
	for _, s := range []*service{sys.orders, sys.inventory} {
		if n := statements(t, server, sys.database(s), fmt.Sprintf(`SELECT count(*) FROM pg_stat_activity
			WHERE usename = '%s_first'`, sys.database(s))); n != "0" {
			t.Errorf("%s: %s connections use the old credentials", s.name, n)
		}
	}
}

func TestDatabaseFullOrOutOfConnections(t *testing.T) {
	t.Parallel()
	for _, failure := range []struct {
		name string
		// start starts a system. block makes a service's database refuse writes, and
		// unblock ends that.
		start func(t *testing.T, victim string) (sys *system, block, unblock func())
	}{
		{"full disk", onASmallDisk},
		{"no connections", withLimitedRoles},
	} {
		for _, victim := range []string{"orders", "inventory"} {
			t.Run(failure.name+"/"+victim, func(t *testing.T) {
				t.Parallel()
				sys, block, unblock := failure.start(t, victim)
				l := newLoad(sys, *seed)
				stop := l.Run()
				defer stop()
				l.waitFor(20)
				block()
				refused := func() int64 { return l.Unavailable.Load() + l.Unknown.Load() }
				before := refused()
				sys.wait("requests fail", func() bool { return refused() >= before+20 })
				sys.wait("the response is unavailable", func() bool {
					var r response
					if victim == "orders" {
						r = sys.place("refused", "A", 1)
					} else {
						r = sys.inventory.Call(sys.Context(), "PUT", "/v1/adjustments/refused", `{"sku":"A","delta":1,"reason":"counted"}`)
					}
					if r.Err == nil && r.Status < 500 {
						t.Fatalf("the write succeeded: %d %s %v", r.Status, r.Text, r.Err)
					}
					return r.Status == http.StatusServiceUnavailable && r.Code == "unavailable"
				})
				unblock()
				l.waitFor(20)
				stop()
				l.check()
			})
		}
	}
}

// onASmallDisk puts the victim's SQLite database on a small disk. block fills the
// disk.
func onASmallDisk(t *testing.T, victim string) (sys *system, block, unblock func()) {
	disk := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk).CombinedOutput(); err != nil {
		if os.Getenv("CI") == "" {
			t.Skipf("LEFT OUT: mounting a small disk needs Linux and root: %v: %s", err, out)
		}
		t.Fatalf("mount a small disk: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "umount", disk).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	sys = startSystem(t, store{"sqlite", 1, func(t *testing.T, bin, folder, service string) string {
		if service == victim {
			folder = disk
		}
		return sqlite.database(t, bin, folder, service)
	}}, product)
	ballast := filepath.Join(disk, "ballast")
	block = func() {
		file, err := os.Create(ballast)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for err == nil {
			_, err = file.Write(make([]byte, 1024))
		}
	}
	return sys, block, func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
}

// withLimitedRoles gives the victim's role a connection limit. block sets it to 0 and
// ends its connections.
func withLimitedRoles(t *testing.T, victim string) (sys *system, block, unblock func()) {
	server := containers.SharedPostgres(t)
	sys = startSystem(t, asRoles, product)
	s := sys.orders
	if victim == "inventory" {
		s = sys.inventory
	}
	role := sys.database(s) + "_first"
	block = func() {
		statements(t, server, "postgres", fmt.Sprintf(`ALTER ROLE %s CONNECTION LIMIT 0;
			SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '%[1]s'`, role))
	}
	return sys, block, func() { statements(t, server, "postgres", "ALTER ROLE "+role+" CONNECTION LIMIT -1") }
}

func TestServeWaitsForSchema(t *testing.T) {
	t.Parallel()
	for _, service := range []string{"inventory", "orders"} {
		t.Run(service, func(t *testing.T) {
			t.Parallel()
			address := containers.SharedPostgres(t).Database(t, "empty", func(string) error { return nil })
			admin := freeAddress(t)
			asks := func(path string) int {
				response, err := http.Get("http://" + admin + path)
				if err != nil {
					return 0
				}
				response.Body.Close()
				return response.StatusCode
			}
			log, err := os.Create(filepath.Join(t.TempDir(), "log"))
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			started := make(chan error, 1)
			var p *processes.Process
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			go func() {
				var err error
				p, err = processes.Start(ctx, processes.Options{
					Binary: filepath.Join(product, service), Args: []string{"--database=" + address, "--admin-addr=" + admin}, Log: log,
				})
				started <- err
			}()
			(&system{T: t}).wait("the service waits for the schema", func() bool {
				written, err := os.ReadFile(log.Name())
				return err == nil && strings.Contains(string(written), "waiting for the schema")
			})
			status := func() (string, error) {
				return command(t, product, service, "migrate", "status", "--database="+address)
			}
			// On a busy machine a statement may take longer than its timeout.
			(&system{T: t}).wait("migrate status reports what is pending", func() bool {
				out, err := status()
				return exitCode(err) == 1 && strings.Contains(out, "pending: 00001_")
			})
			for path, want := range map[string]int{"/livez": 200, "/startupz": 503, "/readyz": 503} {
				if status := asks(path); status != want {
					t.Errorf("%s: %d without a schema", path, status)
				}
			}
			// Several replicas may migrate at the same time.
			migrations := make(chan error, 2)
			for range cap(migrations) {
				go func() { migrations <- migrate(t, product, service)(address) }()
			}
			if err := errors.Join(<-migrations, <-migrations, <-started); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{"/startupz", "/readyz"} {
				if status := asks(path); status != http.StatusOK {
					t.Errorf("%s: %d with the schema", path, status)
				}
			}
			(&system{T: t}).wait("migrate status reports nothing pending", func() bool {
				_, err := status()
				return err == nil
			})
			if err := p.Stop(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestMigrationHasNoStatementTimeout(t *testing.T) {
	t.Parallel()
	address := containers.SharedPostgres(t).Database(t, "empty", func(string) error { return nil })
	db, err := database.OpenPostgres(database.FromAddress(address), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	migrations := database.Migrations{
		Files: fstest.MapFS{"00001_slow.sql": {Data: []byte("-- +goose Up\nSELECT pg_sleep(3);\n")}},
		Log:   slog.New(slog.DiscardHandler),
	}
	if applied, err := migrations.Up(t.Context(), db); err != nil || applied != 1 {
		t.Errorf("%d migrations applied, %v", applied, err)
	}
}

func TestServeRefusesAsynchronousCommit(t *testing.T) {
	t.Parallel()
	server := containers.SharedPostgres(t)
	for _, service := range []string{"inventory", "orders"} {
		t.Run(service, func(t *testing.T) {
			t.Parallel()
			address := server.Database(t, service, migrate(t, product, service))
			statements(t, server, "postgres", "ALTER DATABASE "+name(t, address)+" SET synchronous_commit = off")
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			o := processes.Options{Binary: filepath.Join(product, service), Args: []string{"--database=" + address}}
			_, err := processes.Start(ctx, o)
			if exitCode(err) != 2 || !strings.Contains(err.Error(), "has synchronous_commit off") {
				t.Errorf("the server was not refused: %v", err)
			}
			o.Args = append(o.Args, "--allow-unsafe-database")
			p, err := processes.Start(ctx, o)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Stop(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// exitCode is the exit code of an ExitError, or -1.
func exitCode(err error) int {
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// freeAddress is an address with a free port.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
