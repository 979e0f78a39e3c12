package store

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"roundtrip/internal/batch"
	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

// memory is a session on a map. What a transaction writes is there at once: its
// transact decides whether that counts.
type memory map[string]order.Order

func (m memory) orders(ids []string) (found []order.Order, err error) {
	for _, id := range ids {
		if o, ok := m[id]; ok {
			found = append(found, o)
		}
	}
	return found, nil
}

func (m memory) write(_ time.Time, c order.Changes) error {
	for _, o := range c.Orders {
		m[o.ID] = o
	}
	return nil
}

func TestACommitWhoseResultIsUnknownSaysSo(t *testing.T) {
	t.Parallel()
	lost := problem.Wrap(errors.New("the connection broke"), problem.Unavailable, "The database can't be used.")
	m := memory{}
	results := do(t.Context(), newBatcher(batch.Options{Queue: 8, InFlight: 1}, func(_ context.Context, f func(session) error) error {
		return errors.Join(f(m), lost)
	}), []order.Command{place("a")})
	p := problem.From(results[0].Err)
	if p.Code != problem.Unavailable || !strings.Contains(p.Detail, "may be recorded; repeat it with the same id") || !errors.Is(p, lost) {
		t.Errorf("got %v", p)
	}
	if results[0].Order.ID != "" || results[0].Created {
		t.Errorf("what was decided got out: %+v", results[0])
	}
}

func TestWhatWasDecidedBesideAFailureIsDecidedAgain(t *testing.T) {
	t.Parallel()
	m := memory{}
	var batches []int
	results := do(t.Context(), newBatcher(batch.Options{Queue: 8, InFlight: 1}, func(_ context.Context, f func(session) error) error {
		scratch := memory{}
		if err := f(scratch); err != nil {
			return err
		}
		batches = append(batches, len(scratch))
		if _, ok := scratch["poison"]; ok {
			return errors.New("it can't be written")
		}
		for id, o := range scratch {
			m[id] = o
		}
		return nil
	}), []order.Command{place("a"), place("poison"), place("b")})
	if !slices.Equal(batches, []int{3, 1, 1, 1}) {
		t.Errorf("the transactions wrote %v orders", batches)
	}
	if results[0].Err != nil || results[1].Err == nil || results[2].Err != nil || len(m) != 2 {
		t.Errorf("got %+v; stored are %d", results, len(m))
	}
}

func TestAnAuditReadsBesideTheService(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "orders.db")
	s, err := OpenSQLite(t.Context(), path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	b := backend{Store: s}
	b.placed(t, "a")
	beside, err := OpenSQLiteReadOnly(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, beside) })
	if o, err := beside.Order(t.Context(), "a"); err != nil || o.State != order.Placed {
		t.Errorf("it reads %+v, %v", o, err)
	}
	wantCode(t, "a write", beside.Do(t.Context(), []order.Command{place("b")})[0].Err, problem.Unavailable)
	b.placed(t, "c")
	if _, err := beside.Order(t.Context(), "c"); err != nil {
		t.Errorf("what was written since: %v", err)
	}
}

// A list of thousands of orders must not be sorted for each page of it.
func TestEveryListHasItsIndex(t *testing.T) {
	t.Parallel()
	s := sqliteBackend(t).Store.(*SQLite)
	for filter, index := range map[string]string{
		"": "orders_newest", " AND o.state = 'placed'": "orders_by_state", " AND o.customer = 'x'": "orders_by_customer",
	} {
		var plan []string
		err := s.db.Read(t.Context(), func(tx *sql.Tx) error {
			rows, err := tx.Query(`EXPLAIN QUERY PLAN SELECT * FROM orders o LEFT JOIN intents i ON i.order_id = o.id AND i.settled_at IS NULL
				WHERE (o.created_at, o.id) < (9, 'x')` + filter + ` ORDER BY o.created_at DESC, o.id DESC LIMIT 50`)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var id, parent, unused int
				var detail string
				if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
					return err
				}
				plan = append(plan, detail)
			}
			return rows.Err()
		})
		text := strings.Join(plan, "; ")
		if err != nil || !strings.Contains(text, index) || strings.Contains(text, "TEMP B-TREE") || strings.Contains(text, "SCAN i") {
			t.Errorf("%q: %s (%v), want %s and no sorting", filter, text, err, index)
		}
	}
}
