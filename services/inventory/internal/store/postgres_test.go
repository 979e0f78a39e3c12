package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"roundtrip/internal/database"
	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
	"roundtrip/test/support/containers"
	"roundtrip/test/support/stores"
)

func TestMain(m *testing.M) { os.Exit(containers.Main(m)) }

// 8 sessions send batches for the same few levels, with their lines in any order. The
// store takes its locks in one order, so no deadlock occurs.
func TestBatchesInAnyOrderNeverDeadlock(t *testing.T) {
	t.Parallel()
	address := service.Postgres(t)
	b := postgresBackend(t, address)
	const sessions, batches, size = 8, 12, 5
	skus := []string{"a", "b", "c", "d", "e"}
	for _, sku := range skus {
		b.stocked(t, sku, 1000)
	}
	var all [sessions]stock.Store
	for i := range all {
		all[i] = service.Open(t, address)
	}
	sent := stores.AtOnce(sessions, func(session int) int {
		s := all[session]
		defer stores.Close(t, s)
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
			t.Errorf("%d of %d commands were answered", n, 2*batches*size)
		}
	}
	b.audit(t)
	// PostgreSQL counts the deadlocks of a session when it ends. The sessions above have
	// ended.
	var deadlocks int
	err := b.Store.(*Postgres).db.Read(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").Scan(&deadlocks)
	})
	if err != nil || deadlocks != 0 {
		t.Errorf("%d deadlocks, %v", deadlocks, err)
	}
}

func TestStoreWaitsForSchemaAndRefusesUnsafeServer(t *testing.T) {
	t.Parallel()
	open := func(address string, unsafe bool) (stock.Store, func(context.Context) error) {
		t.Helper()
		s, wait, err := Open(t.Context(), database.Options{
			Source: database.FromAddress(address), Connections: 2, AllowUnsafe: unsafe, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stores.Close(t, s) })
		return s, wait
	}
	empty := stores.Patient(containers.SharedPostgres(t).Database(t, "empty", func(string) error { return nil }))
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, wait := open(empty, true); !errors.Is(wait(short), context.DeadlineExceeded) {
		t.Error("the store does not wait for its schema")
	}
	address := service.Postgres(t)
	s, wait := open(address, false)
	if err := wait(t.Context()); err != nil {
		t.Errorf("on a safe server: %v", err)
	}
	backend{Store: s}.stocked(t, "a", 1)
	beside := postgresBackend(t, address)
	if err := beside.Exec(t.Context(), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$`); err != nil {
		t.Fatal(err)
	}
	if _, wait := open(address, false); wait(t.Context()) == nil {
		t.Error("an unsafe server is accepted")
	}
	if _, wait := open(address, true); wait(t.Context()) != nil {
		t.Error("an unsafe server is refused, although it is allowed")
	}
	audit, err := OpenReadOnly(database.FromAddress(address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stores.Close(t, audit) })
	backend{Store: audit}.wantLevel(t, "a", 1, 0)
}

// atBoth gives each of two replicas a command at the same time. It locks the levels
// until both commands wait for them.
func (b backend) atBoth(t *testing.T, address string, one, other stock.Command) []stock.Result {
	t.Helper()
	waiting, release := stores.BlockTables(t, address, "levels")
	results := make(chan []stock.Result)
	go func() {
		commands := []stock.Command{one, other}
		results <- stores.AtOnce(2, func(i int) stock.Result { return b.Replica(i).Do(t.Context(), commands[i:i+1])[0] })
	}()
	waiting(2)
	release()
	return <-results
}

func TestReplicasDecideOneAfterTheOther(t *testing.T) {
	t.Parallel()
	address := service.Postgres(t)
	b := postgresBackend(t, address)
	// Both want the last unit, so both lock its level.
	b.stocked(t, "a", 1)
	results := b.atBoth(t, address, hold("x", 1, line("a", 1)), hold("y", 1, line("a", 1)))
	codes := []problem.Code{problem.CodeOf(results[0].Err), problem.CodeOf(results[1].Err)}
	slices.Sort(codes)
	if !slices.Equal(codes, []problem.Code{"", problem.InsufficientStock}) {
		t.Errorf("the answers for the last unit are %q", codes)
	}
	b.wantLevel(t, "a", 1, 1)
	// Both change the same reservation, so both lock it.
	b.stocked(t, "b", 100)
	b.do(t, hold("other", 1, line("b", 50)))
	b.do(t, hold("r", 1, line("b", 10)))
	results = b.atBoth(t, address, committed("r", 2), release("r", 3))
	wantCode(t, "the release", results[1].Err, "")
	if code := problem.CodeOf(results[0].Err); code != "" && code != problem.StaleSeq {
		t.Errorf("the commit got %v", results[0].Err)
	}
	b.wantLevel(t, "b", 100, 50)
}

// No transaction may use a plan that reads a whole table. PostgreSQL may choose such a
// plan while the table is small, and keep it when the table grows.
func TestNoTransactionReadsAWholeTable(t *testing.T) {
	t.Parallel()
	address := service.Postgres(t)
	b := backend{Store: service.Open(t, address)}
	b.stocked(t, "A", 1000)
	for i := range 20 {
		id := fmt.Sprint("order-", i)
		b.do(t, hold(id, 1, line("A", 2)))
		b.do(t, committed(id, 2))
		b.reservation(t, id)
	}
	if _, _, err := b.Reservations(t.Context(), "", stock.Page{Limit: 10}); err != nil {
		t.Error(err)
	}
	if _, err := b.Levels(t.Context(), []string{"A"}); err != nil {
		t.Error(err)
	}
	stores.Close(t, b.Store) // a connection reports what it read at its end at the latest
	whole := containers.WholeReads(t, address, "reservations")
	for _, table := range []string{"levels", "reservations", "reservation_lines", "outcomes", "ledger", "adjustments"} {
		if whole[table] > 0 {
			t.Errorf("the whole of %s was read %d times", table, whole[table])
		}
	}
}
