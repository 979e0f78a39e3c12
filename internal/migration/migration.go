// Package migration is the command `migrate`, which brings the schema of a
// PostgreSQL database up to date.
package migration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"roundtrip/internal/cli"
	"roundtrip/internal/database"
)

// Commands are `migrate up` and `migrate status`.
type Commands struct {
	Up     up     `cmd:"" help:"Apply the new migrations in order. It is safe to run several at once."`
	Status status `cmd:"" help:"List the migrations that are not applied yet; exit 1 if there are any."`

	// Schema is the schema of the service.
	Schema database.Schema `kong:"-"`
}

// AfterApply gives the commands the service's schema.
func (m *Commands) AfterApply() error {
	m.Up.schema, m.Status.schema = m.Schema, m.Schema
	return nil
}

type flags struct {
	cli.DatabaseFlags
	schema database.Schema
}

func (f flags) run(do func(database.Migrations, *database.Postgres) error) error {
	address, err := f.Source()()
	if err != nil {
		return err
	}
	if address.SQLite != "" {
		return errors.New("nothing to do on SQLite: serve applies the migrations")
	}
	db, err := database.OpenPostgres(f.Source(), 2)
	if err != nil {
		return err
	}
	defer db.Close()
	return do(f.schema.Migrations(cli.NewLogger(os.Stderr, slog.LevelInfo)), db)
}

type up struct{ flags }

// Run applies the new migrations.
func (m up) Run(ctx context.Context) error {
	return m.run(func(migrations database.Migrations, db *database.Postgres) error {
		applied, err := migrations.Up(ctx, db)
		if err == nil {
			fmt.Printf("%d migrations applied; the schema is up to date\n", applied)
		}
		return err
	})
}

type status struct{ flags }

// Run lists the migrations that are not applied.
func (m status) Run(ctx context.Context) error {
	return m.run(func(migrations database.Migrations, db *database.Postgres) error {
		pending, err := migrations.Pending(ctx, db)
		if err != nil {
			return err
		}
		for _, name := range pending {
			fmt.Println("pending:", name)
		}
		if len(pending) > 0 {
			return cli.Exit(cli.ExitDifference, fmt.Errorf("%d migrations are not applied; run migrate up", len(pending)))
		}
		fmt.Println("the schema is up to date")
		return nil
	})
}
