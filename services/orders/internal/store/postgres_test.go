package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"roundtrip/internal/database"
	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
	"roundtrip/test/support/containers"
)

func TestMain(m *testing.M) { os.Exit(containers.Main(m)) }

// patient is an address with wide bounds: a machine may have much else to do.
func patient(address string) string {
	return address + "&statement_timeout=60000&lock_timeout=60000&idle_in_transaction_session_timeout=60000"
}

// postgresAddress is that of an empty database with orders' schema.
func postgresAddress(t *testing.T) string {
	t.Helper()
	return patient(containers.SharedPostgres(t).Database(t, "orders", func(address string) error {
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
	exec := func(t *testing.T, statement string) {
		t.Helper()
		if err := s.db.Write(t.Context(), func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, statement); return err }); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	return backend{
		Store:    s,
		replicas: []order.Store{s, openPostgres(t, address)},
		poison: func(t *testing.T, id string) {
			t.Helper()
			exec(t, `CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'poison'; END $$;
				CREATE TRIGGER poison BEFORE INSERT ON orders FOR EACH ROW WHEN (NEW.id = '`+id+`') EXECUTE FUNCTION poison()`)
		},
		fill: func(t *testing.T) (free func()) {
			t.Helper()
			exec(t, `CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END $$;
				CREATE TRIGGER full_disk BEFORE INSERT ON intents EXECUTE FUNCTION full_disk()`)
			return func() { exec(t, "DROP TRIGGER full_disk ON intents") }
		},
		block: func(t *testing.T) (release func()) {
			t.Helper()
			connection, err := pgx.Connect(t.Context(), address)
			if err == nil {
				// Against whoever locks a row or writes one, not whoever reads.
				_, err = connection.Exec(t.Context(), "BEGIN; LOCK orders IN EXCLUSIVE MODE")
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
		reopen: func(t *testing.T) order.Store {
			t.Helper()
			closeStore(t, s)
			return openPostgres(t, address)
		},
	}
}

func dumpPostgres(t *testing.T, s *Postgres) string {
	t.Helper()
	var out strings.Builder
	err := s.db.Read(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
		for _, table := range []string{"orders", "intents"} {
			rows, err := tx.Query(ctx, fmt.Sprintf("SELECT '%[1]s' || to_jsonb(%[1]s)::text FROM %[1]s ORDER BY 1", table))
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

// What nobody knows to be committed is decided again, on another connection:
// recorded, it is joined; not recorded, it is recorded then.
func TestACommitWithoutAnAnswerIsDecidedAgain(t *testing.T) {
	t.Parallel()
	address := postgresAddress(t)
	direct := postgresBackend(t, address)
	var fates atomic.Pointer[[]containers.Fate] // of the next commits
	s := openPostgres(t, containers.ProxyCommits(t, address, func() containers.Fate {
		next := fates.Load()
		if next == nil || len(*next) == 0 {
			return containers.Pass
		}
		rest := (*next)[1:]
		fates.Store(&rest)
		return (*next)[0]
	}))
	for name, fate := range map[string]containers.Fate{"unanswered": containers.Unanswered, "lost": containers.Lost} {
		for n := 1; n <= 3; n += 2 { // alone, and in a batch
			var commands []order.Command
			for i := range n {
				commands = append(commands, place(fmt.Sprintf("%s-%d-%d", name, n, i)))
			}
			fates.Store(&[]containers.Fate{fate})
			for i, r := range s.Do(t.Context(), commands) {
				if r.Err != nil || r.Seq != 1 || r.Order.Version != 1 {
					t.Errorf("%s, %d of %d: %+v", name, i, n, r)
				}
				if o := direct.order(t, commands[i].OrderID()); o.Version != 1 || o.Seq != 1 || o.Intent == nil {
					t.Errorf("%s, %d of %d is stored as %+v", name, i, n, o)
				}
			}
			if len(*fates.Load()) != 0 {
				t.Errorf("%s: nothing was committed", name)
			}
		}
	}

	// An operation that was recorded is not done a second time, nor refused by the
	// version that it made itself.
	version := direct.placed(t, "amended").Version
	fates.Store(&[]containers.Fate{containers.Unanswered})
	matched := amend("amended", 2)
	matched.IfMatch = order.Precondition{Given: true, Versions: []int64{version}}
	if r := s.Do(t.Context(), []order.Command{matched})[0]; r.Err != nil || r.Seq != 2 || r.Order.Version != version+1 {
		t.Errorf("amended: %+v", r)
	}

	// Where it can't be read again either, the caller is told what to do.
	fates.Store(&[]containers.Fate{containers.Unanswered, containers.Lost})
	r := s.Do(t.Context(), []order.Command{place("twice")})[0]
	if p := problem.From(r.Err); p.Code != problem.Unavailable || !strings.Contains(p.Detail, "may be recorded; repeat it with the same id") {
		t.Errorf("unknown twice: %+v", r)
	}
	if r := s.Do(t.Context(), []order.Command{place("twice")})[0]; r.Err != nil || r.Seq != 1 || r.Created {
		t.Errorf("repeated: %+v", r)
	}
}

func TestAStoreWaitsForItsSchemaAndForAServerThatForgetsNothing(t *testing.T) {
	t.Parallel()
	open := func(address string, unsafe bool) (order.Store, func(context.Context) error) {
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
	backend{Store: s}.placed(t, "a")
	beside, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer beside.Close(context.WithoutCancel(t.Context()))
	if _, err := beside.Exec(t.Context(), "ALTER DATABASE "+beside.Config().Database+" SET synchronous_commit = off"); err != nil {
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
	if o, err := audit.Order(t.Context(), "a"); err != nil || o.State != order.Placed {
		t.Errorf("an audit reads %+v, %v", o, err)
	}
}

func TestEveryPostgresListHasItsIndex(t *testing.T) {
	t.Parallel()
	s := openPostgres(t, postgresAddress(t))
	for filter, index := range map[string]string{
		"": "orders_newest", " AND o.state = 'placed'": "orders_by_state", " AND o.customer = 'x'": "orders_by_customer",
	} {
		var plan []string
		err := s.db.Read(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
			// The table is empty: what may be done must be what is cheapest.
			if _, err := tx.Exec(ctx, "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off"); err != nil {
				return err
			}
			rows, err := tx.Query(ctx, `EXPLAIN SELECT * FROM orders o LEFT JOIN intents i ON i.order_id = o.id AND i.settled_at IS NULL
				WHERE (o.created_at, o.id) < (now(), 'x')`+filter+` ORDER BY o.created_at DESC, o.id DESC LIMIT 50`)
			if err != nil {
				return err
			}
			plan, err = pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		})
		text := strings.Join(plan, "; ")
		if err != nil || !strings.Contains(text, "Index Scan Backward using "+index) || strings.Contains(text, "Sort") {
			t.Errorf("%q: %s (%v), want %s and no sorting", filter, text, err, index)
		}
	}
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

// Two replicas learn different outcomes at the same moment: both are on their way
// when the order can be had.
func TestReplicasDecideOneAfterTheOther(t *testing.T) {
	t.Parallel()
	address := postgresAddress(t)
	b := postgresBackend(t, address)
	b.do(t, place("a"))
	waiting, release := blockTable(t, address, "orders")
	results := make(chan []order.Result)
	go func() {
		outcomes := []order.Command{settle("a", 1, order.PlaceOperation, order.ReservationHeld), settle("a", 1, order.PlaceOperation, order.ReservationNone)}
		results <- atOnce(2, func(i int) order.Result { return b.replica(i).Do(t.Context(), outcomes[i:i+1])[0] })
	}()
	waiting(2)
	release()
	stored := <-results
	o := b.order(t, "a")
	for _, r := range stored {
		if r.Err != nil || r.Order.State != o.State || r.Order.Version != 2 || o.Version != 2 {
			t.Errorf("one was told %+v; it is %+v", r, o)
		}
	}
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
	for i := range 20 {
		id := fmt.Sprint("order-", i)
		b.placed(t, id)
		b.do(t, amend(id, 2))
		b.do(t, settle(id, 2, order.AmendOperation, order.ReservationHeld))
	}
	if _, err := b.LeaseUnsettled(t.Context(), time.Now(), time.Minute, 10); err != nil {
		t.Error(err)
	}
	if _, err := b.LeaseExpiredHolds(t.Context(), time.Now(), time.Minute, 10); err != nil {
		t.Error(err)
	}
	if _, _, err := b.Orders(t.Context(), "", "", order.Page{Limit: 10}); err != nil {
		t.Error(err)
	}
	closeStore(t, b.Store) // a connection says what it read when it ends at the latest
	whole := containers.WholeReads(t, address, "orders")
	for _, table := range []string{"orders", "intents"} {
		if whole[table] > 0 {
			t.Errorf("%s was read whole %d times", table, whole[table])
		}
	}
}
