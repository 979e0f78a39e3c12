// Package database opens, migrates and uses the databases that both services
// keep their state in.
//
// # SQLite
//
// The embedded default is one file with one owner. A [SQLite] holds a lock on
// PATH.lock for as long as it is open, so that a second process is refused with
// a sentence instead of corrupting anything. The journal is a write-ahead log
// and synchronous is FULL: a commit is on the disk before it is reported, which
// is what "never lost" rests on. There is one connection that writes, and its
// transactions begin IMMEDIATE: they take the write lock before they read, so
// that what was read under it can't change before it is written. Reads have
// connections of their own and never wait for a writer.
//
// # PostgreSQL
//
// Any number of processes share a PostgreSQL database. A [Postgres] is a pool of
// connections; transactions are READ COMMITTED and lock the rows that they
// decide on, in one order everywhere: a statement after the lock sees what
// the lock's last holder has committed. One that deadlocks all the same, or that
// meets a row which another one has just made, is run again. The address is read
// again whenever a connection is opened, so that credentials may change while a
// process runs.
//
// # Migrations
//
// A schema is made by numbered files in the binary, each applied once, in order,
// by one process at a time. The owner of an SQLite file applies them when it
// opens it. On PostgreSQL an old and a new version of a service run side by side
// while one replaces the other. So a command of its own applies them first, the
// services only wait for it ([Migrations.WaitForSchema]), and a migration takes
// nothing away that the version before still uses.
//
// # Errors
//
// An error of the database itself (a full disk, a failing device, a lock that
// can't be had) is an unavailable problem that wraps its cause: the transaction
// was rolled back, or its commit's result is unknown ([commit.ErrUnknown]), and either way the
// request may be sent again. A problem that a transaction's function returns
// passes through, as does the end of its context; any other error of the
// function is taken for the database's.
package database

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Address says where a database is. One of its fields is set.
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
		// sslrootcert and the like, of the address or, as PGSSLROOTCERT, of the environment.
		if file := new(fs.PathError); errors.As(err, &file) {
			return Address{}, fmt.Errorf("the database's certificates: %w", file)
		}
	}
	// The address is not repeated: it may hold a password.
	return Address{}, errors.New("a database's address looks like sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/NAME")
}

// Source says where the database is, each time that it is opened: the answer
// may change while a process runs.
type Source func() (Address, error)

// FromAddress is a Source that always gives the same answer.
func FromAddress(address string) Source {
	return func() (Address, error) { return ParseAddress(address) }
}

// FromFile is a Source that reads the address from a file, each time anew.
func FromFile(path string) Source {
	return func() (Address, error) {
		content, err := os.ReadFile(path)
		if err != nil {
			return Address{}, fmt.Errorf("read the database's address: %w", err)
		}
		return ParseAddress(string(content))
	}
}
