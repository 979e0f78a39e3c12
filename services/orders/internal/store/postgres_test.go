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
	"roundtrip/services/orders/internal/order"
	"roundtrip/test/support/containers"
	"roundtrip/test/support/stores"
)

func TestMain(m *testing.M) { os.Exit(containers.Main(m)) }

// An operation whose commit has an unknown result is decided again, on another
// connection. If the first commit recorded it, the second run joins it.
func TestOperationWithUnknownCommitIsJoined(t *testing.T) {
	t.Parallel()
	address := service.Postgres(t)
	direct := postgresBackend(t, address)
	var fates atomic.Pointer[[]containers.Fate] // the fates of the next commits
	s := service.Open(t, containers.ProxyCommits(t, address, func() containers.Fate {
		next := fates.Load()
		if next == nil || len(*next) == 0 {
			return containers.Pass
		}
		rest := (*next)[1:]
		fates.Store(&rest)
		return (*next)[0]
	}))
	// A recorded operation is not done a second time. It is also not refused because it
	// changed the version itself.
	version := direct.placed(t, "amended").Version
	fates.Store(&[]containers.Fate{containers.Unanswered})
	matched := amend("amended", 2)
	matched.IfMatch = order.Precondition{Given: true, Versions: []int64{version}}
	if r := s.Do(t.Context(), []order.Command{matched})[0]; r.Err != nil || r.Seq != 2 || r.Order.Version != version+1 {
		t.Errorf("amended: %+v", r)
	}
}

func TestStoreWaitsForSchemaAndRefusesUnsafeServer(t *testing.T) {
	t.Parallel()
	open := func(address string, unsafe bool) (order.Store, func(context.Context) error) {
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
	if o, err := audit.Order(t.Context(), "a"); err != nil || o.State != order.Placed {
		t.Errorf("an audit reads %+v, %v", o, err)
	}
}

func TestPostgresListsUseIndexes(t *testing.T) {
	t.Parallel()
	s := service.Open(t, service.Postgres(t)).(*Postgres)
	for filter, index := range map[string]string{
		"": "orders_newest", " AND o.state = 'placed'": "orders_by_state", " AND o.customer = 'x'": "orders_by_customer",
	} {
		var plan []string
		err := s.db.Read(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
			// PostgreSQL prefers other plans for an empty table, so they are disabled.
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

// Two replicas learn different outcomes at the same time. Both wait for the lock of the
// order when it becomes free.
func TestReplicasDecideOneAfterTheOther(t *testing.T) {
	t.Parallel()
	address := service.Postgres(t)
	b := postgresBackend(t, address)
	b.do(t, place("a"))
	waiting, release := stores.BlockTables(t, address, "orders")
	results := make(chan []order.Result)
	go func() {
		outcomes := []order.Command{settle("a", 1, order.PlaceOperation, order.ReservationHeld), settle("a", 1, order.PlaceOperation, order.ReservationNone)}
		results <- stores.AtOnce(2, func(i int) order.Result { return b.Replica(i).Do(t.Context(), outcomes[i:i+1])[0] })
	}()
	waiting(2)
	release()
	stored := <-results
	o := b.order(t, "a")
	for _, r := range stored {
		if r.Err != nil || r.Order.State != o.State || r.Order.Version != 2 || o.Version != 2 {
			t.Errorf("one replica got %+v; the order is %+v", r, o)
		}
	}
}

// No transaction may use a plan that reads a whole table. PostgreSQL may choose such a
// plan while the table is small, and keep it when the table grows.
func TestNoTransactionReadsAWholeTable(t *testing.T) {
	t.Parallel()
	address := service.Postgres(t)
	b := backend{Store: service.Open(t, address)}
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
	stores.Close(t, b.Store) // a connection reports what it read at its end at the latest
	whole := containers.WholeReads(t, address, "orders")
	for _, table := range []string{"orders", "intents"} {
		if whole[table] > 0 {
			t.Errorf("%s was read whole %d times", table, whole[table])
		}
	}
}
