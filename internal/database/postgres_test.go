package database

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"roundtrip/internal/commit"
	"roundtrip/internal/problem"
	"roundtrip/test/support/containers"
)

func TestMain(m *testing.M) { os.Exit(containers.Main(m)) }

var firstMigrations = fstest.MapFS{
	"00001_things.sql": {Data: []byte("-- +goose Up\nCREATE TABLE things (name text PRIMARY KEY);\n")},
}

var secondMigrations = fstest.MapFS{
	"00001_things.sql": firstMigrations["00001_things.sql"],
	"00002_colour.sql": {Data: []byte("-- +goose Up\nALTER TABLE things ADD colour text;\n")},
}

func migrationsOf(files fstest.MapFS) Migrations {
	return Migrations{Files: files, Log: slog.New(slog.DiscardHandler)}
}

// thingsDatabase returns the address of a database with an empty table named
// things.
func thingsDatabase(t *testing.T) string {
	t.Helper()
	return containers.SharedPostgres(t).Database(t, "things", func(address string) error {
		db, err := OpenPostgres(FromAddress(withLongTimeouts(address)), 2)
		if err != nil {
			return err
		}
		defer db.Close()
		_, err = migrationsOf(firstMigrations).Up(context.Background(), db)
		return err
	})
}

// withLongTimeouts adds long timeouts to an address, for tests that do not check
// timeouts.
func withLongTimeouts(address string) string {
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

// queryInt returns the number that a query selects.
func queryInt(t *testing.T, db *Postgres, query string) (n int) {
	t.Helper()
	err := db.Read(t.Context(), func(ctx context.Context, tx pgx.Tx) error { return tx.QueryRow(ctx, query).Scan(&n) })
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// connect opens a connection outside the pool.
func connect(t *testing.T, address string) *pgx.Conn {
	t.Helper()
	connection, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close(context.WithoutCancel(t.Context())) })
	return connection
}

func mustExec(t *testing.T, connection *pgx.Conn, statement string) {
	t.Helper()
	if _, err := connection.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// eventually retries for up to a minute: a pool finds its broken connections one by
// one.
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

func TestConflictingTransactionIsRetried(t *testing.T) {
	t.Parallel()
	db := openPostgres(t, FromAddress(withLongTimeouts(thingsDatabase(t))))
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
		stored := queryInt(t, db, "SELECT count(*) FROM things WHERE name LIKE '"+c.code+"%'")
		if c.fails < c.runs {
			if err != nil || stored != 1 {
				t.Errorf("%s: %v, and %d rows are stored", c.code, err, stored)
			}
			if err := execute(t.Context(), db, "DELETE FROM things"); err != nil {
				t.Error(err)
			}
		} else {
			wantUnavailable(t, c.code, err)
			if stored != 0 {
				t.Errorf("%s: %d rows are stored, want none", c.code, stored)
			}
		}
		if runs != c.runs {
			t.Errorf("%s was run %d times, want %d", c.code, runs, c.runs)
		}
	}
}

