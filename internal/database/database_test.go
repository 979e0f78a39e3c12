package database

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"roundtrip/internal/problem"
)

var migrations = fstest.MapFS{
	"00001_things.sql": {Data: []byte("-- +goose Up\nCREATE TABLE things (name TEXT PRIMARY KEY) STRICT;\n")},
}

func openTest(t *testing.T) (*SQLite, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a folder?#%", "things.db")
	db, err := OpenSQLite(t.Context(), path, migrations, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db, path
}

func insert(ctx context.Context, db *SQLite, name string) error {
	return db.Write(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("INSERT INTO things VALUES (?)", name)
		return err
	})
}

func count(t *testing.T, db *SQLite) (n int) {
	t.Helper()
	err := db.Read(t.Context(), func(tx *sql.Tx) error { return tx.QueryRow("SELECT count(*) FROM things").Scan(&n) })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCommitsAreDurable(t *testing.T) {
	t.Parallel()
	db, _ := openTest(t)
	want := map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"}
	err := db.Write(t.Context(), func(tx *sql.Tx) error {
		for name, value := range want {
			var got string
			if err := tx.QueryRow("PRAGMA " + name).Scan(&got); err != nil || got != value {
				t.Errorf("%s is %q, want %q (%v)", name, got, value, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	t.Parallel()
	db, path := openTest(t)
	if _, err := OpenSQLite(t.Context(), path, migrations, slog.New(slog.DiscardHandler)); err == nil ||
		!strings.Contains(err.Error(), "another process has this database open") {
		t.Fatalf("got %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenSQLite(t.Context(), path, migrations, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestReadOnlyWhileTheServiceRunsAndAfterwards(t *testing.T) {
	t.Parallel()
	db, path := openTest(t)
	if err := insert(t.Context(), db, "one"); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"running", "stopped"} {
		audit, err := OpenSQLiteReadOnly(path)
		if err != nil {
			t.Fatal(when, err)
		}
		if n := count(t, audit); n != 1 {
			t.Errorf("%s: %d things, want 1", when, n)
		}
		if err := audit.Read(t.Context(), func(tx *sql.Tx) error { _, err := tx.Exec("DELETE FROM things"); return err }); err == nil {
			t.Errorf("%s: a read-only database could write", when)
		}
		audit.Close()
		db.Close()
	}
	if _, err := OpenSQLiteReadOnly(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("for a missing file: %v", err)
	}
}

func TestFailedTransactionIsRolledBack(t *testing.T) {
	t.Parallel()
	db, _ := openTest(t)
	mine := problem.New(problem.KeyReused, "")
	err := db.Write(t.Context(), func(tx *sql.Tx) error {
		if _, err := tx.Exec("INSERT INTO things VALUES ('a')"); err != nil {
			return err
		}
		return mine
	})
	if !errors.Is(err, mine) {
		t.Errorf("got %v", err)
	}
	func() {
		defer func() { _ = recover() }()
		_ = db.Write(t.Context(), func(tx *sql.Tx) error {
			_, _ = tx.Exec("INSERT INTO things VALUES ('b')")
			panic("on purpose")
		})
	}()
	if n := count(t, db); n != 0 {
		t.Errorf("%d things were stored, want none", n)
	}
	if err := insert(t.Context(), db, "c"); err != nil {
		t.Errorf("after a panic: %v", err)
	}
}

func TestFullDiskIsUnavailableAndLosesNothing(t *testing.T) {
	t.Parallel()
	db, _ := openTest(t)
	limit := func(pages string) {
		t.Helper()
		if _, err := db.write.Exec("PRAGMA max_page_count = " + pages); err != nil {
			t.Fatal(err)
		}
	}
	limit("1") // SQLite raises it to the current size
	err := insert(t.Context(), db, strings.Repeat("x", 1<<16))
	if problem.CodeOf(err) != problem.Unavailable || !strings.Contains(err.Error(), "full") {
		t.Errorf("got %v", err)
	}
	if n := count(t, db); n != 0 {
		t.Errorf("%d things were stored, want none", n)
	}
	limit("1000000")
	if err := insert(t.Context(), db, "small"); err != nil {
		t.Error(err)
	}
}

func TestReadDoesNotWaitForAWriter(t *testing.T) {
	t.Parallel()
	db, _ := openTest(t)
	err := db.Write(t.Context(), func(tx *sql.Tx) error {
		if n := count(t, db); n != 0 {
			t.Errorf("%d things", n)
		}
		short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := insert(short, db, "second writer"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second writer got %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSQLiteRunsInVirtualTime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "things.db")
	synctest.Test(t, func(t *testing.T) {
		db, err := OpenSQLite(t.Context(), path, migrations, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		time.Sleep(time.Hour)
		if err := insert(t.Context(), db, "late"); err != nil {
			t.Error(err)
		}
	})
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "sqlite:", "orders.db", "mysql://x:secret@y", "postgres://x:secret@y:port/z"} {
		if _, err := ParseAddress(bad); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	file := filepath.Join(t.TempDir(), "address")
	source := FromFile(file)
	for _, path := range []string{"/a.db", "/b.db"} {
		if err := os.WriteFile(file, []byte("sqlite:"+path+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := source(); err != nil || got.SQLite != path {
			t.Errorf("got %v, %v", got, err)
		}
	}
	if _, err := FromFile(file + "x")(); err == nil {
		t.Error("a missing file gives no error")
	}
}

func TestCursors(t *testing.T) {
	t.Parallel()
	var at int64
	var id string
	if err := DecodeCursor(EncodeCursor(int64(1)<<60, "a\"b"), &at, &id); err != nil || at != 1<<60 || id != "a\"b" {
		t.Errorf("got %d, %q, %v", at, id, err)
	}
	for _, bad := range []string{"!", "e30", EncodeCursor("a", "b"), EncodeCursor(1), EncodeCursor(1, "b", 2), "W10=",
		EncodeCursor(nil, nil), EncodeCursor(1, "b\x00"), "WyAxLCAiYSIgXQ" /* [ 1, "a" ] */} {
		if err := DecodeCursor(bad, &at, &id); problem.CodeOf(err) != problem.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
