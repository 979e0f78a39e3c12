package store

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
)

func sqliteDatabase(t *testing.T) func(*testing.T) backend {
	t.Helper()
	path := filepath.Join(t.TempDir(), "inventory.db")
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
	exec := func(ctx context.Context, statement string) error {
		return s.db.Write(ctx, func(tx *sql.Tx) error { _, err := tx.Exec(statement); return err })
	}
	must := func(t *testing.T, statement string) {
		t.Helper()
		if err := exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	return backend{
		Store:    s,
		replicas: []stock.Store{s}, // the file is locked: it has one owner
		exec:     exec,
		poison: func(t *testing.T, id string) {
			t.Helper()
			must(t, `CREATE TRIGGER poison BEFORE INSERT ON outcomes WHEN NEW.reservation_id = '`+id+`'
				BEGIN SELECT RAISE(ABORT, 'poison'); END`)
		},
		fill: func(t *testing.T) (free func()) {
			t.Helper()
			must(t, "PRAGMA max_page_count = 1") // SQLite takes the least it can: what there is
			return func() { must(t, "PRAGMA max_page_count = 1000000") }
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
		reopen: func(t *testing.T) stock.Store {
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
		for _, table := range tables {
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
	path := filepath.Join(t.TempDir(), "inventory.db")
	b := backend{Store: openSQLite(t, path)}
	b.stocked(t, "a", 1)
	beside, err := OpenSQLiteReadOnly(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, beside) })
	if err := beside.Audit(t.Context(), func(d stock.Difference) { t.Error(d) }); err != nil {
		t.Error(err)
	}
	wantCode(t, "a write", beside.Do(t.Context(), []stock.Command{hold("r", 1, line("a", 1))})[0].Err, problem.Unavailable)
}
