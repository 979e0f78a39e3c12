package store

import (
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

func sqliteDatabase(t *testing.T) func(*testing.T) backend {
	t.Helper()
	path := filepath.Join(t.TempDir(), "orders.db")
	return func(t *testing.T) backend { t.Helper(); return sqliteBackend(t, path) }
}

func openSQLite(t *testing.T, path string) *SQLite {
	t.Helper()
	s, err := OpenSQLite(t.Context(), path, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func sqliteBackend(t *testing.T, path string) backend {
	t.Helper()
	s := openSQLite(t, path)
	exec := func(t *testing.T, statement string) {
		t.Helper()
		if err := s.db.Write(t.Context(), func(tx *sql.Tx) error { _, err := tx.Exec(statement); return err }); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	return backend{
		Store:    s,
		replicas: []order.Store{s}, // the file is locked: it has one owner
		poison: func(t *testing.T, id string) {
			t.Helper()
			exec(t, `CREATE TRIGGER poison BEFORE INSERT ON orders WHEN NEW.id = '`+id+`'
				BEGIN SELECT RAISE(ABORT, 'poison'); END`)
		},
		fill: func(t *testing.T) (free func()) {
			t.Helper()
			exec(t, "PRAGMA max_page_count = 1") // SQLite takes the least it can: what there is
			return func() { exec(t, "PRAGMA max_page_count = 1000000") }
		},
		block: func(t *testing.T) (release func()) {
			t.Helper()
			blocking, released, done := make(chan struct{}), make(chan struct{}), make(chan error)
			go func() {
				done <- s.db.Write(t.Context(), func(*sql.Tx) error { close(blocking); <-released; return nil })
			}()
			<-blocking
			return func() {
				close(released)
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		},
		dump: func(t *testing.T) string { t.Helper(); return dumpSQLite(t, s) },
		reopen: func(t *testing.T) order.Store {
			t.Helper()
			closeStore(t, s)
			return openSQLite(t, path)
		},
	}
}

func dumpSQLite(t *testing.T, s *SQLite) string {
	t.Helper()
	var out strings.Builder
	err := s.db.Read(t.Context(), func(tx *sql.Tx) error {
		for _, table := range []string{"orders", "intents"} {
			rows, err := tx.Query("SELECT * FROM " + table)
			if err != nil {
				return err
			}
			defer rows.Close()
			columns, err := rows.Columns()
			if err != nil {
				return err
			}
			for rows.Next() {
				values := make([]any, len(columns))
				for i := range values {
					values[i] = new(any)
				}
				if err := rows.Scan(values...); err != nil {
					return err
				}
				for i, v := range values {
					fmt.Fprintf(&out, "%s.%s=%v ", table, columns[i], *v.(*any))
				}
				out.WriteByte('\n')
			}
			if err := rows.Err(); err != nil {
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

func TestAnAuditReadsBesideTheService(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "orders.db")
	b := backend{Store: openSQLite(t, path)}
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
	s := openSQLite(t, filepath.Join(t.TempDir(), "orders.db"))
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
