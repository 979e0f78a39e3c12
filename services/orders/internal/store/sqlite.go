package store

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"time"

	"roundtrip/internal/commit"
	"roundtrip/internal/database"
	"roundtrip/services/orders/internal/order"
)

// SQLite keeps orders in an SQLite database.
type SQLite struct {
	*commit.Group[order.Command, order.Result]
	db *database.SQLite
}

func newSQLite(db *database.SQLite, o commit.Options) *SQLite {
	return &SQLite{newGroup(func(ctx context.Context, f func(session) error) error {
		return db.Write(ctx, func(tx *sql.Tx) error { return f(sqliteSession{tx}) })
	}, o), db}
}

// Close closes the database.
func (s *SQLite) Close() error { return s.db.Close() }

// sqliteSession is a transaction that holds the database's only write lock, so the rows
// that it loads need no locks.
type sqliteSession struct{ tx *sql.Tx }

func (s sqliteSession) orders(ids []string) ([]order.Order, error) {
	return sqliteOrders(s.tx, "o.id IN (SELECT value FROM json_each(?)) ORDER BY o.id", database.Rows(ids))
}

// sqliteOrders loads orders with their unsettled intents. The condition ends with the
// sort order.
func sqliteOrders(tx *sql.Tx, condition string, args ...any) (loaded []order.Order, err error) {
	err = database.Each(tx, func(rows *sql.Rows) error {
		o, err := scan(rows)
		loaded = append(loaded, o)
		return err
	}, `SELECT o.id, o.state, o.version, o.customer, o.currency, o.hold_seconds, o.lines, o.total,
			o.hold_expires_at, o.created_at, o.updated_at, o.seq, o.fingerprint,
			o.last_operation, o.last_seq, o.last_outcome, o.last_problem,
			i.seq, i.operation, i.since, i.lines, i.fingerprint
		FROM orders o LEFT JOIN intents i ON i.order_id = o.id AND i.settled_at IS NULL
		WHERE `+condition, args...)
	if err != nil {
		return nil, fmt.Errorf("load orders: %w", err)
	}
	return loaded, nil
}

func scan(rows *sql.Rows) (order.Order, error) {
	var o order.Order
	var created, updated int64
	var holdExpires, lastSeq, intentSeq, since sql.NullInt64
	var lines string
	var lastOperation, lastOutcome, intentOperation, intentLines, intentFingerprint sql.NullString
	var lastProblem *string
	if err := rows.Scan(&o.ID, &o.State, &o.Version, &o.Customer, &o.Currency, &o.HoldSeconds, &lines, &o.Total,
		&holdExpires, &created, &updated, &o.Seq, &o.Fingerprint,
		&lastOperation, &lastSeq, &lastOutcome, &lastProblem,
		&intentSeq, &intentOperation, &since, &intentLines, &intentFingerprint); err != nil {
		return o, err
	}
	o.CreatedAt, o.UpdatedAt = time.UnixMilli(created), time.UnixMilli(updated)
	if holdExpires.Valid {
		o.HoldExpiresAt = time.UnixMilli(holdExpires.Int64)
	}
	var err error
	if o.Lines, err = readLines(lines); err != nil {
		return o, err
	}
	if lastSeq.Valid {
		o.Last = &order.Settlement{
			Operation: order.Operation(lastOperation.String), Seq: lastSeq.Int64, Outcome: order.OutcomeKind(lastOutcome.String),
		}
		if o.Last.Problem, err = database.ReadProblem(lastProblem); err != nil {
			return o, err
		}
	}
	if intentSeq.Valid {
		o.Intent = &order.Intent{
			Operation: order.Operation(intentOperation.String), Seq: intentSeq.Int64, Since: time.UnixMilli(since.Int64),
			Fingerprint: intentFingerprint.String,
		}
		if intentLines.Valid {
			o.Intent.Lines, err = readLines(intentLines.String)
		}
	}
	return o, err
}

