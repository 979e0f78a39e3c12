package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"roundtrip/internal/database"
	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
	"roundtrip/test/support/containers"
)

func TestMain(m *testing.M) { os.Exit(containers.Main(m)) }

// patient is an address with wide bounds: a machine may have much else to do.
func patient(address string) string {
	return address + "&statement_timeout=60000&lock_timeout=60000&idle_in_transaction_session_timeout=60000"
}

// postgresAddress is that of an empty database with inventory's schema.
func postgresAddress(t *testing.T) string {
	t.Helper()
	return patient(containers.SharedPostgres(t).Database(t, "inventory", func(address string) error {
		db, err := database.OpenPostgres(database.FromAddress(patient(address)), 2)
		if err != nil {
			return err
		}
		defer db.Close()
		_, err = PostgresMigrations(slog.New(slog.DiscardHandler)).Up(context.Background(), db)
		return err
	}))
}

func postgresDatabase(t *testing.T) func(*testing.T) backend {
	t.Helper()
	address := postgresAddress(t)
	return func(t *testing.T) backend { t.Helper(); return postgresBackend(t, address) }
}

func openPostgres(t *testing.T, address string) *Postgres {
	t.Helper()
	db, err := database.OpenPostgres(database.FromAddress(address), 4)
	if err != nil {
		t.Fatal(err)
	}
	s := NewPostgres(db, Options{})
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func postgresBackend(t *testing.T, address string) backend {
	t.Helper()
	s := openPostgres(t, address)
	exec := func(ctx context.Context, statement string) error {
		return s.db.Write(ctx, func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, statement); return err })
	}
	must := func(t *testing.T, statement string) {
		t.Helper()
		if err := exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	return backend{
		Store:    s,
		replicas: []stock.Store{s, openPostgres(t, address)},
		exec:     exec,
		poison: func(t *testing.T, id string) {
			t.Helper()
			must(t, `CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'poison'; END $$;
				CREATE TRIGGER poison BEFORE INSERT ON outcomes FOR EACH ROW WHEN (NEW.reservation_id = '`+id+`') EXECUTE FUNCTION poison()`)
		},
		fill: func(t *testing.T) (free func()) {
			t.Helper()
			must(t, `CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END $$;
				CREATE TRIGGER full_disk BEFORE INSERT ON ledger EXECUTE FUNCTION full_disk()`)
			return func() { must(t, "DROP TRIGGER full_disk ON ledger") }
		},
		block: func(t *testing.T) (release func()) {
			t.Helper()
			connection, err := pgx.Connect(t.Context(), address)
			if err == nil {
				// Against whoever locks a row or writes one, not whoever reads.
				_, err = connection.Exec(t.Context(), "BEGIN; LOCK levels, reservations IN EXCLUSIVE MODE")
			}
			if err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := connection.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
		},
		dump: func(t *testing.T) string { t.Helper(); return dumpPostgres(t, s) },
		reopen: func(t *testing.T) stock.Store {
			t.Helper()
			closeStore(t, s)
			return openPostgres(t, address)
		},
	}
}