func TestDeadlockedTransactionsBothCommit(t *testing.T) {
	t.Parallel()
	db := openPostgres(t, FromAddress(withLongTimeouts(thingsDatabase(t))))
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
				if !again { // in the first run each waits until the other has locked a row
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

func TestLockAndStatementTimeoutsAreUnavailable(t *testing.T) {
	t.Parallel()
	address := thingsDatabase(t)
	db := openPostgres(t, FromAddress(address))
	holder := connect(t, address)
	mustExec(t, holder, "INSERT INTO things VALUES ('a')")
	mustExec(t, holder, "BEGIN; UPDATE things SET name = 'b'")
	for what, statement := range map[string]string{
		"a lock that another session holds": "UPDATE things SET name = 'c'", "an endless statement": "SELECT pg_sleep(600)",
	} {
		wantUnavailable(t, what, execute(t.Context(), db, statement))
	}
	// The deadline of the caller is not reported as unavailable.
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := execute(short, db, "UPDATE things SET name = 'c'"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after its deadline a caller got %v", err)
	}
	mustExec(t, holder, "COMMIT")
	eventually(t, "after the lock is released", func() error { return execute(t.Context(), db, "UPDATE things SET name = 'd'") })
}

func TestCommitResultIsKnownOrReportedUnknown(t *testing.T) {
	t.Parallel()
	address := thingsDatabase(t)
	var fate atomic.Value
	fate.Store(func() containers.Fate { return containers.Pass })
	db := openPostgres(t, FromAddress(containers.ProxyCommits(t, withLongTimeouts(address), func() containers.Fate { return fate.Load().(func() containers.Fate)() })))
	ended := make(chan struct{})
	always := func(f containers.Fate) func() containers.Fate { return func() containers.Fate { return f } }
	other := connect(t, address)
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
			mustExec(t, other, `SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
				WHERE datname = current_database() AND state = 'idle in transaction'`)
			return containers.Pass
		}, false, 0},
	} {
		fate.Store(c.fate)
		err := execute(t.Context(), db, "INSERT INTO things VALUES ('"+c.name+"')")
		wantUnavailable(t, c.name, err)
		if errors.Is(err, commit.ErrUnknown) != c.unknown {
			t.Errorf("%s: %v", c.name, err)
		}
		fate.Store(always(containers.Pass))
		eventually(t, "after "+c.name, func() error { return execute(t.Context(), db, "SELECT") })
		if n := queryInt(t, db, "SELECT count(*) FROM things WHERE name = '"+c.name+"'"); n != c.stored {
			t.Errorf("%s: %d rows are stored, want %d", c.name, n, c.stored)
		}
	}

	<-ended // pg_terminate_backend waits until the session has ended

	// If the server refuses a commit, the result is known.
	if err := execute(t.Context(), db, "ALTER TABLE things ADD UNIQUE (name) DEFERRABLE INITIALLY DEFERRED"); err != nil {
		t.Fatal(err)
	}
	if err := execute(t.Context(), db, "ALTER TABLE things DROP CONSTRAINT things_pkey"); err != nil {
		t.Fatal(err)
	}
	err := execute(t.Context(), db, "INSERT INTO things VALUES ('twice'), ('twice')")
	wantUnavailable(t, "refused", err)
	if refused, ok := errors.AsType[*pgconn.PgError](err); !ok || refused.Code != "23505" || errors.Is(err, commit.ErrUnknown) {
		t.Errorf("refused: %v", err)
	}
}

func TestReadSeesOneSnapshot(t *testing.T) {
	t.Parallel()
	db := openPostgres(t, FromAddress(withLongTimeouts(thingsDatabase(t))))
	err := db.Read(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
		var before, after int
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM things").Scan(&before); err != nil {
			return err
		}
		if err := execute(ctx, db, "INSERT INTO things VALUES ('a')"); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM things").Scan(&after); err != nil || before != 0 || after != 0 {
			t.Errorf("the read counted %d and then %d, %v; want 0 and 0", before, after, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	err = db.Read(t.Context(), func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, "DELETE FROM things"); return err })
	if n := queryInt(t, db, "SELECT count(*) FROM things"); err == nil || n != 1 {
		t.Errorf("a read could write: %v, and there are %d rows", err, n)
	}
}

func TestServerWithoutDurabilityIsRefused(t *testing.T) {
	t.Parallel()
	address := thingsDatabase(t)
	other := connect(t, address)
	name := other.Config().Database
	if err := openPostgres(t, FromAddress(withLongTimeouts(address))).CheckDurable(t.Context()); err != nil {
		t.Errorf("with the defaults: %v", err)
	}
	mustExec(t, other, "ALTER DATABASE "+name+" SET synchronous_commit = off")
	err := openPostgres(t, FromAddress(withLongTimeouts(address))).CheckDurable(t.Context())
	if err == nil || !strings.Contains(err.Error(), "synchronous_commit off") || !strings.Contains(err.Error(), "--allow-unsafe-database") {
		t.Errorf("got %v", err)
	}
}
