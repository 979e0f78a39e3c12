package database

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/fstest"
	"time"

	"roundtrip/test/support/containers"
)

func TestConcurrentMigrationsAreAppliedOnce(t *testing.T) {
	t.Parallel()
	empty := func(string) error { return nil }
	address := withLongTimeouts(containers.SharedPostgres(t).Database(t, "empty", empty))
	db := openPostgres(t, FromAddress(address))
	m := migrationsOf(secondMigrations)
	if pending, err := m.Pending(t.Context(), db); err != nil || fmt.Sprint(pending) != "[00001_things.sql 00002_colour.sql]" {
		t.Errorf("at first the pending migrations are %v, %v", pending, err)
	}
	waited := make(chan error, 1)
	go func() { waited <- m.WaitForSchema(t.Context(), db) }()
	type result struct {
		applied int
		err     error
	}
	const processes = 4
	results := make(chan result, processes)
	for range processes {
		process := openPostgres(t, FromAddress(address))
		go func() {
			n, err := m.Up(t.Context(), process)
			results <- result{n, err}
		}()
	}
	applied := 0
	for range processes {
		r := <-results
		applied += r.applied
		if r.err != nil {
			t.Error(r.err)
		}
	}
	if applied != 2 {
		t.Errorf("%d migrations were applied, want 2", applied)
	}
	if err := <-waited; err != nil {
		t.Errorf("the waiting process got %v", err)
	}
	if pending, err := m.Pending(t.Context(), db); err != nil || len(pending) != 0 {
		t.Errorf("in the end the pending migrations are %v, %v", pending, err)
	}
	if n, err := m.Up(t.Context(), db); err != nil || n != 0 {
		t.Errorf("a second run: %d, %v", n, err)
	}
}

// During a rollout the schema is already new, and the old version still starts. A
// new version waits for its schema.
func TestProcessWaitsForItsSchemaAndAcceptsANewerOne(t *testing.T) {
	t.Parallel()
	db := openPostgres(t, FromAddress(withLongTimeouts(thingsDatabase(t))))
	if pending, err := migrationsOf(secondMigrations).Pending(t.Context(), db); err != nil || fmt.Sprint(pending) != "[00002_colour.sql]" {
		t.Errorf("the pending migrations are %v, %v", pending, err)
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := migrationsOf(secondMigrations).WaitForSchema(short, db); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("on an older schema: %v", err)
	}
	if n, err := migrationsOf(secondMigrations).Up(t.Context(), db); err != nil || n != 1 {
		t.Errorf("migrated %d, %v", n, err)
	}
	if err := migrationsOf(firstMigrations).WaitForSchema(t.Context(), db); err != nil {
		t.Errorf("on a newer schema: %v", err)
	}
	if n, err := migrationsOf(firstMigrations).Up(t.Context(), db); err != nil || n != 0 {
		t.Errorf("the old migrations on a newer schema: %d, %v", n, err)
	}
}

func TestMigrationIgnoresTheStatementTimeout(t *testing.T) {
	t.Parallel()
	db := openPostgres(t, FromAddress(thingsDatabase(t)+"&statement_timeout=500"))
	slow := fstest.MapFS{
		"00001_things.sql": firstMigrations["00001_things.sql"],
		"00002_slow.sql":   {Data: []byte("-- +goose Up\nSELECT pg_sleep(1);\n")},
	}
	if n, err := migrationsOf(slow).Up(t.Context(), db); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
}

func TestFailedMigrationIsRolledBack(t *testing.T) {
	t.Parallel()
	db := openPostgres(t, FromAddress(withLongTimeouts(thingsDatabase(t))))
	broken := fstest.MapFS{
		"00001_things.sql": firstMigrations["00001_things.sql"],
		"00002_broken.sql": {Data: []byte("-- +goose Up\nCREATE TABLE half (name text);\nCREATE TABLE things (name text);\n")},
	}
	if n, err := migrationsOf(broken).Up(t.Context(), db); err == nil || n != 0 {
		t.Errorf("%d, %v", n, err)
	}
	if n := queryInt(t, db, "SELECT count(*) FROM pg_tables WHERE tablename = 'half'"); n != 0 {
		t.Error("half of the failed migration was applied")
	}
	if n, err := migrationsOf(secondMigrations).Up(t.Context(), db); err != nil || n != 1 {
		t.Errorf("after the fix: %d, %v", n, err)
	}
}
