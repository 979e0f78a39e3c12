package database

import (
	"context"
	"io/fs"
	"log/slog"

	"roundtrip/internal/commit"
)

// Options say which database a service uses, and how. The command line makes
// them once, and the app passes them to the store.
type Options struct {
	Source Source
	// Connections is the largest number of connections to a PostgreSQL server.
	Connections int
	// AllowUnsafe accepts a PostgreSQL server that may lose confirmed data.
	AllowUnsafe bool
	// BatchMax is the largest number of commands that one transaction decides.
	// Default: [commit.DefaultMax].
	BatchMax int
	// Log gets a line for each migration. Default: nothing is logged.
	Log *slog.Logger
}

// Schema is the schema of a service's database, as the migrations that make it.
type Schema struct{ sqlite, postgres fs.FS }

// NewSchema makes a Schema from the files in migrations/sqlite and
// migrations/postgres.
func NewSchema(files fs.FS) Schema {
	folder := func(name string) fs.FS {
		f, err := fs.Sub(files, "migrations/"+name)
		if err != nil { // the name is valid
			panic(err)
		}
		return f
	}
	return Schema{folder("sqlite"), folder("postgres")}
}

// Migrations returns the schema's migrations for PostgreSQL.
func (s Schema) Migrations(log *slog.Logger) Migrations { return Migrations{s.postgres, log} }

// Database is an open database. Exactly one of its fields is set.
type Database struct {
	SQLite   *SQLite
	Postgres *Postgres
}

// Open opens the database that the options name. An SQLite database can be used at
// once. A PostgreSQL server may still be unreachable: call wait before the database is
// used. It waits until the schema is up to date.
func Open(ctx context.Context, schema Schema, o Options) (db Database, wait func(context.Context) error, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	address, err := o.Source()
	if err != nil {
		return Database{}, nil, err
	}
	if address.SQLite != "" {
		s, err := OpenSQLite(ctx, address.SQLite, schema.sqlite, o.Log)
		return Database{SQLite: s}, func(context.Context) error { return nil }, err
	}
	p, err := OpenPostgres(o.Source, o.Connections)
	return Database{Postgres: p}, func(ctx context.Context) error {
		if err := schema.Migrations(o.Log).WaitForSchema(ctx, p); err != nil || o.AllowUnsafe {
			return err
		}
		return p.CheckDurable(ctx)
	}, err
}

// OpenReadOnly opens a database for reading. A service may have it open at the same
// time.
func OpenReadOnly(source Source) (Database, error) {
	address, err := source()
	if err != nil {
		return Database{}, err
	}
	if address.SQLite != "" {
		s, err := OpenSQLiteReadOnly(address.SQLite)
		return Database{SQLite: s}, err
	}
	p, err := OpenPostgres(source, 2)
	return Database{Postgres: p}, err
}

// Close closes the database. It may be called twice.
func (db Database) Close() error {
	if db.SQLite != nil {
		return db.SQLite.Close()
	}
	return db.Postgres.Close()
}

// GroupCommit makes the options of the group commit on this database.
func (db Database) GroupCommit(o Options, after commit.AfterUnknown) commit.Options {
	group := commit.Options{Max: o.BatchMax, AfterUnknown: after}
	if db.Postgres != nil && o.BatchMax == 1 {
		// Nothing is merged, so no transaction needs to wait for another.
		group.InFlight = o.Connections
	}
	return group
}
