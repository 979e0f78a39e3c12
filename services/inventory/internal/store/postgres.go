package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"roundtrip/internal/commit"
	"roundtrip/internal/database"
	"roundtrip/services/inventory/internal/stock"
)

// Postgres keeps stock in a PostgreSQL database.
type Postgres struct {
	*commit.Group[stock.Command, stock.Result]
	db *database.Postgres
}

func newPostgres(db *database.Postgres, o commit.Options) *Postgres {
	return &Postgres{newGroup(func(ctx context.Context, f func(session) error) error {
		return db.Write(ctx, func(ctx context.Context, tx pgx.Tx) error { return f(postgresSession{ctx, tx}) })
	}, o), db}
}

// Close closes the database.
func (s *Postgres) Close() error { return s.db.Close() }

// postgresSession is a transaction. It locks rows in the order of their keys, and
// reservations before levels. With any other order, transactions could deadlock.
type postgresSession struct {
	ctx context.Context
	tx  pgx.Tx
}

func locations(keys []stock.Key) []string {
	return database.Column(keys, func(k stock.Key) string { return k.Location })
}
func skus(keys []stock.Key) []string {
	return database.Column(keys, func(k stock.Key) string { return k.SKU })
}

func (s postgresSession) reservations(ids []string) ([]stock.Reservation, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	// First insert the missing rows, so that two transactions can't both find a row
	// missing. Then lock all rows. Then read them: these statements see what the last
	// holder of the lock has committed.
	steps := &pgx.Batch{}
	steps.Queue(`INSERT INTO reservations (id, seq, state, created_at)
		SELECT id, 0, 'none', now() FROM unnest($1::text[]) AS id ORDER BY id ON CONFLICT DO NOTHING`, ids)
	steps.Queue(`SELECT FROM reservations WHERE id = ANY($1) ORDER BY id FOR UPDATE`, ids)
	if err := s.tx.SendBatch(s.ctx, steps).Close(); err != nil {
		return nil, fmt.Errorf("lock reservations: %w", err)
	}
	return postgresReservations(s.ctx, s.tx, "r.id = ANY($1) AND r.seq > 0 ORDER BY r.id", ids)
}

// postgresReservations loads reservations with their last outcome and their lines. The
// condition ends with the sort order.
func postgresReservations(ctx context.Context, tx pgx.Tx, condition string, args ...any) ([]stock.Reservation, error) {
	rows, err := tx.Query(ctx, `SELECT r.id, r.seq, r.state, r.expires_at, r.created_at, o.asked, o.fingerprint, o.problem, o.at
		FROM reservations r JOIN outcomes o ON o.reservation_id = r.id AND o.seq = r.seq WHERE `+condition, args...)
	if err != nil {
		return nil, fmt.Errorf("load reservations: %w", err)
	}
	loaded, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (stock.Reservation, error) {
		var r stock.Reservation
		var expires *time.Time
		var rejection *string
		if err := row.Scan(&r.ID, &r.Seq, &r.State, &expires, &r.CreatedAt,
			&r.Last.Asked, &r.Last.Fingerprint, &rejection, &r.Last.At); err != nil {
			return r, err
		}
		if expires != nil {
			r.ExpiresAt = *expires
		}
		r.Last.ReservationID, r.Last.Seq = r.ID, r.Seq
		var err error
		r.Last.Problem, err = database.ReadProblem(rejection)
		return r, err
	})
	if err != nil || len(loaded) == 0 {
		return nil, err
	}
	place := make(map[string]int, len(loaded))
	for i, r := range loaded {
		place[r.ID] = i
	}
	rows, err = tx.Query(ctx, `SELECT reservation_id, location, sku, quantity FROM reservation_lines
		WHERE reservation_id = ANY($1) ORDER BY reservation_id, location, sku`,
		database.Column(loaded, func(r stock.Reservation) string { return r.ID }))
	if err != nil {
		return nil, fmt.Errorf("load reservations' lines: %w", err)
	}
	var id string
	var l stock.Line
	_, err = pgx.ForEachRow(rows, []any{&id, &l.Location, &l.SKU, &l.Quantity}, func() error {
		r := &loaded[place[id]]
		r.Lines = append(r.Lines, l)
		return nil
	})
	return loaded, err
}

