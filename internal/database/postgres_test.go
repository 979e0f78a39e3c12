package database

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"roundtrip/internal/problem"
	"roundtrip/test/support/containers"
)

func TestMain(m *testing.M) { os.Exit(containers.Main(m)) }

var first = fstest.MapFS{
	"00001_things.sql": {Data: []byte("-- +goose Up\nCREATE TABLE things (name text PRIMARY KEY);\n")},
}

var second = fstest.MapFS{
	"00001_things.sql": first["00001_things.sql"],
	"00002_colour.sql": {Data: []byte("-- +goose Up\nALTER TABLE things ADD colour text;\n")},
}

func migrationsOf(files fstest.MapFS) Migrations {
	return Migrations{Files: files, Log: slog.New(slog.DiscardHandler)}
}

// things is the address of a database with an empty table of that name.
func things(t *testing.T) string {
	t.Helper()
	return containers.SharedPostgres(t).Database(t, "things", func(address string) error {
		db, err := OpenPostgres(FromAddress(patient(address)), 2)
		if err != nil {
			return err
		}
		defer db.Close()
		_, err = migrationsOf(first).Up(context.Background(), db)
		return err
	})
}

// patient is an address with wide bounds, for tests that are not about them: a
// machine may have much else to do.
func patient(address string) string {
	return address + "&statement_timeout=60000&lock_timeout=60000&idle_in_transaction_session_timeout=60000"
}

func openPostgres(t *testing.T, source Source) *Postgres {
	t.Helper()
	db, err := OpenPostgres(source, 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func execute(ctx context.Context, db *Postgres, statement string) error {
	return db.Write(ctx, func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, statement); return err })
}

// number is what a query for one number gives.
func number(t *testing.T, db *Postgres, query string) (n int) {
	t.Helper()
	err := db.Read(t.Context(), func(ctx context.Context, tx pgx.Tx) error { return tx.QueryRow(ctx, query).Scan(&n) })
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// beside is a connection of somebody else's.
func beside(t *testing.T, address string) *pgx.Conn {
	t.Helper()
	connection, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close(context.WithoutCancel(t.Context())) })
	return connection
}

func must(t *testing.T, connection *pgx.Conn, statement string) {
	t.Helper()
	if _, err := connection.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// eventually tries until it works: a pool finds its broken connections one by one.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func wantUnavailable(t *testing.T, what string, err error) {
	t.Helper()
	if problem.CodeOf(err) != problem.Unavailable {
		t.Errorf("%s: %v, want unavailable", what, err)
	}
}

func TestATransactionThatMetAnotherIsRunAgain(t *testing.T) {
	t.Parallel()
	db := openPostgres(t, FromAddress(patient(things(t))))
	for _, c := range []struct {
		code        string
		fails, runs int
	}{
		{"40001", 2, 3}, {"40P01", 2, 3}, {"23505", 2, 3}, {"55P03", 2, 3}, // serialization, deadlock, unique, lock
		{"40P01", 100, maxTries}, {"23514", 100, 1}, {"57014", 100, 1}, // check, statement time-out
	} {
		runs := 0
		err := db.Write(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
			runs++
			if _, err := tx.Exec(ctx, fmt.Sprintf("INSERT INTO things VALUES ('%s run %d')", c.code, runs)); err != nil {
				return err
			}
			if runs <= c.fails {
				_, err := tx.Exec(ctx, "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '"+c.code+"'; END $$")
				return err
			}
			return nil
		})
		stored := number(t, db, "SELECT count(*) FROM things WHERE name LIKE '"+c.code+"%'")
		if c.fails < c.runs {
			if err != nil || stored != 1 {
				t.Errorf("%s: %v, and %d are stored", c.code, err, stored)
			}
			if err := execute(t.Context(), db, "DELETE FROM things"); err != nil {
				t.Error(err)
			}
		} else {
			wantUnavailable(t, c.code, err)
			if stored != 0 {
				t.Errorf("%s: %d are stored", c.code, stored)
			}
		}
		if runs != c.runs {
			t.Errorf("%s was run %d times, want %d", c.code, runs, c.runs)
		}
	}
}

