package store

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"roundtrip/internal/database"
	"roundtrip/services/orders/internal/order"
	"roundtrip/test/containers"
)

func TestMain(m *testing.M) { os.Exit(containers.Main(m)) }

// postgresAddress is that of an empty database with orders' schema.
func postgresAddress(t *testing.T) string {
	t.Helper()
	return containers.SharedPostgres(t).Database(t, "orders", func(address string) error {
		db, err := database.OpenPostgres(database.FromAddress(address), 2)
		if err != nil {
			return err
		}
		defer db.Close()
		_, err = PostgresMigrations(slog.New(slog.DiscardHandler)).Up(context.Background(), db)
		return err
	})
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
	s := NewPostgres(db)
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