// dumpPostgres leaves out what was locked to be made and was not.
func dumpPostgres(t *testing.T, s *Postgres) string {
	t.Helper()
	var out strings.Builder
	err := s.db.Read(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
		for _, table := range tables {
			statement := fmt.Sprintf("SELECT '%[1]s' || to_jsonb(%[1]s)::text FROM %[1]s", table)
			switch table {
			case "levels":
				statement += " WHERE version > 0"
			case "reservations":
				statement += " WHERE seq > 0"
			}
			rows, err := tx.Query(ctx, statement+" ORDER BY 1")
			if err != nil {
				return err
			}
			var row string
			if _, err := pgx.ForEachRow(rows, []any{&row}, func() error { out.WriteString(row + "\n"); return nil }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// 8 sessions send batches over the same few levels, their lines in any order.
// Locks are taken in one order, so nobody ever waits in a circle.
func TestBatchesInAnyOrderNeverDeadlock(t *testing.T) {
	t.Parallel()
	address := postgresAddress(t)
	b := postgresBackend(t, address)
	const sessions, batches, size = 8, 12, 5
	skus := []string{"a", "b", "c", "d", "e"}
	for _, sku := range skus {
		b.stocked(t, sku, 1000)
	}
	sent := atOnce(sessions, func(session int) int {
		db, err := database.OpenPostgres(database.FromAddress(address), 2)
		if err != nil {
			t.Error(err)
			return 0
		}
		s := NewPostgres(db, Options{})
		defer closeStore(t, s)
		random := rand.New(rand.NewPCG(1, uint64(session)))
		sent := 0
		for n := range batches {
			var commands []stock.Command
			for i := range size {
				var lines []stock.Line
				for _, at := range random.Perm(len(skus))[:3] {
					lines = append(lines, line(skus[at], 1+random.Int64N(3)))
				}
				commands = append(commands, hold(fmt.Sprintf("r%d-%d", session, i), int64(n+1), lines...), stock.ImportRow{
					ImportID: fmt.Sprintf("i%d", session), Row: int64(n*size + i), SKU: fmt.Sprint("new", random.IntN(30)), Location: "main", OnHand: 1,
				})
			}
			for _, r := range s.Do(t.Context(), commands) {
				if code := problem.CodeOf(r.Err); code != "" && code != problem.InsufficientStock {
					t.Errorf("session %d: %v", session, r.Err)
				}
				sent++
			}
		}
		return sent
	})
	for _, n := range sent {
		if n != 2*batches*size {
			t.Errorf("%d of %d were answered", n, 2*batches*size)
		}
	}
	b.audit(t)
	// A session reports what it met when it ends, as those above did.
	var deadlocks int
	err := b.Store.(*Postgres).db.Read(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").Scan(&deadlocks)
	})
	if err != nil || deadlocks != 0 {
		t.Errorf("%d deadlocks, %v", deadlocks, err)
	}
}

func TestACommitWithoutAnAnswerIsDoneOnce(t *testing.T) {
	t.Parallel()
	address := postgresAddress(t)
	direct := postgresBackend(t, address)
	direct.stocked(t, "a", 100)
	var fates atomic.Pointer[func() containers.Fate]
	var deciding sync.WaitGroup // a fate may take longer than the store takes to notice
	s := openPostgres(t, containers.ProxyCommits(t, address, func() containers.Fate {
		if fate := fates.Swap(nil); fate != nil { // the first commit only
			defer deciding.Done()
			return (*fate)()
		}
		return containers.Pass
	}))
	reserved := int64(0)
	for name, fate := range map[string]func() containers.Fate{
		"unanswered": func() containers.Fate { return containers.Unanswered },
		"lost":       func() containers.Fate { return containers.Lost },
		"ended": func() containers.Fate {
			if err := direct.exec(t.Context(), `SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
				WHERE datname = current_database() AND state = 'idle in transaction'`); err != nil {
				t.Error(err)
			}
			return containers.Pass
		},
	} {
		for n := 1; n <= 3; n += 2 { // alone, and in a batch
			var commands []stock.Command
			for i := range n {
				commands = append(commands, hold(fmt.Sprintf("%s-%d-%d", name, n, i), 1, line("a", 1)))
				reserved++
			}
			deciding.Add(1)
			fates.Store(&fate)
			for i, r := range s.Do(t.Context(), commands) {
				// Nobody is told what nobody knows. A batch that is known to have
				// failed is decided again, each alone.
				if r.Err == nil && name != "ended" || r.Err != nil && problem.CodeOf(r.Err) != problem.Unavailable {
					t.Errorf("%s, %d of %d: %+v", name, i, n, r)
				}
			}
			if fates.Load() != nil {
				t.Fatalf("%s: nothing was committed", name)
			}
			deciding.Wait()
			for i, c := range commands {
				r := s.Do(t.Context(), []stock.Command{c})[0]
				for problem.CodeOf(r.Err) == problem.Unavailable { // on a connection that is broken too
					r = s.Do(t.Context(), []stock.Command{c})[0]
				}
				if r.Err != nil || r.Reservation.State != stock.Held {
					t.Errorf("%s, %d of %d again: %+v", name, i, n, r)
				}
				if entries, _, err := direct.Ledger(t.Context(), "", r.Reservation.ID, stock.Page{Limit: 5}); err != nil || len(entries) != 1 {
					t.Errorf("%s, %d of %d: the ledger has %+v, %v", name, i, n, entries, err)
				}
			}
		}
	}
	direct.wantLevel(t, "a", 100, reserved)
}

func TestAStoreWaitsForItsSchemaAndForAServerThatForgetsNothing(t *testing.T) {
	t.Parallel()
	open := func(address string, unsafe bool) (stock.Store, func(context.Context) error) {
		t.Helper()
		s, wait, err := Open(t.Context(), database.FromAddress(address), Options{Connections: 2, AllowUnsafe: unsafe, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeStore(t, s) })
		return s, wait
	}
	empty := patient(containers.SharedPostgres(t).Database(t, "empty", func(string) error { return nil }))
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, wait := open(empty, true); !errors.Is(wait(short), context.DeadlineExceeded) {
		t.Error("it does not wait for its schema")
	}
	address := postgresAddress(t)
	s, wait := open(address, false)
	if err := wait(t.Context()); err != nil {
		t.Errorf("on a server that is durable: %v", err)
	}
	backend{Store: s}.stocked(t, "a", 1)
	beside := postgresBackend(t, address)
	if err := beside.exec(t.Context(), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$`); err != nil {
		t.Fatal(err)
	}
	if _, wait := open(address, false); wait(t.Context()) == nil {
		t.Error("a server that may forget is used")
	}
	if _, wait := open(address, true); wait(t.Context()) != nil {
		t.Error("a server that may forget is refused, although it was allowed")
	}
	audit, err := OpenReadOnly(database.FromAddress(address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, audit) })
	backend{Store: audit}.wantLevel(t, "a", 1, 0)
}

// blockTable keeps everybody from locking or writing a row of a table, not from
// reading, until release is called; waiting returns when n sessions wait for locks.
func blockTable(t *testing.T, address, table string) (waiting func(n int), release func()) {
	t.Helper()
	var connections [2]*pgx.Conn // one is in a transaction, which sees no session that came later
	for i := range connections {
		connection, err := pgx.Connect(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { connection.Close(context.WithoutCancel(t.Context())) })
		connections[i] = connection
	}
	if _, err := connections[0].Exec(t.Context(), "BEGIN; LOCK "+table+" IN EXCLUSIVE MODE"); err != nil {
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

// atBoth gives each replica a command at the same moment: both are on their way
// when the levels can be had.
func (b backend) atBoth(t *testing.T, address string, one, other stock.Command) []stock.Result {
	t.Helper()
	waiting, release := blockTable(t, address, "levels")
	results := make(chan []stock.Result)
	go func() {
		commands := []stock.Command{one, other}
		results <- atOnce(2, func(i int) stock.Result { return b.replica(i).Do(t.Context(), commands[i:i+1])[0] })
	}()
	waiting(2)
	release()
	return <-results
}

func TestReplicasDecideOneAfterTheOther(t *testing.T) {
	t.Parallel()
	address := postgresAddress(t)
	b := postgresBackend(t, address)
	// Both want the last unit: the level is what they meet at.
	b.stocked(t, "a", 1)
	results := b.atBoth(t, address, hold("x", 1, line("a", 1)), hold("y", 1, line("a", 1)))
	codes := []problem.Code{problem.CodeOf(results[0].Err), problem.CodeOf(results[1].Err)}
	slices.Sort(codes)
	if !slices.Equal(codes, []problem.Code{"", problem.InsufficientStock}) {
		t.Errorf("for the last unit they got %q", codes)
	}
	b.wantLevel(t, "a", 1, 1)
	// Both change one reservation: that is where they meet.
	b.stocked(t, "b", 100)
	b.do(t, hold("other", 1, line("b", 50)))
	b.do(t, hold("r", 1, line("b", 10)))
	results = b.atBoth(t, address, commit("r", 2), release("r", 3))
	wantCode(t, "the release", results[1].Err, "")
	if code := problem.CodeOf(results[0].Err); code != "" && code != problem.StaleSeq {
		t.Errorf("the commit got %v", results[0].Err)
	}
	b.wantLevel(t, "b", 100, 50)
}

// A plan that reads a whole table is cheap as long as the table is small, and
// would be kept: no transaction may have one.
func TestNoTransactionReadsAWholeTable(t *testing.T) {
	t.Parallel()
	address := postgresAddress(t)
	worker, err := database.OpenPostgres(database.FromAddress(address), 4)
	if err != nil {
		t.Fatal(err)
	}
	b := backend{Store: NewPostgres(worker, Options{})}
	b.stocked(t, "A", 1000)
	for i := range 20 {
		id := fmt.Sprint("order-", i)
		b.do(t, hold(id, 1, line("A", 2)))
		b.do(t, commit(id, 2))
		b.reservation(t, id)
	}
	if _, _, err := b.Reservations(t.Context(), "", stock.Page{Limit: 10}); err != nil {
		t.Error(err)
	}
	if _, err := b.Levels(t.Context(), []string{"A"}); err != nil {
		t.Error(err)
	}
	closeStore(t, b.Store) // a connection says what it read when it ends at the latest
	whole := containers.WholeReads(t, address, "reservations")
	for _, table := range []string{"levels", "reservations", "reservation_lines", "outcomes", "ledger", "adjustments"} {
		if whole[table] > 0 {
			t.Errorf("%s was read whole %d times", table, whole[table])
		}
	}
}
