package database

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"roundtrip/test/support/containers"
)

func TestCredentialsMayChangeAtRunTime(t *testing.T) {
	t.Parallel()
	address := thingsDatabase(t)
	operator := connect(t, address)
	role := "role_of_" + operator.Config().Database
	mustExec(t, operator, "CREATE ROLE "+role+" LOGIN PASSWORD 'old'; GRANT SELECT, INSERT ON things TO "+role)
	t.Cleanup(func() {
		if _, err := operator.Exec(context.WithoutCancel(t.Context()), "DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	file := filepath.Join(t.TempDir(), "address")
	write := func(password string) {
		t.Helper()
		u, err := url.Parse(withLongTimeouts(address))
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword(role, password)
		if err := os.WriteFile(file, []byte(u.String()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	pool := openPostgres(t, FromFile(file))
	if err := execute(t.Context(), pool, "INSERT INTO things VALUES ('before')"); err != nil {
		t.Fatal(err)
	}
	mustExec(t, operator, "ALTER ROLE "+role+" PASSWORD 'new-secret'")
	if err := execute(t.Context(), pool, "INSERT INTO things VALUES ('on an open connection')"); err != nil {
		t.Errorf("an open connection: %v", err)
	}
	mustExec(t, operator, "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = '"+role+"'")
	for range 3 {
		err := execute(t.Context(), pool, "INSERT INTO things VALUES ('with the old ones')")
		wantUnavailable(t, "with the old credentials", err)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error discloses the password: %v", err)
		}
	}
	write("new-secret")
	eventually(t, "with the new credentials", func() error { return execute(t.Context(), pool, "INSERT INTO things VALUES ('after')") })
	if n := queryInt(t, pool, "SELECT count(*) FROM things"); n != 3 {
		t.Errorf("%d rows are stored", n)
	}
}

// This test pauses, kills and restarts its own server.
func TestPoolRecoversWhenItsServerReturns(t *testing.T) {
	t.Parallel()
	containers.SharedPostgres(t) // skips the test without an engine
	server, err := containers.StartPostgres(t.Context(), containers.PostgresOptions{Arguments: []string{"-c", "fsync=off"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	// A restarted server may have another address.
	db := openPostgres(t, func() (Address, error) {
		address, err := server.Address(t.Context(), "postgres")
		if err != nil {
			return Address{}, err
		}
		return ParseAddress(address)
	})
	if err := db.CheckDurable(t.Context()); err == nil || !strings.Contains(err.Error(), "fsync off") {
		t.Errorf("with fsync off: %v", err)
	}
	eventually(t, "create a table", func() error { return execute(t.Context(), db, "CREATE TABLE IF NOT EXISTS things (name text)") })
	insert := func() error { return execute(t.Context(), db, "INSERT INTO things VALUES ('a')") }

	if err := server.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantUnavailable(t, "while the server does not answer", insert())
	if err := server.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "when the server answers again", insert)

	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantUnavailable(t, "while the server is down", insert())
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "when the server is back", insert)
	if n := queryInt(t, db, "SELECT count(*) FROM things"); n < 2 {
		t.Errorf("%d rows are stored", n)
	}
}