func TestADeadlockEndsWithBothDone(t *testing.T) {
	t.Parallel()
	db := openPostgres(t, FromAddress(patient(things(t))))
	if err := execute(t.Context(), db, "INSERT INTO things VALUES ('a'), ('b')"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	var met [2]chan struct{}
	for i := range met {
		met[i] = make(chan struct{})
	}
	var runs atomic.Int64
	for i, order := range [][]string{{"a", "b"}, {"b", "a"}} {
		go func() {
			again := false
			done <- db.Write(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
				runs.Add(1)
				if _, err := tx.Exec(ctx, "SELECT FROM things WHERE name = $1 FOR UPDATE", order[0]); err != nil {
					return err
				}
				if !again { // the first time each waits until the other has its first row
					again = true
					close(met[i])
					<-met[1-i]
				}
				_, err := tx.Exec(ctx, "SELECT FROM things WHERE name = $1 FOR UPDATE", order[1])
				return err
			})
		}()
	}
	if err := errors.Join(<-done, <-done); err != nil || runs.Load() < 3 {
		t.Errorf("after %d runs: %v", runs.Load(), err)
	}
}

func TestWhatCantBeHadInTimeIsUnavailable(t *testing.T) {
	t.Parallel()
	address := things(t)
	db := openPostgres(t, FromAddress(address))
	holder := beside(t, address)
	must(t, holder, "INSERT INTO things VALUES ('a')")
	must(t, holder, "BEGIN; UPDATE things SET name = 'b'")
	for what, statement := range map[string]string{
		"a lock that another one keeps": "UPDATE things SET name = 'c'", "a statement without an end": "SELECT pg_sleep(600)",
	} {
		wantUnavailable(t, what, execute(t.Context(), db, statement))
	}
	// The caller's own deadline is the caller's to explain.
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := execute(short, db, "UPDATE things SET name = 'c'"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("past its deadline a caller got %v", err)
	}
	must(t, holder, "COMMIT")
	eventually(t, "when it can be had", func() error { return execute(t.Context(), db, "UPDATE things SET name = 'd'") })
}

func TestACommitIsKnownRefusedOrUnknown(t *testing.T) {
	t.Parallel()
	address := things(t)
	var fate atomic.Value
	fate.Store(func() containers.Fate { return containers.Pass })
	db := openPostgres(t, FromAddress(containers.ProxyCommits(t, patient(address), func() containers.Fate { return fate.Load().(func() containers.Fate)() })))
	ended := make(chan struct{})
	always := func(f containers.Fate) func() containers.Fate { return func() containers.Fate { return f } }
	other := beside(t, address)
	for _, c := range []struct {
		name    string
		fate    func() containers.Fate
		unknown bool
		stored  int
	}{
		{"unanswered", always(containers.Unanswered), true, 1},
		{"lost", always(containers.Lost), true, 0},
		{"ended by an operator", func() containers.Fate {
			defer close(ended)
			must(t, other, `SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
				WHERE datname = current_database() AND state = 'idle in transaction'`)
			return containers.Pass
		}, false, 0},
	} {
		fate.Store(c.fate)
		err := execute(t.Context(), db, "INSERT INTO things VALUES ('"+c.name+"')")
		wantUnavailable(t, c.name, err)
		if errors.Is(err, ErrCommitUnknown) != c.unknown {
			t.Errorf("%s: %v", c.name, err)
		}
		fate.Store(always(containers.Pass))
		eventually(t, "after "+c.name, func() error { return execute(t.Context(), db, "SELECT") })
		if n := number(t, db, "SELECT count(*) FROM things WHERE name = '"+c.name+"'"); n != c.stored {
			t.Errorf("%s: %d are stored, want %d", c.name, n, c.stored)
		}
	}

	<-ended // the operator waits until the server has ended what it ends

	// The server refuses a commit with reasons: nothing is unknown then.
	if err := execute(t.Context(), db, "ALTER TABLE things ADD UNIQUE (name) DEFERRABLE INITIALLY DEFERRED"); err != nil {
		t.Fatal(err)
	}
	if err := execute(t.Context(), db, "ALTER TABLE things DROP CONSTRAINT things_pkey"); err != nil {
		t.Fatal(err)
	}
	err := execute(t.Context(), db, "INSERT INTO things VALUES ('twice'), ('twice')")
	wantUnavailable(t, "refused", err)
	if refused, ok := errors.AsType[*pgconn.PgError](err); !ok || refused.Code != "23505" || errors.Is(err, ErrCommitUnknown) {
		t.Errorf("refused: %v", err)
	}
}

