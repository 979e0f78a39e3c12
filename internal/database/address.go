// Package database opens, migrates and uses the databases in which both services
// keep their state.
//
// # SQLite
//
// The embedded default is one file that one process owns. A [SQLite] locks PATH.lock
// for as long as it is open. A second process then gets an error that says so, and
// can't corrupt the database. The journal is a write-ahead log and synchronous is
// FULL: a commit is on the disk before it is reported. The promise "never lost"
// depends on this. One connection writes, and its transactions begin IMMEDIATE: they
// take the write lock before they read. So the data that a transaction has read can't
// change before it writes. Reads have their own connections and never wait for a
// writer.
//
// # PostgreSQL
//
// Any number of processes share a PostgreSQL database. A [Postgres] is a pool of
// connections. Transactions are READ COMMITTED and lock the rows that they decide on,
// always in the same order. A statement after the lock sees what the previous holder
// of the lock has committed. A transaction that deadlocks nevertheless, or that
// conflicts with a row that another one has just inserted, is run again. The address
// is read again for every new connection, so that credentials may change while a
// process runs.
//
// # Migrations
//
// A schema is made by numbered files in the binary. Each is applied once, in order,
// by one process at a time. On SQLite the process that owns the file applies them when
// it opens the file. On PostgreSQL an old and a new version of a service run at the
// same time while one replaces the other. So a separate command applies the
// migrations first, and the services only wait for it ([Migrations.WaitForSchema]). A
// migration removes nothing that the previous version still uses.
//
// # Errors
//
// An error of the database itself (a full disk, a failing device, a lock that it could
// not get) is an unavailable problem that wraps its cause. Either the transaction was
// rolled back, or the result of its commit is unknown ([commit.ErrUnknown]). In both
// cases the request may be sent again. A problem that a transaction's function returns
// passes through, and so does the error of a context that has ended. Any other error
// of the function counts as an error of the database.
package database

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Address is the location of a database. Exactly one of its fields is set.
type Address struct {
	// SQLite is the file of an SQLite database.
	SQLite string
	// Postgres is the URL of a PostgreSQL database.
	Postgres string
}

// ParseAddress reads an address such as "sqlite:/var/lib/orders.db" or
// "postgres://orders:secret@db:5432/orders".
func ParseAddress(s string) (Address, error) {
	s = strings.TrimSpace(s)
	if path, ok := strings.CutPrefix(s, "sqlite:"); ok && path != "" {
		return Address{SQLite: path}, nil
	}
	if strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://") {
		_, err := pgconn.ParseConfig(s)
		if err == nil {
			return Address{Postgres: s}, nil
		}
		// Parameters such as sslrootcert name files. They come from the address, or from
		// environment variables such as PGSSLROOTCERT.
		if file := new(fs.PathError); errors.As(err, &file) {
			return Address{}, fmt.Errorf("the database's certificates: %w", file)
		}
	}
	// The error does not repeat the address, because it may hold a password.
	return Address{}, errors.New("a database's address looks like sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/NAME")
}

// Source returns the database's address. It is called for every new connection,
// because the address may change while a process runs.
type Source func() (Address, error)

// FromAddress makes a Source that always returns the same address.
func FromAddress(address string) Source {
	return func() (Address, error) { return ParseAddress(address) }
}

// FromFile makes a Source that reads the address from a file at every call.
func FromFile(path string) Source {
	return func() (Address, error) {
		content, err := os.ReadFile(path)
		if err != nil {
			return Address{}, fmt.Errorf("read the database's address: %w", err)
		}
		return ParseAddress(string(content))
	}
}
