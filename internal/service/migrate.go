package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"roundtrip/internal/database"
)

// MigrateCommands are `migrate up` and `migrate status`.
type MigrateCommands struct {
	Up     migrateUp     `cmd:"" help:"Apply the migrations that are new, in order. Several may run this at once."`
	Status migrateStatus `cmd:"" help:"List the migrations that are not applied yet; exit 1 if there are any."`

	// Migrations are the service's own.
	Migrations func(*slog.Logger) database.Migrations `kong:"-"`
}

// AfterApply gives the commands the service's migrations.
func (m *MigrateCommands) AfterApply() error {
	m.Up.migrations, m.Status.migrations = m.Migrations, m.Migrations
	return nil
}

type migrateFlags struct {
	DatabaseFlags
	migrations func(*slog.Logger) database.Migrations
}

func (f migrateFlags) run(do func(database.Migrations, *database.Postgres) error) error {
	address, err := f.Source()()
	if err != nil {
		return err
	}
	if address.SQLite != "" {
		return errors.New("on SQLite there is nothing to do: serve migrates by itself")
	}
	db, err := database.OpenPostgres(f.Source(), 2)
	if err != nil {
		return err
	}
	defer db.Close()
	return do(f.migrations(NewLogger(os.Stderr, slog.LevelInfo)), db)
}

type migrateUp struct{ migrateFlags }

// Run applies what is new.
func (m migrateUp) Run(ctx context.Context) error {
	return m.run(func(migrations database.Migrations, db *database.Postgres) error {
		applied, err := migrations.Up(ctx, db)
		if err == nil {
			fmt.Printf("%d migrations applied; the schema is up to date\n", applied)
		}
		return err
	})
}

type migrateStatus struct{ migrateFlags }

// Run lists what is not applied.
func (m migrateStatus) Run(ctx context.Context) error {
	return m.run(func(migrations database.Migrations, db *database.Postgres) error {
		pending, err := migrations.Pending(ctx, db)
		if err != nil {
			return err
		}
		for _, name := range pending {
			fmt.Println("pending:", name)
		}
		if len(pending) > 0 {
			return Exit(ExitDifference, fmt.Errorf("%d migrations are not applied; run migrate up", len(pending)))
		}
		fmt.Println("the schema is up to date")
		return nil
	})
}
