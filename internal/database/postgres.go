package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"roundtrip/internal/commit"
)

const (
	// maxTries is how often a transaction is run that conflicts with others.
	maxTries = 5
	// rollbackBound is the time limit for a rollback.
	rollbackBound = time.Second
)

// settings are the defaults for every connection. The address may override them. The
// server enforces the timeouts, which are in milliseconds, so that a connection whose
// client is gone does not hold locks for long.
var settings = map[string]string{
	"statement_timeout": "2000", "lock_timeout": "1500", "idle_in_transaction_session_timeout": "5000",
	// Every statement of a transaction finds its rows by an index. The server keeps a
	// plan with its prepared statement. A plan that was made while a table was small
	// would otherwise read the whole table until the table is analyzed.
	"enable_seqscan": "off",
}

// Postgres is a pool of connections to a PostgreSQL database.
type Postgres struct {
	pool *pgxpool.Pool
	// bound is the time limit for a transaction. After it, the request's deadline has
	// passed, and other transactions wait for the locks.
	bound time.Duration
}

// OpenPostgres makes a pool with the given maximum of connections. It does not
// connect yet.
func OpenPostgres(source Source, connections int) (*Postgres, error) {
	address, err := source()
	if err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(address.Postgres)
	if err != nil {
		return nil, errors.New("the database's address can't be read") // err repeats the address, with its password
	}
	config.MaxConns = int32(connections)
	config.MaxConnLifetime, config.MaxConnLifetimeJitter = 30*time.Minute, 5*time.Minute
	config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		address, err := source()
		if err != nil {
			return err
		}
		now, err := pgx.ParseConfig(address.Postgres)
		if err != nil {
			return errors.New("the database's address can't be read")
		}
		c.Host, c.Port, c.Database, c.User, c.Password = now.Host, now.Port, now.Database, now.User, now.Password
		c.TLSConfig, c.Fallbacks = now.TLSConfig, now.Fallbacks
		return nil
	}
	parameters := config.ConnConfig.RuntimeParams
	for name, value := range settings {
		if parameters[name] == "" {
			parameters[name] = value
		}
	}
	statement, err := strconv.Atoi(parameters["statement_timeout"])
	if err != nil || statement <= 0 {
		return nil, errors.New("statement_timeout in the database's address must be a number of milliseconds")
	}
	bound := 2 * time.Duration(statement) * time.Millisecond
	if config.ConnConfig.ConnectTimeout == 0 { // the address has no connect_timeout
		// The pool's default is two minutes. For that time, connection attempts to an
		// unreachable server would occupy the whole pool.
		config.ConnConfig.ConnectTimeout = bound
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, fmt.Errorf("make a pool: %w", err)
	}
	return &Postgres{pool, bound}, nil
}

// Close closes every connection.
func (db *Postgres) Close() error {
	db.pool.Close()
	return nil
}

// CheckDurable returns an error if the server may lose confirmed data.
func (db *Postgres) CheckDurable(ctx context.Context) error {
	for _, setting := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		var value string
		if err := db.pool.QueryRow(ctx, "SELECT current_setting($1)", setting).Scan(&value); err != nil {
			return unavailable(ctx, err)
		}
		if value == "off" {
			return fmt.Errorf("the database server has %s off, so a crash may lose confirmed data; turn it on, or accept the risk with --allow-unsafe-database", setting)
		}
	}
	return nil
}

// Write runs f in a transaction and commits it. If f returns an error or panics, the
// transaction is rolled back. A transaction that conflicts with another one (a
// deadlock, or a row that was just inserted) is run again from the start.
func (db *Postgres) Write(ctx context.Context, f func(context.Context, pgx.Tx) error) error {
	// ctx, the caller's context, stays separate. If only this time limit has passed, the
	// error says that the database is unavailable, and not that the caller's deadline
	// has passed.
	bounded, cancel := context.WithTimeout(ctx, db.bound)
	defer cancel()
	for try := 1; ; try++ {
		err := db.once(bounded, pgx.TxOptions{}, f)
		if try == maxTries || !metAnother(err) {
			return unavailable(ctx, err)
		}
		select {
		case <-time.After(rand.N(time.Duration(try) * 10 * time.Millisecond)):
		case <-bounded.Done():
			return unavailable(ctx, err)
		}
	}
}

