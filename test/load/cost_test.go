package main

import (
	"context"
	"database/sql"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"roundtrip/internal/database"
	"roundtrip/test/support/containers"
)

func TestMain(m *testing.M) { os.Exit(containers.Main(m)) }

func TestProcessorTimeIsUserPlusSystem(t *testing.T) {
	t.Parallel()
	for stat, want := range map[string]time.Duration{
		"7 (orders) S 1 7 7 0 -1 4194560 500 0 3 0 250 125 9 9 20 0 8 0 1234": 3750 * time.Millisecond,
		"7 (a) b) (c) R 1 7 7 0 -1 4194560 500 0 3 0 1 0 9 9 20 0 8 0 1234":   10 * time.Millisecond,
		"7 (orders) S 1 7 7 0 -1 4194560 500 0 3 0 250":                       -1,
		"7 (orders) S 1 7 7 0 -1 4194560 500 0 3 0 250 x 9":                   -1,
		"": -1,
	} {
		got, err := parseStat(stat)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: got %s, %v", stat, got, err)
		}
	}
	// The time of this process grows.
	before, err := processCPU(os.Getpid())
	for after := before; err == nil && after <= before; {
		after, err = processCPU(os.Getpid())
	}
	if err != nil {
		t.Error(err)
	}
}

func TestMemoryIsPeakResidentSize(t *testing.T) {
	t.Parallel()
	got, err := parsePeak("Name:\torders\nVmPeak:\t 1240000 kB\nVmHWM:\t   40960 kB\nVmRSS:\t   30000 kB\n")
	if err != nil || got != 40<<20 {
		t.Errorf("got %d, %v", got, err)
	}
	for _, status := range []string{"", "VmPeak:\t 12 kB\n", "VmHWM:\t much kB\n"} {
		if _, err := parsePeak(status); err == nil {
			t.Errorf("%q: no error", status)
		}
	}
	if got, err := peakMemory(os.Getpid()); err != nil || got < 1<<20 || got > 1<<40 {
		t.Errorf("of this process: %d, %v", got, err)
	}
}

func TestSQLiteSyncsCountEveryCommit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "some.db")
	if _, err := fileSyncs(path); err == nil {
		t.Error("a missing file was counted")
	}
	schema := fstest.MapFS{"1_some.sql": {Data: []byte("-- +goose Up\nCREATE TABLE some (n INTEGER, filling BLOB);")}}
	db := openDatabase(t, path, schema)
	count := func() int {
		n, err := fileSyncs(path)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	write := func(kib int) {
		if err := db.Write(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.ExecContext(context.WithoutCancel(t.Context()), "INSERT INTO some (n, filling) VALUES (1, randomblob(1024 * ?))", kib)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	write(1)
	before := count()
	for range 7 {
		write(1)
	}
	if got := count() - before; got != 7 {
		t.Errorf("7 commits: %d syncs", got)
	}
	// A transaction that changes nothing, or is rolled back, needs no sync.
	before = count()
	if err := db.Write(t.Context(), func(*sql.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := db.Write(t.Context(), func(tx *sql.Tx) error {
		_, _ = tx.ExecContext(t.Context(), "INSERT INTO some (n) VALUES (1)")
		return fs.ErrInvalid
	}); err == nil {
		t.Fatal("the transaction was not rolled back")
	}
	if got := count() - before; got != 0 {
		t.Errorf("no commit: %d syncs", got)
	}
	// 8 MB exceed the size of the log: the next commit starts the log from the
	// beginning.
	write(8 << 10)
	before = count()
	write(1)
	if got := count() - before; got != 1+3 {
		t.Errorf("a commit that restarts the log: %d syncs", got)
	}
}

func openDatabase(t *testing.T, path string, migrations fs.FS) *database.SQLite {
	t.Helper()
	db, err := database.OpenSQLite(t.Context(), path, migrations, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestServerSyncsCountEveryCommit(t *testing.T) {
	t.Parallel()
	server := containers.SharedPostgres(t)
	name, err := server.NewDatabase(t.Context(), "syncs", func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	before, err := serverSyncs(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	// psql commits each statement and exits.
	if _, err := server.Run(t.Context(), "psql", "-c", "CREATE TABLE entries (n int)", "-c", "INSERT INTO entries VALUES (1)",
		"-c", "INSERT INTO entries VALUES (2)", server.AddressInside(name)); err != nil {
		t.Fatal(err)
	}
	after, err := serverSyncs(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	// The server also syncs at other times.
	if got := after - before; got < 3 {
		t.Errorf("3 commits: %d syncs", got)
	}
}
