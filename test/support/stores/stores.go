// Package stores has what the tests of both services' stores share: an empty
// database of each kind, operations on it that bypass the store, and conformance
// tests of how both services use package commit.
package stores

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/jackc/pgx/v5"

	"roundtrip/internal/database"
	"roundtrip/test/support/containers"
)

// Service is a service whose store is tested.
type Service[S io.Closer] struct {
	// Name is the prefix of its databases' names.
	Name   string
	Schema database.Schema
	// New makes a store on an open database.
	New func(database.Database, database.Options) S
	// Tables are all tables that the schema has.
	Tables []string
	// Placeholders has, for a table, the SQL condition of rows that exist only to be
	// locked. They are not data.
	Placeholders map[string]string
}

// Backend is an empty store on one database.
type Backend[S io.Closer] struct {
	Store S
	// Replicas are the stores on this database, Store first. There are two if the
	// database can have more than one.
	Replicas []S
	Address  string

	service Service[S]
	db      database.Database
}

// Conform runs a test on each kind of database.
func (s Service[S]) Conform(t *testing.T, test func(*testing.T, *Backend[S])) {
	t.Parallel()
	for kind, address := range s.addresses() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, s.Backend(t, address(t)))
		})
	}
}

// ConformInVirtualTime is Conform in virtual time: waits take no real time.
func (s Service[S]) ConformInVirtualTime(t *testing.T, test func(*testing.T, *Backend[S])) {
	t.Parallel()
	for kind, address := range s.addresses() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			address := address(t)
			synctest.Test(t, func(t *testing.T) { test(t, s.Backend(t, address)) })
		})
	}
}

func (s Service[S]) addresses() map[string]func(*testing.T) string {
	return map[string]func(*testing.T) string{"sqlite": s.SQLite, "postgres": s.Postgres}
}

// SQLite is the address of a database that does not exist yet.
func (s Service[S]) SQLite(t *testing.T) string {
	t.Helper()
	return "sqlite:" + filepath.Join(t.TempDir(), s.Name+".db")
}

// Postgres is the address of an empty database with the service's schema.
func (s Service[S]) Postgres(t *testing.T) string {
	t.Helper()
	return Patient(containers.SharedPostgres(t).Database(t, s.Name, func(address string) error {
		db, err := database.OpenPostgres(database.FromAddress(Patient(address)), 2)
		if err != nil {
			return err
		}
		defer db.Close()
		_, err = s.Schema.Migrations(slog.New(slog.DiscardHandler)).Up(context.Background(), db)
		return err
	}))
}

// Patient adds long timeouts to an address, for a busy machine.
func Patient(address string) string {
	return address + "&statement_timeout=60000&lock_timeout=60000&idle_in_transaction_session_timeout=60000"
}

// Backend opens the store at an address, and a second one if the database allows
// it.
func (s Service[S]) Backend(t *testing.T, address string) *Backend[S] {
	t.Helper()
	store, db := s.open(t, address)
	b := &Backend[S]{Store: store, Replicas: []S{store}, Address: address, service: s, db: db}
	if db.Postgres != nil { // only one process can own an SQLite file
		b.Replicas = append(b.Replicas, s.Open(t, address))
	}
	return b
}

// Open opens the store at an address.
func (s Service[S]) Open(t *testing.T, address string) S {
	t.Helper()
	store, _ := s.open(t, address)
	return store
}

func (s Service[S]) open(t *testing.T, address string) (S, database.Database) {
	t.Helper()
	o := database.Options{Source: database.FromAddress(address), Connections: 4, Log: slog.New(slog.DiscardHandler)}
	db, _, err := database.Open(t.Context(), s.Schema, o)
	if err != nil {
		t.Fatal(err)
	}
	store := s.New(db, o)
	t.Cleanup(func() { Close(t, store) })
	return store, db
}

// Close closes a store.
func Close(t testing.TB, s io.Closer) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Replica returns store i, modulo the number of stores.
func (b *Backend[S]) Replica(i int) S { return b.Replicas[i%len(b.Replicas)] }

// Reopen closes the store and opens it again on the same data.
func (b *Backend[S]) Reopen(t *testing.T) S {
	t.Helper()
	Close(t, b.Store)
	return b.service.Open(t, b.Address)
}

// Exec runs a statement that works on both kinds of database.
func (b *Backend[S]) Exec(ctx context.Context, statement string) error {
	if b.db.SQLite != nil {
		return b.db.SQLite.Write(ctx, func(tx *sql.Tx) error { _, err := tx.Exec(statement); return err })
	}
	return b.db.Postgres.Write(ctx, func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, statement); return err })
}