func TestAReadSeesOneMoment(t *testing.T) {
	t.Parallel()
	db := openPostgres(t, FromAddress(patient(things(t))))
	err := db.Read(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
		var before, after int
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM things").Scan(&before); err != nil {
			return err
		}
		if err := execute(ctx, db, "INSERT INTO things VALUES ('a')"); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM things").Scan(&after); err != nil || before != 0 || after != 0 {
			t.Errorf("first %d, then %d, %v", before, after, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	err = db.Read(t.Context(), func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, "DELETE FROM things"); return err })
	if n := number(t, db, "SELECT count(*) FROM things"); err == nil || n != 1 {
		t.Errorf("a read could write: %v, and %d are there", err, n)
	}
}

func TestAServerThatMayForgetIsRefused(t *testing.T) {
	t.Parallel()
	address := things(t)
	other := beside(t, address)
	name := other.Config().Database
	if err := openPostgres(t, FromAddress(patient(address))).CheckDurable(t.Context()); err != nil {
		t.Errorf("as it is: %v", err)
	}
	must(t, other, "ALTER DATABASE "+name+" SET synchronous_commit = off")
	err := openPostgres(t, FromAddress(patient(address))).CheckDurable(t.Context())
	if err == nil || !strings.Contains(err.Error(), "synchronous_commit off") || !strings.Contains(err.Error(), "--allow-unsafe-database") {
		t.Errorf("got %v", err)
	}
}

func TestMigrationsAreAppliedOnceByWhoeverComes(t *testing.T) {
	t.Parallel()
	empty := func(string) error { return nil }
	address := patient(containers.SharedPostgres(t).Database(t, "empty", empty))
	db := openPostgres(t, FromAddress(address))
	m := migrationsOf(second)
	if pending, err := m.Pending(t.Context(), db); err != nil || fmt.Sprint(pending) != "[00001_things.sql 00002_colour.sql]" {
		t.Errorf("at first pending are %v, %v", pending, err)
	}
	waited := make(chan error, 1)
	go func() { waited <- m.WaitForSchema(t.Context(), db) }()
	type result struct {
		applied int
		err     error
	}
	const processes = 4
	results := make(chan result, processes)
	for range processes {
		process := openPostgres(t, FromAddress(address))
		go func() {
			n, err := m.Up(t.Context(), process)
			results <- result{n, err}
		}()
	}
	applied := 0
	for range processes {
		r := <-results
		applied += r.applied
		if r.err != nil {
			t.Error(r.err)
		}
	}
	if applied != 2 {
		t.Errorf("%d were applied, want 2", applied)
	}
	if err := <-waited; err != nil {
		t.Errorf("who waited got %v", err)
	}
	if pending, err := m.Pending(t.Context(), db); err != nil || len(pending) != 0 {
		t.Errorf("in the end pending are %v, %v", pending, err)
	}
	if n, err := m.Up(t.Context(), db); err != nil || n != 0 {
		t.Errorf("once more: %d, %v", n, err)
	}
}

// While a new version is rolled out, the schema is already the new one and the
// old version still starts. The other way round it waits.
func TestAnOlderSchemaIsWaitedForAndANewerOneIsUsed(t *testing.T) {
	t.Parallel()
	db := openPostgres(t, FromAddress(patient(things(t))))
	if pending, err := migrationsOf(second).Pending(t.Context(), db); err != nil || fmt.Sprint(pending) != "[00002_colour.sql]" {
		t.Errorf("pending are %v, %v", pending, err)
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := migrationsOf(second).WaitForSchema(short, db); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("on an older schema: %v", err)
	}
	if n, err := migrationsOf(second).Up(t.Context(), db); err != nil || n != 1 {
		t.Errorf("migrated %d, %v", n, err)
	}
	if err := migrationsOf(first).WaitForSchema(t.Context(), db); err != nil {
		t.Errorf("on a newer schema: %v", err)
	}
	if n, err := migrationsOf(first).Up(t.Context(), db); err != nil || n != 0 {
		t.Errorf("the old migrations on a newer schema: %d, %v", n, err)
	}
}

