package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"roundtrip/internal/commit"
	"roundtrip/internal/database"
	"roundtrip/services/inventory/internal/stock"
)

// SQLite keeps stock in an SQLite database.
type SQLite struct {
	*commit.Group[stock.Command, stock.Result]
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
// that it loads need no locks. Its statements take a list of rows as JSON, so one
// statement handles any number of rows.
type sqliteSession struct{ tx *sql.Tx }

// row has the columns of one row, for json_each.
type row = []any

func keys(keys []stock.Key) string {
	rows := make([]row, len(keys))
	for i, k := range keys {
		rows[i] = row{k.Location, k.SKU}
	}
	return database.Rows(rows)
}

func (s sqliteSession) reservations(ids []string) ([]stock.Reservation, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	return sqliteReservations(s.tx, "r.id IN (SELECT value FROM json_each(?)) ORDER BY r.id", database.Rows(ids))
}

// sqliteReservations loads reservations with their last outcome and their lines. The
// condition ends with the sort order.
func sqliteReservations(tx *sql.Tx, condition string, args ...any) ([]stock.Reservation, error) {
	var loaded []stock.Reservation
	err := database.Each(tx, func(rows *sql.Rows) error {
		var r stock.Reservation
		var expires sql.NullInt64
		var created, at int64
		var rejection *string
		if err := rows.Scan(&r.ID, &r.Seq, &r.State, &expires, &created,
			&r.Last.Asked, &r.Last.Fingerprint, &rejection, &at); err != nil {
			return err
		}
		r.CreatedAt, r.ExpiresAt = time.UnixMilli(created), optionalTime(expires)
		r.Last.ReservationID, r.Last.Seq, r.Last.At = r.ID, r.Seq, time.UnixMilli(at)
		var err error
		if r.Last.Problem, err = database.ReadProblem(rejection); err != nil {
			return err
		}
		loaded = append(loaded, r)
		return nil
	}, `SELECT r.id, r.seq, r.state, r.expires_at, r.created_at, o.asked, o.fingerprint, o.problem, o.at
		FROM reservations r JOIN outcomes o ON o.reservation_id = r.id AND o.seq = r.seq
		WHERE `+condition, args...)
	if err != nil {
		return nil, fmt.Errorf("load reservations: %w", err)
	}
	place := make(map[string]int, len(loaded))
	ids := make([]string, len(loaded))
	for i, r := range loaded {
		place[r.ID], ids[i] = i, r.ID
	}
	err = database.Each(tx, func(rows *sql.Rows) error {
		var id string
		var l stock.Line
		if err := rows.Scan(&id, &l.Location, &l.SKU, &l.Quantity); err != nil {
			return err
		}
		r := &loaded[place[id]]
		r.Lines = append(r.Lines, l)
		return nil
	}, `SELECT reservation_id, location, sku, quantity FROM reservation_lines
		WHERE reservation_id IN (SELECT value FROM json_each(?)) ORDER BY reservation_id, location, sku`, database.Rows(ids))
	if err != nil {
		return nil, fmt.Errorf("load reservations' lines: %w", err)
	}
	return loaded, nil
}

func (s sqliteSession) levels(wanted, _ []stock.Key) ([]stock.Level, error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	return sqliteLevels(s.tx, `JOIN json_each(?) k ON l.location = k.value->>0 AND l.sku = k.value->>1`, keys(wanted))
}

func sqliteLevels(tx *sql.Tx, condition string, args ...any) ([]stock.Level, error) {
	var levels []stock.Level
	err := database.Each(tx, func(rows *sql.Rows) error {
		var l stock.Level
		err := rows.Scan(&l.Location, &l.SKU, &l.Name, &l.OnHand, &l.Reserved, &l.Version)
		levels = append(levels, l)
		return err
	}, `SELECT l.location, l.sku, l.name, l.on_hand, l.reserved, l.version FROM levels l `+condition, args...)
	if err != nil {
		return nil, fmt.Errorf("load levels: %w", err)
	}
	return levels, nil
}

func (s sqliteSession) adjustments(ids []string) ([]stock.Adjustment, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	var adjustments []stock.Adjustment
	err := database.Each(s.tx, func(rows *sql.Rows) error {
		var a stock.Adjustment
		var rejection *string
		var level string
		var created int64
		if err := rows.Scan(&a.ID, &a.Location, &a.SKU, &a.Delta, &a.OnHand, &a.ExpectedOnHand, &a.Reason, &a.Note,
			&a.Fingerprint, &rejection, &level, &created); err != nil {
			return err
		}
		a.CreatedAt = time.UnixMilli(created)
		var err error
		if a.Problem, err = database.ReadProblem(rejection); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(level), &a.Level); err != nil {
			return err
		}
		adjustments = append(adjustments, a)
		return nil
	}, `SELECT id, location, sku, delta, on_hand, expected_on_hand, reason, note, fingerprint, problem, level, created_at
		FROM adjustments WHERE id IN (SELECT value FROM json_each(?))`, database.Rows(ids))
	if err != nil {
		return nil, fmt.Errorf("load adjustments: %w", err)
	}
	return adjustments, nil
}

