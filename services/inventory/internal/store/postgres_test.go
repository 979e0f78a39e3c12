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
	"roundtrip/services/inventory/internal/stock"
	"roundtrip/test/containers"
)

func TestMain(m *testing.M) { os.Exit(containers.Main(m)) }

// postgresAddress is that of an empty database with inventory's schema.
func postgresAddress(t *testing.T) string {
	t.Helper()
	return containers.SharedPostgres(t).Database(t, "inventory", func(address string) error {
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
