package containers

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// execute runs a statement, or a query for one number.
func execute(ctx context.Context, address, statement string) (n int, err error) {
	connection, err := pgx.Connect(ctx, address)
	if err != nil {
		return 0, err
	}
	defer connection.Close(ctx)
	rows, err := connection.Query(ctx, statement)
	if err != nil {
		return 0, err
	}
	for rows.Next() {
		err = rows.Scan(&n)
	}
	if err == nil {
		err = rows.Err()
	}
	return n, err
}

func TestPostgresKeepsDataAfterKillAndPause(t *testing.T) {
	t.Parallel()
	SharedPostgres(t) // skips the test without a container engine
	p, err := StartPostgres(t.Context(), PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	do := func(statement string) int {
		t.Helper()
		address, err := p.Address(t.Context(), "postgres")
		if err != nil {
			t.Fatal(err)
		}
		n, err := execute(t.Context(), address, statement)
		if err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		return n
	}
	do("CREATE TABLE numbers AS SELECT 7 AS number")
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := do("SELECT number FROM numbers"); n != 7 {
		t.Errorf("after a kill: %d", n)
	}
	if err := p.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := do("SELECT number FROM numbers"); n != 7 {
		t.Errorf("after a pause: %d", n)
	}
	if out, err := p.Run(t.Context(), "psql", "-Atc", "SELECT 6 * 7", p.AddressInside("postgres")); err != nil || out != "42\n" {
		t.Errorf("psql: %q, %v", out, err)
	}
}

func TestDatabasesAreCopiesOfOneTemplate(t *testing.T) {
	t.Parallel()
	p := SharedPostgres(t)
	migrations := 0
	migrate := func(address string) error {
		migrations++
		_, err := execute(t.Context(), address, "CREATE TABLE numbers AS SELECT 1 AS number")
		return err
	}
	schema := fmt.Sprint("numbers", time.Now().UnixNano()) // unique, so that this run makes the template
	one, two := p.Database(t, schema, migrate), p.Database(t, schema, migrate)
	if _, err := execute(t.Context(), one, "UPDATE numbers SET number = 2"); err != nil {
		t.Fatal(err)
	}
	if n, err := execute(t.Context(), two, "SELECT number FROM numbers"); err != nil || n != 1 || migrations != 1 {
		t.Errorf("the other database has %d (%v), after %d migrations", n, err, migrations)
	}
}