func TestAMigrationTakesTheTimeThatItTakes(t *testing.T) {
	t.Parallel()
	db := openPostgres(t, FromAddress(things(t)+"&statement_timeout=500"))
	slow := fstest.MapFS{
		"00001_things.sql": first["00001_things.sql"],
		"00002_slow.sql":   {Data: []byte("-- +goose Up\nSELECT pg_sleep(1);\n")},
	}
	if n, err := migrationsOf(slow).Up(t.Context(), db); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
}

func TestAMigrationThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	db := openPostgres(t, FromAddress(patient(things(t))))
	broken := fstest.MapFS{
		"00001_things.sql": first["00001_things.sql"],
		"00002_broken.sql": {Data: []byte("-- +goose Up\nCREATE TABLE half (name text);\nCREATE TABLE things (name text);\n")},
	}
	if n, err := migrationsOf(broken).Up(t.Context(), db); err == nil || n != 0 {
		t.Errorf("%d, %v", n, err)
	}
	if n := number(t, db, "SELECT count(*) FROM pg_tables WHERE tablename = 'half'"); n != 0 {
		t.Error("half of it was applied")
	}
	if n, err := migrationsOf(second).Up(t.Context(), db); err != nil || n != 1 {
		t.Errorf("mended: %d, %v", n, err)
	}
}

func TestCredentialsMayChangeWhileAProcessRuns(t *testing.T) {
	t.Parallel()
	address := things(t)
	operator := beside(t, address)
	role := "role_of_" + operator.Config().Database
	must(t, operator, "CREATE ROLE "+role+" LOGIN PASSWORD 'old'; GRANT SELECT, INSERT ON things TO "+role)
	t.Cleanup(func() {
		if _, err := operator.Exec(context.WithoutCancel(t.Context()), "DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	file := filepath.Join(t.TempDir(), "address")
	write := func(password string) {
		t.Helper()
		u, err := url.Parse(patient(address))
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
	must(t, operator, "ALTER ROLE "+role+" PASSWORD 'new-secret'")
	if err := execute(t.Context(), pool, "INSERT INTO things VALUES ('on an open connection')"); err != nil {
		t.Errorf("an open connection: %v", err)
	}
	must(t, operator, "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = '"+role+"'")
	for range 3 {
		err := execute(t.Context(), pool, "INSERT INTO things VALUES ('with the old ones')")
		wantUnavailable(t, "with the old credentials", err)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("it gives the password away: %v", err)
		}
	}
	write("new-secret")
	eventually(t, "with the new credentials", func() error { return execute(t.Context(), pool, "INSERT INTO things VALUES ('after')") })
	if n := number(t, pool, "SELECT count(*) FROM things"); n != 3 {
		t.Errorf("%d are stored", n)
	}
}

// A server of its own: it is stopped, killed and started again.
func TestAPoolGoesOnAfterItsServerWasAway(t *testing.T) {
	t.Parallel()
	containers.SharedPostgres(t) // it skips where there is no engine
	server, err := containers.StartPostgres(t.Context(), containers.PostgresOptions{Arguments: []string{"-c", "fsync=off"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	// Started again it may have another address.
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
	eventually(t, "make a table", func() error { return execute(t.Context(), db, "CREATE TABLE IF NOT EXISTS things (name text)") })
	insert := func() error { return execute(t.Context(), db, "INSERT INTO things VALUES ('a')") }

	if err := server.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantUnavailable(t, "while it does not answer", insert())
	if err := server.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "when it answers again", insert)

	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantUnavailable(t, "while it is away", insert())
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "when it is back", insert)
	if n := number(t, db, "SELECT count(*) FROM things"); n < 2 {
		t.Errorf("%d are stored", n)
	}
}