func (b *Backend[S]) mustExec(t *testing.T, statement string) {
	t.Helper()
	if err := b.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// Poison makes the database refuse to insert a row with a value.
func (b *Backend[S]) Poison(t *testing.T, table, column, value string) {
	t.Helper()
	if b.db.SQLite != nil {
		b.mustExec(t, `CREATE TRIGGER poison BEFORE INSERT ON `+table+` WHEN NEW.`+column+` = '`+value+`'
			BEGIN SELECT RAISE(ABORT, 'poison'); END`)
		return
	}
	b.mustExec(t, `CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'poison'; END $$;
		CREATE TRIGGER poison BEFORE INSERT ON `+table+` FOR EACH ROW WHEN (NEW.`+column+` = '`+value+`') EXECUTE FUNCTION poison()`)
}

// Fill makes the database refuse to grow, as on a full disk, until free is called.
// On PostgreSQL it makes only the given table refuse new rows.
func (b *Backend[S]) Fill(t *testing.T, table string) (free func()) {
	t.Helper()
	if b.db.SQLite != nil {
		b.mustExec(t, "PRAGMA max_page_count = 1") // SQLite raises the limit to the current size
		return func() { b.mustExec(t, "PRAGMA max_page_count = 1000000") }
	}
	b.mustExec(t, `CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END $$;
		CREATE TRIGGER full_disk BEFORE INSERT ON `+table+` EXECUTE FUNCTION full_disk()`)
	return func() { b.mustExec(t, "DROP TRIGGER full_disk ON "+table) }
}

// Block makes every write wait until release is called. Reads do not wait. On
// PostgreSQL it blocks only sessions that lock or write a row of these tables.
func (b *Backend[S]) Block(t *testing.T, tables ...string) (release func()) {
	t.Helper()
	if b.db.SQLite != nil {
		blocking, released, done := make(chan struct{}), make(chan struct{}), make(chan error)
		go func() {
			done <- b.db.SQLite.Write(t.Context(), func(*sql.Tx) error { close(blocking); <-released; return nil })
		}()
		<-blocking
		return func() {
			close(released)
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	_, release = BlockTables(t, b.Address, tables...)
	return release
}

// BlockTables blocks every session that locks or writes a row of the tables, until
// release is called. It is for PostgreSQL. waiting returns when n sessions wait for
// locks.
func BlockTables(t *testing.T, address string, tables ...string) (waiting func(n int), release func()) {
	t.Helper()
	// The first connection holds the locks. Its transaction does not see later
	// sessions, so the second connection counts them.
	var connections [2]*pgx.Conn
	for i := range connections {
		connection, err := pgx.Connect(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { connection.Close(context.WithoutCancel(t.Context())) })
		connections[i] = connection
	}
	if _, err := connections[0].Exec(t.Context(), "BEGIN; LOCK "+strings.Join(tables, ", ")+" IN EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	waiting = func(n int) {
		t.Helper()
		for found := 0; found < n; {
			err := connections[1].QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
				WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&found)
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return waiting, func() {
		t.Helper()
		if _, err := connections[0].Exec(t.Context(), "COMMIT"); err != nil {
			t.Error(err)
		}
	}
}

// Dump returns every row of every table, as text.
func (b *Backend[S]) Dump(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, table := range b.service.Tables {
		condition := "true"
		if placeholders := b.service.Placeholders[table]; placeholders != "" {
			condition = "NOT (" + placeholders + ")"
		}
		var err error
		if b.db.SQLite != nil {
			err = b.db.SQLite.Read(t.Context(), func(tx *sql.Tx) error { return dumpSQLite(tx, &out, table, condition) })
		} else {
			err = b.db.Postgres.Read(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
				rows, err := tx.Query(ctx, fmt.Sprintf("SELECT '%[1]s' || to_jsonb(%[1]s)::text FROM %[1]s WHERE %[2]s ORDER BY 1", table, condition))
				if err != nil {
					return err
				}
				var row string
				_, err = pgx.ForEachRow(rows, []any{&row}, func() error { out.WriteString(row + "\n"); return nil })
				return err
			})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

func dumpSQLite(tx *sql.Tx, out io.Writer, table, condition string) error {
	return database.Each(tx, func(rows *sql.Rows) error {
		columns, err := rows.Columns()
		if err != nil {
			return err
		}
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			return err
		}
		for i, v := range values {
			fmt.Fprintf(out, "%s.%s=%v ", table, columns[i], *v.(*any))
		}
		fmt.Fprintln(out)
		return nil
	}, "SELECT * FROM "+table+" WHERE "+condition)
}

// AtOnce calls f in n goroutines at the same time and returns the results.
func AtOnce[T any](n int, f func(i int) T) []T {
	out := make([]T, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { out[i] = f(i) })
	}
	all.Wait()
	return out
}