func (s sqliteSession) due(levels []stock.Key, now time.Time) ([]string, error) {
	ids, err := database.Strings(s.tx, `SELECT DISTINCT r.id
		FROM reservations r INDEXED BY reservations_due CROSS JOIN reservation_lines l ON l.reservation_id = r.id
		WHERE r.state = 'held' AND r.expires_at <= ?
		AND (l.location, l.sku) IN (SELECT value->>0, value->>1 FROM json_each(?))`, now.UnixMilli(), keys(levels))
	if err != nil {
		return nil, fmt.Errorf("find due holds: %w", err)
	}
	return ids, nil
}

// write writes all changes, with at most seven statements for a batch of any length.
func (s sqliteSession) write(c stock.Changes) error {
	var levels, reservations, lines, outcomes, entries, adjustments []row
	for _, l := range c.Levels {
		levels = append(levels, row{l.Location, l.SKU, l.Name, l.OnHand, l.Reserved, l.Version})
	}
	for _, o := range c.Outcomes {
		outcomes = append(outcomes, row{o.ReservationID, o.Seq, o.Asked, o.Fingerprint, database.WriteProblem(o.Problem), o.At.UnixMilli()})
	}
	held := newLines(c)
	var replaced []string
	for _, r := range c.Reservations {
		var expires any
		if !r.ExpiresAt.IsZero() {
			expires = r.ExpiresAt.UnixMilli()
		}
		reservations = append(reservations, row{r.ID, r.Seq, r.State, expires, r.CreatedAt.UnixMilli()})
		if held[r.ID] {
			replaced = append(replaced, r.ID)
			for _, l := range r.Lines {
				lines = append(lines, row{r.ID, l.Location, l.SKU, l.Quantity})
			}
		}
	}
	for _, e := range c.Entries {
		entries = append(entries, row{e.At.UnixMilli(), e.Location, e.SKU, e.OnHandDelta, e.ReservedDelta,
			e.OnHand, e.Reserved, e.Reason, e.Ref, e.Seq})
	}
	for _, a := range c.Adjustments {
		level, err := json.Marshal(a.Level)
		if err != nil {
			return err
		}
		adjustments = append(adjustments, row{a.ID, a.Location, a.SKU, a.Delta, a.OnHand, a.ExpectedOnHand, a.Reason, a.Note,
			a.Fingerprint, database.WriteProblem(a.Problem), string(level), a.CreatedAt.UnixMilli()})
	}
	for _, w := range []struct {
		what, statement string
		rows            int
		list            string
	}{
		{"levels", `INSERT INTO levels (location, sku, name, on_hand, reserved, version)
			SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 FROM json_each(?) WHERE true
			ON CONFLICT (location, sku) DO UPDATE
			SET name = excluded.name, on_hand = excluded.on_hand, reserved = excluded.reserved, version = excluded.version`,
			len(levels), database.Rows(levels)},
		{"reservations", `INSERT INTO reservations (id, seq, state, expires_at, created_at)
			SELECT value->>0, value->>1, value->>2, value->>3, value->>4 FROM json_each(?) WHERE true
			ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, state = excluded.state, expires_at = excluded.expires_at`,
			len(reservations), database.Rows(reservations)},
		{"old lines", `DELETE FROM reservation_lines WHERE reservation_id IN (SELECT value FROM json_each(?))`,
			len(replaced), database.Rows(replaced)},
		{"lines", `INSERT INTO reservation_lines (reservation_id, location, sku, quantity)
			SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(?)`,
			len(lines), database.Rows(lines)},
		{"outcomes", `INSERT INTO outcomes (reservation_id, seq, asked, fingerprint, problem, at)
			SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 FROM json_each(?)`,
			len(outcomes), database.Rows(outcomes)},
		{"ledger", `INSERT INTO ledger (at, location, sku, on_hand_delta, reserved_delta, on_hand, reserved, reason, ref, seq)
			SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8, value->>9
			FROM json_each(?)`,
			len(entries), database.Rows(entries)},
		{"adjustments", `INSERT INTO adjustments (id, location, sku, delta, on_hand, expected_on_hand, reason, note,
			fingerprint, problem, level, created_at)
			SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7,
			value->>8, value->>9, value->>10, value->>11 FROM json_each(?)`,
			len(adjustments), database.Rows(adjustments)},
	} {
		if w.rows == 0 {
			continue
		}
		if _, err := s.tx.Exec(w.statement, w.list); err != nil {
			return fmt.Errorf("write %s: %w", w.what, err)
		}
	}
	return nil
}

// Reservation returns one reservation, or not-found if there is none with that id.
func (s *SQLite) Reservation(ctx context.Context, id string) (stock.Reservation, error) {
	found, err := database.ReadSQLiteRows(ctx, s.db, func(tx *sql.Tx) ([]stock.Reservation, error) {
		return sqliteReservations(tx, "r.id = ?", id)
	})
	return database.One(found, err, "There is no reservation %s.", id)
}