func (s postgresSession) levels(wanted, makes []stock.Key) ([]stock.Level, error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	if len(makes) > 0 {
		if _, err := s.tx.Exec(s.ctx, `INSERT INTO levels (location, sku)
			SELECT * FROM unnest($1::text[], $2::text[]) AS k (location, sku) ORDER BY location, sku ON CONFLICT DO NOTHING`,
			locations(makes), skus(makes)); err != nil {
			return nil, fmt.Errorf("make levels: %w", err)
		}
	}
	return postgresLevels(s.ctx, s.tx, `WHERE (l.location, l.sku) IN (SELECT * FROM unnest($1::text[], $2::text[]))
		ORDER BY l.location, l.sku FOR UPDATE`, locations(wanted), skus(wanted))
}

// postgresLevels loads the levels that exist. A level with version 0 does not exist: its
// row was inserted only to be locked.
func postgresLevels(ctx context.Context, tx pgx.Tx, condition string, args ...any) ([]stock.Level, error) {
	rows, err := tx.Query(ctx, `SELECT l.location, l.sku, l.name, l.on_hand, l.reserved, l.version FROM levels l `+condition, args...)
	if err != nil {
		return nil, fmt.Errorf("load levels: %w", err)
	}
	var levels []stock.Level
	var l stock.Level
	_, err = pgx.ForEachRow(rows, []any{&l.Location, &l.SKU, &l.Name, &l.OnHand, &l.Reserved, &l.Version}, func() error {
		if l.Version > 0 {
			levels = append(levels, l)
		}
		return nil
	})
	return levels, err
}

func (s postgresSession) adjustments(ids []string) ([]stock.Adjustment, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	return postgresAdjustments(s.ctx, s.tx, ids)
}

// postgresAdjustments loads adjustments. It needs no lock, because an adjustment is
// written once. If two transactions write the same adjustment, the primary key stops one
// of them, and that one runs again.
func postgresAdjustments(ctx context.Context, tx pgx.Tx, ids []string) ([]stock.Adjustment, error) {
	rows, err := tx.Query(ctx, `SELECT id, location, sku, delta, on_hand, expected_on_hand, reason, note, fingerprint, problem, level, created_at
		FROM adjustments WHERE id = ANY($1)`, ids)
	if err != nil {
		return nil, fmt.Errorf("load adjustments: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (stock.Adjustment, error) {
		var a stock.Adjustment
		var rejection *string
		var level string
		if err := row.Scan(&a.ID, &a.Location, &a.SKU, &a.Delta, &a.OnHand, &a.ExpectedOnHand, &a.Reason, &a.Note,
			&a.Fingerprint, &rejection, &level, &a.CreatedAt); err != nil {
			return a, err
		}
		var err error
		if a.Problem, err = database.ReadProblem(rejection); err != nil {
			return a, err
		}
		return a, json.Unmarshal([]byte(level), &a.Level)
	})
}