// write prepares each statement once, and runs it for every row.
func (s sqliteSession) write(now time.Time, c order.Changes) error {
	if err := s.each(len(c.Orders), `INSERT INTO orders (id, state, version, customer, currency, hold_seconds, lines, total,
			hold_expires_at, created_at, updated_at, seq, fingerprint, last_operation, last_seq, last_outcome, last_problem)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET state = excluded.state, version = excluded.version, lines = excluded.lines,
			total = excluded.total, hold_expires_at = excluded.hold_expires_at, updated_at = excluded.updated_at,
			seq = excluded.seq, last_operation = excluded.last_operation, last_seq = excluded.last_seq,
			last_outcome = excluded.last_outcome, last_problem = excluded.last_problem, leased_until = 0`,
		func(i int) []any {
			o := c.Orders[i]
			var holdExpires any
			if !o.HoldExpiresAt.IsZero() {
				holdExpires = o.HoldExpiresAt.UnixMilli()
			}
			last := order.Settlement{}
			var lastSeq any
			if o.Last != nil {
				last, lastSeq = *o.Last, o.Last.Seq
			}
			return []any{o.ID, o.State, o.Version, o.Customer, o.Currency, o.HoldSeconds, writeLines(o.Lines), o.Total,
				holdExpires, o.CreatedAt.UnixMilli(), o.UpdatedAt.UnixMilli(), o.Seq, o.Fingerprint,
				last.Operation, lastSeq, last.Outcome, database.WriteProblem(last.Problem)}
		}); err != nil {
		return fmt.Errorf("write orders: %w", err)
	}
	// Settle intents before opening new ones, because an order has at most one
	// unsettled intent. An intent that was opened and settled in this batch is inserted
	// as settled.
	ended := map[string]order.Settlement{}
	if err := s.each(len(c.Closed), `UPDATE intents SET settled_at = ?, outcome = ?, problem = ?
		WHERE order_id = ? AND seq = ? AND settled_at IS NULL`,
		func(i int) []any {
			in := c.Closed[i]
			ended[intentKey(in.OrderID, in.Seq)] = in.Settlement
			return []any{now.UnixMilli(), in.Outcome, database.WriteProblem(in.Problem), in.OrderID, in.Seq}
		}); err != nil {
		return fmt.Errorf("settle intents: %w", err)
	}
	if err := s.each(len(c.Opened), `INSERT INTO intents (order_id, seq, operation, since, lines, fingerprint, settled_at, outcome, problem)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		func(i int) []any {
			in := c.Opened[i]
			var lines, settledAt, outcome, problem any
			if in.Lines != nil {
				lines = writeLines(in.Lines)
			}
			if end, ok := ended[intentKey(in.OrderID, in.Seq)]; ok {
				settledAt, outcome, problem = now.UnixMilli(), end.Outcome, database.WriteProblem(end.Problem)
			}
			return []any{in.OrderID, in.Seq, in.Operation, in.Since.UnixMilli(), lines, in.Fingerprint, settledAt, outcome, problem}
		}); err != nil {
		return fmt.Errorf("write intents: %w", err)
	}
	return nil
}

// each runs a statement n times, with the arguments for each i.
func (s sqliteSession) each(n int, statement string, arguments func(i int) []any) error {
	if n == 0 {
		return nil
	}
	compiled, err := s.tx.Prepare(statement)
	if err != nil {
		return err
	}
	defer compiled.Close()
	for i := range n {
		if _, err := compiled.Exec(arguments(i)...); err != nil {
			return err
		}
	}
	return nil
}

// Order returns not-found if there is none with that id.
func (s *SQLite) Order(ctx context.Context, id string) (order.Order, error) {
	found, err := database.ReadSQLiteRows(ctx, s.db, func(tx *sql.Tx) ([]order.Order, error) {
		return sqliteOrders(tx, "o.id = ?", id)
	})
	return database.One(found, err, "There is no order %s.", id)
}

// Orders lists orders, the newest first.
func (s *SQLite) Orders(ctx context.Context, state order.State, customer string, page order.Page) ([]order.Order, string, error) {
	created, id := int64(math.MaxInt64), ""
	if err := database.DecodeCursor(page.Cursor, &created, &id); err != nil {
		return nil, "", err
	}
	// Each combination of filters is a separate statement, so that SQLite can use its
	// index.
	where, args := "(o.created_at, o.id) < (?, ?)", []any{created, id}
	if state != "" {
		where, args = where+" AND o.state = ?", append(args, state)
	}
	if customer != "" {
		where, args = where+" AND o.customer = ?", append(args, customer)
	}
	found, err := database.ReadSQLiteRows(ctx, s.db, func(tx *sql.Tx) ([]order.Order, error) {
		return sqliteOrders(tx, where+" ORDER BY o.created_at DESC, o.id DESC LIMIT ?", append(args, page.Limit+1)...)
	})
	found, next := database.Page(found, page.Limit, listKey)
	return found, next, err
}

// Settlement returns not-found if the operation is not settled or there is none.
func (s *SQLite) Settlement(ctx context.Context, id string, seq int64) (order.Settlement, error) {
	found, err := database.ReadSQLiteRows(ctx, s.db, func(tx *sql.Tx) (found []order.Settlement, err error) {
		err = database.Each(tx, func(rows *sql.Rows) error {
			settlement := order.Settlement{Seq: seq}
			var rejection *string
			if err := rows.Scan(&settlement.Operation, &settlement.Outcome, &rejection); err != nil {
				return err
			}
			var err error
			settlement.Problem, err = database.ReadProblem(rejection)
			found = append(found, settlement)
			return err
		}, `SELECT operation, outcome, problem FROM intents
			WHERE order_id = ? AND seq = ? AND settled_at IS NOT NULL`, id, seq)
		return found, err
	})
	return database.One(found, err, "Order %s has no settled operation %d.", id, seq)
}

// LeaseUnsettled leases orders that have an intent recorded before a time.
func (s *SQLite) LeaseUnsettled(ctx context.Context, before time.Time, lease time.Duration, limit int) ([]order.Order, error) {
	return s.lease(ctx, lease, `SELECT i.order_id FROM intents i INDEXED BY intents_oldest JOIN orders o ON o.id = i.order_id
		WHERE i.settled_at IS NULL AND i.since < ? AND o.leased_until <= ? ORDER BY i.since LIMIT ?`, before, limit)
}

// LeaseExpiredHolds leases placed orders whose hold ended before a time.
func (s *SQLite) LeaseExpiredHolds(ctx context.Context, before time.Time, lease time.Duration, limit int) ([]order.Order, error) {
	return s.lease(ctx, lease, `SELECT o.id FROM orders o INDEXED BY orders_by_hold LEFT JOIN intents i ON i.order_id = o.id AND i.settled_at IS NULL
		WHERE o.state = 'placed' AND o.hold_expires_at < ? AND o.leased_until <= ? AND i.seq IS NULL
		ORDER BY o.hold_expires_at LIMIT ?`, before, limit)
}

// lease leases the orders that query selects. It reads before it writes: most of the
// time there is nothing to lease, and a read does not wait for the only writer.
func (s *SQLite) lease(ctx context.Context, lease time.Duration, query string, before time.Time, limit int) ([]order.Order, error) {
	now := time.Now()
	due := false
	err := s.db.Read(ctx, func(tx *sql.Tx) error {
		return tx.QueryRow("SELECT EXISTS ("+query+")", before.UnixMilli(), now.UnixMilli(), limit).Scan(&due)
	})
	if err != nil || !due {
		return nil, err
	}
	var taken []order.Order
	err = s.db.Write(ctx, func(tx *sql.Tx) error {
		ids, err := database.Strings(tx, "UPDATE orders SET leased_until = ? WHERE id IN ("+query+") RETURNING id",
			now.Add(lease).UnixMilli(), before.UnixMilli(), now.UnixMilli(), limit)
		if err != nil {
			return err
		}
		taken, err = sqliteSession{tx}.orders(ids)
		return err
	})
	return taken, err
}

// CountUnsettled counts the intents that are not settled.
func (s *SQLite) CountUnsettled(ctx context.Context) (count int64, oldest time.Time, err error) {
	var since sql.NullInt64
	err = s.db.Read(ctx, func(tx *sql.Tx) error {
		return tx.QueryRow("SELECT count(*), min(since) FROM intents WHERE settled_at IS NULL").Scan(&count, &since)
	})
	if since.Valid {
		oldest = time.UnixMilli(since.Int64)
	}
	return count, oldest, err
}
