package store

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"roundtrip/internal/commit"
	"roundtrip/internal/database"
	"roundtrip/services/orders/internal/order"
)

// Postgres keeps orders in a PostgreSQL database.
type Postgres struct {
	*commit.Group[order.Command, order.Result]
	db *database.Postgres
}

func newPostgres(db *database.Postgres, o commit.Options) *Postgres {
	return &Postgres{newGroup(func(ctx context.Context, f func(session) error) error {
		return db.Write(ctx, func(ctx context.Context, tx pgx.Tx) error { return f(postgresSession{ctx, tx}) })
	}, o), db}
}

// Close closes the database.
func (s *Postgres) Close() error { return s.db.Close() }

// postgresSession is a transaction. It locks orders sorted by id.
type postgresSession struct {
	ctx context.Context
	tx  pgx.Tx
}

// orders locks the rows first and reads them with a second statement, which sees what
// the previous holder of the lock has committed. An order that does not exist can't be
// locked. If two transactions create the same order, the primary key stops one of them,
// and that one runs again.
func (s postgresSession) orders(ids []string) ([]order.Order, error) {
	if _, err := s.tx.Exec(s.ctx, "SELECT FROM orders WHERE id = ANY($1) ORDER BY id FOR UPDATE", ids); err != nil {
		return nil, fmt.Errorf("lock orders: %w", err)
	}
	return postgresOrders(s.ctx, s.tx, "o.id = ANY($1) ORDER BY o.id", ids)
}

// postgresOrders loads orders with their unsettled intents. The condition ends with the
// sort order.
func postgresOrders(ctx context.Context, tx pgx.Tx, condition string, args ...any) ([]order.Order, error) {
	rows, err := tx.Query(ctx, `SELECT o.id, o.state, o.version, o.customer, o.currency, o.hold_seconds, o.lines, o.total,
			o.hold_expires_at, o.created_at, o.updated_at, o.seq, o.fingerprint,
			o.last_operation, o.last_seq, o.last_outcome, o.last_problem,
			i.seq, i.operation, i.since, i.lines, i.fingerprint
		FROM orders o LEFT JOIN intents i ON i.order_id = o.id AND i.settled_at IS NULL
		WHERE `+condition, args...)
	if err != nil {
		return nil, fmt.Errorf("load orders: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (order.Order, error) {
		var o order.Order
		var holdExpires, since *time.Time
		var lastSeq, intentSeq *int64
		var lines string
		var lastOperation, lastOutcome, lastProblem, intentOperation, intentLines, intentFingerprint *string
		if err := row.Scan(&o.ID, &o.State, &o.Version, &o.Customer, &o.Currency, &o.HoldSeconds, &lines, &o.Total,
			&holdExpires, &o.CreatedAt, &o.UpdatedAt, &o.Seq, &o.Fingerprint,
			&lastOperation, &lastSeq, &lastOutcome, &lastProblem,
			&intentSeq, &intentOperation, &since, &intentLines, &intentFingerprint); err != nil {
			return o, err
		}
		if holdExpires != nil {
			o.HoldExpiresAt = *holdExpires
		}
		var err error
		if o.Lines, err = readLines(lines); err != nil {
			return o, err
		}
		if lastSeq != nil {
			o.Last = &order.Settlement{Operation: order.Operation(*lastOperation), Seq: *lastSeq, Outcome: order.OutcomeKind(*lastOutcome)}
			if o.Last.Problem, err = database.ReadProblem(lastProblem); err != nil {
				return o, err
			}
		}
		if intentSeq != nil {
			o.Intent = &order.Intent{
				Operation: order.Operation(*intentOperation), Seq: *intentSeq, Since: *since, Fingerprint: *intentFingerprint,
			}
			if intentLines != nil {
				o.Intent.Lines, err = readLines(*intentLines)
			}
		}
		return o, err
	})
}

