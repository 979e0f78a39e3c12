package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"roundtrip/internal/problem"
)

const (
	// readers is how many reads may run at the same time.
	readers = 4
	// busyTimeout is how long, in milliseconds, SQLite waits for a lock that another
	// connection holds.
	busyTimeout = "2000"
)

// SQLite is an open SQLite database.
type SQLite struct {
	write, read *sql.DB
	lock        *os.File
}

// OpenSQLite opens a database, and creates it and its folder if they are missing.
// It takes the lock that keeps other processes out, and applies the new migrations
// in order.
func OpenSQLite(ctx context.Context, path string, migrations fs.FS, log *slog.Logger) (_ *SQLite, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the database's folder: %w", err)
	}
	db := &SQLite{}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	if db.lock, err = lockFile(path + ".lock"); err != nil {
		return nil, err
	}
	if db.write, err = open(path, url.Values{
		"_txlock": {"immediate"},
		"_pragma": {"busy_timeout(" + busyTimeout + ")", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
	}, 1); err != nil {
		return nil, err
	}
	if err := migrate(ctx, db.write, migrations, log); err != nil {
		return nil, fmt.Errorf("migrate %s: %w", path, err)
	}
	if db.read, err = openReader(path); err != nil {
		return nil, err
	}
	return db, nil
}

// OpenSQLiteReadOnly opens a database for reading. Another process may have it open.
// It takes no lock and changes nothing.
func OpenSQLiteReadOnly(path string) (*SQLite, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	read, err := openReader(path)
	return &SQLite{read: read}, err
}

func openReader(path string) (*sql.DB, error) {
	return open(path, url.Values{
		"_pragma": {"busy_timeout(" + busyTimeout + ")", "query_only(1)"},
	}, readers)
}

func open(path string, options url.Values, connections int) (*sql.DB, error) {
	// The path is escaped, because it may contain characters with a meaning in a URI.
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+options.Encode())
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}

// lockFile locks a file, which keeps other processes out of a database until the file
// is closed.
func lockFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the database: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another process has this database open (%s); stop that process, or use another file", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return file, nil
}

func migrate(ctx context.Context, db *sql.DB, migrations fs.FS, log *slog.Logger) error {
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, migrations)
	if err != nil {
		return err
	}
	results, err := provider.Up(ctx)
	for _, r := range results {
		log.Info("migrated", "version", r.Source.Version, "duration_ms", r.Duration.Milliseconds())
	}
	return err
}

// Close closes the database and releases its lock. It may be called twice.
func (db *SQLite) Close() error {
	var errs []error
	for _, pool := range []*sql.DB{db.read, db.write} {
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	if db.lock != nil {
		errs = append(errs, db.lock.Close())
	}
	*db = SQLite{}
	return errors.Join(errs...)
}

// Write runs f in a transaction on the one connection that writes, and commits it. If
// f returns an error or panics, the transaction is rolled back.
func (db *SQLite) Write(ctx context.Context, f func(*sql.Tx) error) error {
	return transaction(ctx, db.write, nil, f)
}

// Read runs f on one consistent snapshot.
func (db *SQLite) Read(ctx context.Context, f func(*sql.Tx) error) error {
	return transaction(ctx, db.read, &sql.TxOptions{ReadOnly: true}, f)
}

// ReadSQLiteRows is [SQLite.Read] of a function that returns rows.
func ReadSQLiteRows[Row any](ctx context.Context, db *SQLite, f func(*sql.Tx) ([]Row, error)) (rows []Row, err error) {
	err = db.Read(ctx, func(tx *sql.Tx) (err error) {
		rows, err = f(tx)
		return err
	})
	return rows, err
}

func transaction(ctx context.Context, pool *sql.DB, options *sql.TxOptions, f func(*sql.Tx) error) error {
	if pool == nil {
		return problem.New(problem.Unavailable, "The database is closed.")
	}
	// ctx bounds the wait for a connection, and not the transaction itself. Otherwise a
	// caller that hangs up between two statements would roll back what has been decided,
	// and interrupt the driver.
	conn, err := pool.Conn(ctx)
	if err != nil {
		return unavailable(ctx, err)
	}
	defer conn.Close()
	tx, err := begin(ctx, conn, options)
	if err != nil {
		return unavailable(ctx, err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	if err := f(tx); err != nil {
		return unavailable(ctx, err)
	}
	return unavailable(ctx, tx.Commit())
}

// begin begins a transaction. It tries again while the database is busy, until ctx
// ends.
func begin(ctx context.Context, conn *sql.Conn, options *sql.TxOptions) (*sql.Tx, error) {
	for {
		tx, err := conn.BeginTx(context.WithoutCancel(ctx), options)
		var e *sqlite.Error
		if !errors.As(err, &e) || e.Code()&0xff != sqlite3.SQLITE_BUSY {
			return tx, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// unavailable turns an error of the database into a problem.
func unavailable(ctx context.Context, err error) error {
	var p *problem.Problem
	switch {
	case err == nil || errors.As(err, &p):
		return err
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return err
	}
	return problem.Wrap(err, problem.Unavailable, "The database can't be used at the moment.")
}