func (s postgresSession) due(levels []stock.Key, now time.Time) ([]string, error) {
	rows, err := s.tx.Query(s.ctx, `SELECT DISTINCT r.id
		FROM reservations r JOIN reservation_lines l ON l.reservation_id = r.id
		WHERE r.state = 'held' AND r.expires_at <= $1
		AND (l.location, l.sku) IN (SELECT * FROM unnest($2::text[], $3::text[]))`, now, locations(levels), skus(levels))
	if err != nil {
		return nil, fmt.Errorf("find due holds: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// write writes all changes in one round trip. It needs at most six statements for a
// batch of any length, and one more for each adjustment. The rows that it updates
// already exist and are locked.
func (s postgresSession) write(c stock.Changes) error {
	steps := &pgx.Batch{}
	if rows := c.Levels; len(rows) > 0 {
		steps.Queue(`UPDATE levels l SET name = u.name, on_hand = u.on_hand, reserved = u.reserved, version = u.version
			FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
			AS u (location, sku, name, on_hand, reserved, version) WHERE l.location = u.location AND l.sku = u.sku`,
			database.Column(rows, func(l stock.Level) string { return l.Location }), database.Column(rows, func(l stock.Level) string { return l.SKU }),
			database.Column(rows, func(l stock.Level) string { return l.Name }), database.Column(rows, func(l stock.Level) int64 { return l.OnHand }),
			database.Column(rows, func(l stock.Level) int64 { return l.Reserved }), database.Column(rows, func(l stock.Level) int64 { return l.Version }))
	}
	if rows := c.Reservations; len(rows) > 0 {
		steps.Queue(`UPDATE reservations r SET seq = u.seq, state = u.state, expires_at = u.expires_at, created_at = u.created_at
			FROM unnest($1::text[], $2::bigint[], $3::text[], $4::timestamptz[], $5::timestamptz[])
			AS u (id, seq, state, expires_at, created_at) WHERE r.id = u.id`,
			database.Column(rows, func(r stock.Reservation) string { return r.ID }), database.Column(rows, func(r stock.Reservation) int64 { return r.Seq }),
			database.Column(rows, func(r stock.Reservation) string { return string(r.State) }),
			database.Column(rows, func(r stock.Reservation) *time.Time { return optional(r.ExpiresAt) }),
			database.Column(rows, func(r stock.Reservation) time.Time { return r.CreatedAt }))
	}
	if held := newLines(c); len(held) > 0 {
		var replaced, ids []string
		var lines []stock.Line
		for _, r := range c.Reservations {
			if !held[r.ID] {
				continue
			}
			replaced = append(replaced, r.ID)
			for _, l := range r.Lines {
				ids, lines = append(ids, r.ID), append(lines, l)
			}
		}
		steps.Queue(`DELETE FROM reservation_lines WHERE reservation_id = ANY($1)`, replaced)
		steps.Queue(`INSERT INTO reservation_lines (reservation_id, location, sku, quantity)
			SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[])`, ids,
			database.Column(lines, func(l stock.Line) string { return l.Location }), database.Column(lines, func(l stock.Line) string { return l.SKU }),
			database.Column(lines, func(l stock.Line) int64 { return l.Quantity }))
	}
	if rows := c.Outcomes; len(rows) > 0 {
		steps.Queue(`INSERT INTO outcomes (reservation_id, seq, asked, fingerprint, problem, at)
			SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])`,
			database.Column(rows, func(o stock.Outcome) string { return o.ReservationID }), database.Column(rows, func(o stock.Outcome) int64 { return o.Seq }),
			database.Column(rows, func(o stock.Outcome) string { return string(o.Asked) }), database.Column(rows, func(o stock.Outcome) string { return o.Fingerprint }),
			database.Column(rows, func(o stock.Outcome) *string { return database.WriteProblem(o.Problem) }), database.Column(rows, func(o stock.Outcome) time.Time { return o.At }))
	}
	if rows := c.Entries; len(rows) > 0 {
		steps.Queue(`INSERT INTO ledger (at, location, sku, on_hand_delta, reserved_delta, on_hand, reserved, reason, ref, seq)
			SELECT at, location, sku, on_hand_delta, reserved_delta, on_hand, reserved, reason, ref, seq
			FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::bigint[])
			WITH ORDINALITY AS u (at, location, sku, on_hand_delta, reserved_delta, on_hand, reserved, reason, ref, seq, place) ORDER BY place`,
			database.Column(rows, func(e stock.Entry) time.Time { return e.At }), database.Column(rows, func(e stock.Entry) string { return e.Location }),
			database.Column(rows, func(e stock.Entry) string { return e.SKU }), database.Column(rows, func(e stock.Entry) int64 { return e.OnHandDelta }),
			database.Column(rows, func(e stock.Entry) int64 { return e.ReservedDelta }), database.Column(rows, func(e stock.Entry) int64 { return e.OnHand }),
			database.Column(rows, func(e stock.Entry) int64 { return e.Reserved }), database.Column(rows, func(e stock.Entry) string { return string(e.Reason) }),
			database.Column(rows, func(e stock.Entry) string { return e.Ref }), database.Column(rows, func(e stock.Entry) int64 { return e.Seq }))
	}
	for _, a := range c.Adjustments {
		level, err := json.Marshal(a.Level)
		if err != nil {
			return err
		}
		steps.Queue(`INSERT INTO adjustments (id, location, sku, delta, on_hand, expected_on_hand, reason, note, fingerprint, problem, level, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`, a.ID, a.Location, a.SKU, a.Delta, a.OnHand, a.ExpectedOnHand,
			string(a.Reason), a.Note, a.Fingerprint, database.WriteProblem(a.Problem), string(level), a.CreatedAt)
	}
	if err := s.tx.SendBatch(s.ctx, steps).Close(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// Reservation returns one reservation, or not-found if there is none with that id.
func (s *Postgres) Reservation(ctx context.Context, id string) (stock.Reservation, error) {
	found, err := database.ReadRows(ctx, s.db, func(ctx context.Context, tx pgx.Tx) ([]stock.Reservation, error) {
		return postgresReservations(ctx, tx, "r.id = $1", id)
	})
	return database.One(found, err, "There is no reservation %s.", id)
}

// Reservations lists reservations, the newest first.
func (s *Postgres) Reservations(ctx context.Context, state stock.State, page stock.Page) ([]stock.Reservation, string, error) {
	var id string
	created, err := newestFirst(page.Cursor, &id)
	if err != nil {
		return nil, "", err
	}
	found, err := database.ReadRows(ctx, s.db, func(ctx context.Context, tx pgx.Tx) ([]stock.Reservation, error) {
		// A due hold reads as expired.
		return postgresReservations(ctx, tx, `(r.created_at, r.id) < ($1, $2)
			AND ($3 = '' OR $3 = CASE WHEN r.state = 'held' AND r.expires_at <= $4 THEN 'expired' ELSE r.state END)
			ORDER BY r.created_at DESC, r.id DESC LIMIT $5`,
			database.PostgresTime(created), id, string(state), time.Now(), page.Limit+1)
	})
	found, next := database.Page(found, page.Limit, reservationKey)
	return found, next, err
}

// Levels returns the levels of these SKUs at every location.
func (s *Postgres) Levels(ctx context.Context, skus []string) ([]stock.Level, error) {
	return database.ReadRows(ctx, s.db, func(ctx context.Context, tx pgx.Tx) ([]stock.Level, error) {
		return postgresLevels(ctx, tx, `WHERE l.sku = ANY($1) ORDER BY l.location, l.sku`, skus)
	})
}

// AllLevels lists every level, by location and SKU.
func (s *Postgres) AllLevels(ctx context.Context, page stock.Page) ([]stock.Level, string, error) {
	var after stock.Key
	if err := database.DecodeCursor(page.Cursor, &after.Location, &after.SKU); err != nil {
		return nil, "", err
	}
	levels, err := database.ReadRows(ctx, s.db, func(ctx context.Context, tx pgx.Tx) ([]stock.Level, error) {
		return postgresLevels(ctx, tx, `WHERE (l.location, l.sku) > ($1, $2) AND l.version > 0
			ORDER BY l.location, l.sku LIMIT $3`, after.Location, after.SKU, page.Limit+1)
	})
	levels, next := database.Page(levels, page.Limit, levelKey)
	return levels, next, err
}

// Adjustment returns one adjustment, or not-found if there is none with that id.
func (s *Postgres) Adjustment(ctx context.Context, id string) (stock.Adjustment, error) {
	found, err := database.ReadRows(ctx, s.db, func(ctx context.Context, tx pgx.Tx) ([]stock.Adjustment, error) {
		return postgresAdjustments(ctx, tx, []string{id})
	})
	return database.One(found, err, "There is no adjustment %s.", id)
}

// Ledger lists entries, the newest first.
func (s *Postgres) Ledger(ctx context.Context, sku, ref string, page stock.Page) ([]stock.Entry, string, error) {
	before, err := newestFirst(page.Cursor)
	if err != nil {
		return nil, "", err
	}
	where, args := "id < $1", []any{before, page.Limit + 1}
	for _, filter := range []struct{ column, value string }{{"sku", sku}, {"ref", ref}} {
		if filter.value != "" {
			args = append(args, filter.value)
			where += fmt.Sprintf(" AND %s = $%d", filter.column, len(args))
		}
	}
	entries, err := database.ReadRows(ctx, s.db, func(ctx context.Context, tx pgx.Tx) ([]stock.Entry, error) {
		rows, err := tx.Query(ctx, `SELECT id, at, sku, location, on_hand_delta, reserved_delta, on_hand, reserved, reason, ref, seq
			FROM ledger WHERE `+where+` ORDER BY id DESC LIMIT $2`, args...)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowToStructByPos[stock.Entry])
	})
	entries, next := database.Page(entries, page.Limit, entryKey)
	return entries, next, err
}

// Due lists the ids of due holds, the oldest first.
func (s *Postgres) Due(ctx context.Context, now time.Time, limit int) ([]string, error) {
	return database.ReadRows(ctx, s.db, func(ctx context.Context, tx pgx.Tx) ([]string, error) {
		rows, err := tx.Query(ctx, `SELECT id FROM reservations WHERE state = 'held' AND expires_at <= $1
			ORDER BY expires_at LIMIT $2`, now, limit)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowTo[string])
	})
}

// Audit compares levels, ledger and reservations, in one snapshot.
func (s *Postgres) Audit(ctx context.Context, report func(stock.Difference)) error {
	return s.db.ReadAll(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL statement_timeout = 0; SET LOCAL enable_seqscan = on"); err != nil {
			return err
		}
		for _, audit := range audits {
			rows, err := tx.Query(ctx, audit.query)
			if err != nil {
				return fmt.Errorf("audit %s: %w", audit.what, err)
			}
			d := stock.Difference{What: audit.what}
			if _, err := pgx.ForEachRow(rows, []any{&d.Ref, &d.Expected, &d.Found}, func() error { report(d); return nil }); err != nil {
				return fmt.Errorf("audit %s: %w", audit.what, err)
			}
		}
		return nil
	})
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