// write writes all changes in one round trip, with at most four statements for a batch
// of any length.
func (s postgresSession) write(now time.Time, c order.Changes) error {
	var made, changed []order.Order
	for _, o := range c.Orders {
		if c.Created[o.ID] {
			made = append(made, o)
		} else {
			changed = append(changed, o)
		}
	}
	const columns = `$1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::bigint[],
		$9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::bigint[], $13::text[], $14::text[], $15::bigint[], $16::text[], $17::text[]`
	const names = `id, state, version, customer, currency, hold_seconds, lines, total,
		hold_expires_at, created_at, updated_at, seq, fingerprint, last_operation, last_seq, last_outcome, last_problem`
	steps := &pgx.Batch{}
	if len(made) > 0 {
		steps.Queue(`INSERT INTO orders (`+names+`) SELECT * FROM unnest(`+columns+`)`, orderColumns(made)...)
	}
	if len(changed) > 0 {
		steps.Queue(`UPDATE orders o SET state = u.state, version = u.version, lines = u.lines, total = u.total,
				hold_expires_at = u.hold_expires_at, updated_at = u.updated_at, seq = u.seq, last_operation = u.last_operation,
				last_seq = u.last_seq, last_outcome = u.last_outcome, last_problem = u.last_problem, leased_until = '-infinity'
			FROM unnest(`+columns+`) AS u (`+names+`) WHERE o.id = u.id`, orderColumns(changed)...)
	}
	// Settle intents before opening new ones, because an order has at most one
	// unsettled intent. An intent that was opened and settled in this batch is inserted
	// as settled.
	ended := map[string]order.Settlement{}
	for _, in := range c.Closed {
		ended[intentKey(in.OrderID, in.Seq)] = in.Settlement
	}
	if rows := c.Closed; len(rows) > 0 {
		steps.Queue(`UPDATE intents i SET settled_at = $1, outcome = u.outcome, problem = u.problem
			FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[]) AS u (order_id, seq, outcome, problem)
			WHERE i.order_id = u.order_id AND i.seq = u.seq AND i.settled_at IS NULL`, now,
			database.Column(rows, func(in order.ClosedIntent) string { return in.OrderID }), database.Column(rows, func(in order.ClosedIntent) int64 { return in.Seq }),
			database.Column(rows, func(in order.ClosedIntent) string { return string(in.Outcome) }),
			database.Column(rows, func(in order.ClosedIntent) *string { return database.WriteProblem(in.Problem) }))
	}
	if rows := c.Opened; len(rows) > 0 {
		end := func(in order.OpenedIntent) (order.Settlement, bool) {
			settled, ok := ended[intentKey(in.OrderID, in.Seq)]
			return settled, ok
		}
		steps.Queue(`INSERT INTO intents (order_id, seq, operation, since, lines, fingerprint, settled_at, outcome, problem)
			SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::timestamptz[], $8::text[], $9::text[])`,
			database.Column(rows, func(in order.OpenedIntent) string { return in.OrderID }), database.Column(rows, func(in order.OpenedIntent) int64 { return in.Seq }),
			database.Column(rows, func(in order.OpenedIntent) string { return string(in.Operation) }),
			database.Column(rows, func(in order.OpenedIntent) time.Time { return in.Since }),
			database.Column(rows, func(in order.OpenedIntent) *string {
				if in.Lines == nil {
					return nil
				}
				text := writeLines(in.Lines)
				return &text
			}),
			database.Column(rows, func(in order.OpenedIntent) string { return in.Fingerprint }),
			database.Column(rows, func(in order.OpenedIntent) *time.Time {
				if _, ok := end(in); ok {
					return &now
				}
				return nil
			}),
			database.Column(rows, func(in order.OpenedIntent) *string {
				if settled, ok := end(in); ok {
					return (*string)(&settled.Outcome)
				}
				return nil
			}),
			database.Column(rows, func(in order.OpenedIntent) *string {
				settled, _ := end(in)
				return database.WriteProblem(settled.Problem)
			}))
	}
	if err := s.tx.SendBatch(s.ctx, steps).Close(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// orderColumns returns the columns of orders, in the same order as names in write.
func orderColumns(rows []order.Order) []any {
	last := func(o order.Order) order.Settlement {
		if o.Last == nil {
			return order.Settlement{}
		}
		return *o.Last
	}
	return []any{
		database.Column(rows, func(o order.Order) string { return o.ID }),
		database.Column(rows, func(o order.Order) string { return string(o.State) }),
		database.Column(rows, func(o order.Order) int64 { return o.Version }),
		database.Column(rows, func(o order.Order) string { return o.Customer }),
		database.Column(rows, func(o order.Order) string { return o.Currency }),
		database.Column(rows, func(o order.Order) int64 { return o.HoldSeconds }),
		database.Column(rows, func(o order.Order) string { return writeLines(o.Lines) }),
		database.Column(rows, func(o order.Order) int64 { return o.Total }),
		database.Column(rows, func(o order.Order) *time.Time {
			if o.HoldExpiresAt.IsZero() {
				return nil
			}
			return &o.HoldExpiresAt
		}),
		database.Column(rows, func(o order.Order) time.Time { return o.CreatedAt }),
		database.Column(rows, func(o order.Order) time.Time { return o.UpdatedAt }),
		database.Column(rows, func(o order.Order) int64 { return o.Seq }),
		database.Column(rows, func(o order.Order) string { return o.Fingerprint }),
		database.Column(rows, func(o order.Order) string { return string(last(o).Operation) }),
		database.Column(rows, func(o order.Order) *int64 {
			if o.Last == nil {
				return nil
			}
			return &o.Last.Seq
		}),
		database.Column(rows, func(o order.Order) string { return string(last(o).Outcome) }),
		database.Column(rows, func(o order.Order) *string { return database.WriteProblem(last(o).Problem) }),
	}
}

// Order returns not-found if there is none with that id.
func (s *Postgres) Order(ctx context.Context, id string) (order.Order, error) {
	found, err := database.ReadRows(ctx, s.db, func(ctx context.Context, tx pgx.Tx) ([]order.Order, error) {
		return postgresOrders(ctx, tx, "o.id = $1", id)
	})
	return database.One(found, err, "There is no order %s.", id)
}

// Orders lists orders, the newest first.
func (s *Postgres) Orders(ctx context.Context, state order.State, customer string, page order.Page) ([]order.Order, string, error) {
	created, id := int64(math.MaxInt64), ""
	if err := database.DecodeCursor(page.Cursor, &created, &id); err != nil {
		return nil, "", err
	}
	where, args := "(o.created_at, o.id) < ($1, $2)", []any{database.PostgresTime(created), id, page.Limit + 1}
	for _, filter := range []struct{ column, value string }{{"state", string(state)}, {"customer", customer}} {
		if filter.value != "" {
			args = append(args, filter.value)
			where += fmt.Sprintf(" AND o.%s = $%d", filter.column, len(args))
		}
	}
	found, err := database.ReadRows(ctx, s.db, func(ctx context.Context, tx pgx.Tx) ([]order.Order, error) {
		return postgresOrders(ctx, tx, where+" ORDER BY o.created_at DESC, o.id DESC LIMIT $3", args...)
	})
	found, next := database.Page(found, page.Limit, listKey)
	return found, next, err
}

// Settlement returns not-found if the operation is not settled or there is none.
func (s *Postgres) Settlement(ctx context.Context, id string, seq int64) (order.Settlement, error) {
	found, err := database.ReadRows(ctx, s.db, func(ctx context.Context, tx pgx.Tx) ([]order.Settlement, error) {
		rows, err := tx.Query(ctx, `SELECT operation, outcome, problem FROM intents
			WHERE order_id = $1 AND seq = $2 AND settled_at IS NOT NULL`, id, seq)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, func(row pgx.CollectableRow) (order.Settlement, error) {
			settlement := order.Settlement{Seq: seq}
			var rejection *string
			if err := row.Scan(&settlement.Operation, &settlement.Outcome, &rejection); err != nil {
				return settlement, err
			}
			var err error
			settlement.Problem, err = database.ReadProblem(rejection)
			return settlement, err
		})
	})
	return database.One(found, err, "Order %s has no settled operation %d.", id, seq)
}

// LeaseUnsettled leases orders that have an intent recorded before a time.
func (s *Postgres) LeaseUnsettled(ctx context.Context, before time.Time, lease time.Duration, limit int) ([]order.Order, error) {
	return s.lease(ctx, lease, `SELECT o.id FROM intents i JOIN orders o ON o.id = i.order_id
		WHERE i.settled_at IS NULL AND i.since < $2 AND o.leased_until <= $3 ORDER BY i.since LIMIT $4
		FOR UPDATE OF o SKIP LOCKED`, before, limit)
}

// LeaseExpiredHolds leases placed orders whose hold ended before a time.
func (s *Postgres) LeaseExpiredHolds(ctx context.Context, before time.Time, lease time.Duration, limit int) ([]order.Order, error) {
	return s.lease(ctx, lease, `SELECT o.id FROM orders o
		WHERE o.state = 'placed' AND o.hold_expires_at < $2 AND o.leased_until <= $3
		AND NOT EXISTS (SELECT FROM intents i WHERE i.order_id = o.id AND i.settled_at IS NULL)
		ORDER BY o.hold_expires_at LIMIT $4 FOR UPDATE OF o SKIP LOCKED`, before, limit)
}

// lease leases the orders that query selects. It skips locked rows, because the holder
// of the lock is about to settle them.
func (s *Postgres) lease(ctx context.Context, lease time.Duration, query string, before time.Time, limit int) ([]order.Order, error) {
	now := time.Now()
	var taken []order.Order
	err := s.db.Write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `WITH due AS (`+query+`)
			UPDATE orders SET leased_until = $1 FROM due WHERE orders.id = due.id RETURNING orders.id`, now.Add(lease), before, now, limit)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(ids) == 0 {
			return err
		}
		taken, err = postgresOrders(ctx, tx, "o.id = ANY($1) ORDER BY o.id", ids)
		return err
	})
	return taken, err
}

// CountUnsettled counts the intents that are not settled.
func (s *Postgres) CountUnsettled(ctx context.Context) (count int64, oldest time.Time, err error) {
	var since *time.Time
	err = s.db.Read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT count(*), min(since) FROM intents WHERE settled_at IS NULL").Scan(&count, &since)
	})
	if since != nil {
		oldest = *since
	}
	return count, oldest, err
}