// Read runs f on one consistent snapshot.
func (db *Postgres) Read(ctx context.Context, f func(context.Context, pgx.Tx) error) error {
	bounded, cancel := context.WithTimeout(ctx, db.bound)
	defer cancel()
	return unavailable(ctx, db.read(bounded, f))
}

// ReadRows is [Postgres.Read] of a function that returns rows.
func ReadRows[Row any](ctx context.Context, db *Postgres, f func(context.Context, pgx.Tx) ([]Row, error)) (rows []Row, err error) {
	err = db.Read(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		rows, err = f(ctx, tx)
		return err
	})
	return rows, err
}

// ReadAll is [Postgres.Read] without a time limit, for an audit.
func (db *Postgres) ReadAll(ctx context.Context, f func(context.Context, pgx.Tx) error) error {
	return unavailable(ctx, db.read(ctx, f))
}

func (db *Postgres) read(ctx context.Context, f func(context.Context, pgx.Tx) error) error {
	return db.once(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, f)
}

func (db *Postgres) once(ctx context.Context, options pgx.TxOptions, f func(context.Context, pgx.Tx) error) error {
	tx, err := db.pool.BeginTx(ctx, options)
	if err != nil {
		return err
	}
	defer func() {
		// After a commit this does nothing. If the server does not answer, the connection
		// is closed.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackBound)
		defer cancel()
		_ = tx.Rollback(ctx)
	}()
	if err := f(ctx, tx); err != nil {
		return err
	}
	err = tx.Commit(ctx)
	var refused *pgconn.PgError
	if err != nil && !errors.As(err, &refused) && !errors.Is(err, pgx.ErrTxCommitRollback) {
		return fmt.Errorf("%w: %w", commit.ErrUnknown, err)
	}
	return err
}

// metAnother reports whether a transaction failed because of another one, so that
// it may succeed when it is run again. This is after a serialization failure, a
// deadlock, a row that another one has just inserted, or a lock timeout (PostgreSQL
// 15, Appendix A).
func metAnother(err error) bool {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case "40001", "40P01", "23505", "55P03":
		return true
	}
	return false
}

// Migrations are the migrations of one service's PostgreSQL schema.
type Migrations struct {
	Files fs.FS
	Log   *slog.Logger
}

// provider makes what runs the migrations: in one process at a time, under an advisory
// lock.
func (m Migrations) provider(db *sql.DB) (*goose.Provider, error) {
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectPostgres, db, m.Files, goose.WithSessionLocker(locker))
}

// Up applies the new migrations in order, and returns how many it applied. Their
// statements may take any time. Only the wait for a lock is limited, because later
// transactions queue behind it.
func (m Migrations) Up(ctx context.Context, db *Postgres) (int, error) {
	config := db.pool.Config()
	config.ConnConfig.RuntimeParams["statement_timeout"] = "0"
	patient, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return 0, fmt.Errorf("make a pool: %w", err)
	}
	defer patient.Close()
	pool := stdlib.OpenDBFromPool(patient)
	defer pool.Close()
	provider, err := m.provider(pool)
	if err != nil {
		return 0, err
	}
	results, err := provider.Up(ctx)
	for _, r := range results {
		m.Log.Info("migrated", "version", r.Source.Version, "duration_ms", r.Duration.Milliseconds())
	}
	if err != nil {
		return len(results), fmt.Errorf("migrate: %w", err)
	}
	return len(results), nil
}

// Pending lists the migrations that have not been applied.
func (m Migrations) Pending(ctx context.Context, db *Postgres) ([]string, error) {
	pool := stdlib.OpenDBFromPool(db.pool)
	defer pool.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, pool, m.Files)
	if err != nil {
		return nil, err
	}
	statuses, err := provider.Status(ctx)
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	var pending []string
	for _, s := range statuses {
		if s.State == goose.StatePending {
			pending = append(pending, s.Source.Path)
		}
	}
	return pending, nil
}

// WaitForSchema returns after every migration has been applied, by any process. It logs
// what it waits for.
func (m Migrations) WaitForSchema(ctx context.Context, db *Postgres) error {
	said := ""
	for {
		pending, err := m.Pending(ctx, db)
		if err == nil && len(pending) == 0 {
			return nil
		}
		if why := fmt.Sprint(pending, err); why != said && ctx.Err() == nil {
			said = why
			m.Log.Warn("waiting for the schema: run migrate up", "pending", pending, "error", err)
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for the schema: %w", ctx.Err())
		}
	}
}