// Reservations lists reservations, the newest first.
func (s *SQLite) Reservations(ctx context.Context, state stock.State, page stock.Page) ([]stock.Reservation, string, error) {
	var id string
	created, err := newestFirst(page.Cursor, &id)
	if err != nil {
		return nil, "", err
	}
	found, err := database.ReadSQLiteRows(ctx, s.db, func(tx *sql.Tx) ([]stock.Reservation, error) {
		// A due hold reads as expired.
		return sqliteReservations(tx, `(r.created_at, r.id) < (?1, ?2)
			AND (?3 = '' OR ?3 = CASE WHEN r.state = 'held' AND r.expires_at <= ?4 THEN 'expired' ELSE r.state END)
			ORDER BY r.created_at DESC, r.id DESC LIMIT ?5`,
			created, id, state, time.Now().UnixMilli(), page.Limit+1)
	})
	found, next := database.Page(found, page.Limit, reservationKey)
	return found, next, err
}

// Levels returns the levels of these SKUs at every location.
func (s *SQLite) Levels(ctx context.Context, skus []string) ([]stock.Level, error) {
	return database.ReadSQLiteRows(ctx, s.db, func(tx *sql.Tx) ([]stock.Level, error) {
		return sqliteLevels(tx, "WHERE l.sku IN (SELECT value FROM json_each(?)) ORDER BY l.location, l.sku", database.Rows(skus))
	})
}

// AllLevels lists every level, by location and SKU.
func (s *SQLite) AllLevels(ctx context.Context, page stock.Page) ([]stock.Level, string, error) {
	var after stock.Key
	if err := database.DecodeCursor(page.Cursor, &after.Location, &after.SKU); err != nil {
		return nil, "", err
	}
	levels, err := database.ReadSQLiteRows(ctx, s.db, func(tx *sql.Tx) ([]stock.Level, error) {
		return sqliteLevels(tx, "WHERE (l.location, l.sku) > (?, ?) ORDER BY l.location, l.sku LIMIT ?",
			after.Location, after.SKU, page.Limit+1)
	})
	levels, next := database.Page(levels, page.Limit, levelKey)
	return levels, next, err
}

// Adjustment returns one adjustment, or not-found if there is none with that id.
func (s *SQLite) Adjustment(ctx context.Context, id string) (stock.Adjustment, error) {
	found, err := database.ReadSQLiteRows(ctx, s.db, func(tx *sql.Tx) ([]stock.Adjustment, error) {
		return sqliteSession{tx}.adjustments([]string{id})
	})
	return database.One(found, err, "There is no adjustment %s.", id)
}

// Ledger lists entries, the newest first.
func (s *SQLite) Ledger(ctx context.Context, sku, ref string, page stock.Page) ([]stock.Entry, string, error) {
	before, err := newestFirst(page.Cursor)
	if err != nil {
		return nil, "", err
	}
	// Each combination of filters is a separate statement, so that SQLite can use its
	// index.
	where, args := "id < ?", []any{before}
	if sku != "" {
		where, args = where+" AND sku = ?", append(args, sku)
	}
	if ref != "" {
		where, args = where+" AND ref = ?", append(args, ref)
	}
	entries, err := database.ReadSQLiteRows(ctx, s.db, func(tx *sql.Tx) (entries []stock.Entry, err error) {
		err = database.Each(tx, func(rows *sql.Rows) error {
			var e stock.Entry
			var at int64
			err := rows.Scan(&e.ID, &at, &e.SKU, &e.Location, &e.OnHandDelta, &e.ReservedDelta, &e.OnHand, &e.Reserved,
				&e.Reason, &e.Ref, &e.Seq)
			e.At = time.UnixMilli(at)
			entries = append(entries, e)
			return err
		}, `SELECT id, at, sku, location, on_hand_delta, reserved_delta, on_hand, reserved, reason, ref, seq
			FROM ledger WHERE `+where+` ORDER BY id DESC LIMIT ?`, append(args, page.Limit+1)...)
		return entries, err
	})
	entries, next := database.Page(entries, page.Limit, entryKey)
	return entries, next, err
}

// Due lists the ids of due holds, the oldest first.
func (s *SQLite) Due(ctx context.Context, now time.Time, limit int) ([]string, error) {
	return database.ReadSQLiteRows(ctx, s.db, func(tx *sql.Tx) ([]string, error) {
		return database.Strings(tx, `SELECT id FROM reservations WHERE state = 'held' AND expires_at <= ?
			ORDER BY expires_at LIMIT ?`, now.UnixMilli(), limit)
	})
}

// Audit compares levels, ledger and reservations, in one snapshot.
func (s *SQLite) Audit(ctx context.Context, report func(stock.Difference)) error {
	return s.db.Read(ctx, func(tx *sql.Tx) error {
		for _, audit := range audits {
			err := database.Each(tx, func(rows *sql.Rows) error {
				d := stock.Difference{What: audit.what}
				if err := rows.Scan(&d.Ref, &d.Expected, &d.Found); err != nil {
					return err
				}
				report(d)
				return nil
			}, audit.query)
			if err != nil {
				return fmt.Errorf("audit %s: %w", audit.what, err)
			}
		}
		return nil
	})
}

func optionalTime(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return time.UnixMilli(ms.Int64)
}
