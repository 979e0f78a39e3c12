package database

import (
	"bytes"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"roundtrip/internal/problem"
)

// Column returns one column of rows, for unnest on PostgreSQL.
func Column[Row, T any](rows []Row, of func(Row) T) []T {
	values := make([]T, len(rows))
	for i, r := range rows {
		values[i] = of(r)
	}
	return values
}

// Rows encodes rows for json_each on SQLite, so that one statement can use any number
// of rows.
func Rows[T any](rows []T) string {
	text, err := json.Marshal(rows)
	if err != nil { // rows hold strings and numbers only
		panic(err)
	}
	return string(text)
}

// Each runs a query on SQLite and calls f for every row.
func Each(tx *sql.Tx, f func(*sql.Rows) error, query string, args ...any) error {
	rows, err := tx.Query(query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Strings runs a query of one text column on SQLite.
func Strings(tx *sql.Tx, query string, args ...any) (values []string, err error) {
	err = Each(tx, func(rows *sql.Rows) error {
		var s string
		err := rows.Scan(&s)
		values = append(values, s)
		return err
	}, query, args...)
	return values, err
}

// ReadProblem decodes the column of a problem; nil for NULL.
func ReadProblem(text *string) (*problem.Problem, error) {
	if text == nil {
		return nil, nil
	}
	p := new(problem.Problem)
	return p, json.Unmarshal([]byte(*text), p)
}

// WriteProblem encodes a problem for its column; NULL for nil.
func WriteProblem(p *problem.Problem) *string {
	if p == nil {
		return nil
	}
	encoded, err := json.Marshal(p)
	if err != nil { // a problem holds strings and numbers only
		panic(err)
	}
	text := string(encoded)
	return &text
}

// Page cuts a list to limit rows. If there are more rows, there is another page. Its
// cursor is made from the sort key of this page's last row.
func Page[Row any](rows []Row, limit int, key func(Row) []any) (page []Row, next string) {
	if len(rows) <= limit {
		return rows, ""
	}
	return rows[:limit], EncodeCursor(key(rows[limit-1])...)
}

// PostgresTime converts Unix milliseconds to a time, limited to the range that
// PostgreSQL can store.
func PostgresTime(ms int64) time.Time { return time.UnixMilli(max(0, min(ms, 1<<53))) }

// EncodeCursor makes a list's cursor from the sort key of its last row.
func EncodeCursor(key ...any) string {
	text, err := json.Marshal(key)
	if err != nil { // a key holds strings and numbers only
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// DecodeCursor reads a cursor that [EncodeCursor] made into pointers. An empty cursor
// leaves them unchanged. Anything else is an invalid problem with the pointer /cursor.
// So is a NUL character, which PostgreSQL's text can't hold.
func DecodeCursor(cursor string, key ...any) error {
	if cursor == "" {
		return nil
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err == nil {
		var parts []json.RawMessage
		if err = json.Unmarshal(text, &parts); err == nil && len(parts) != len(key) {
			err = fmt.Errorf("%d parts", len(parts))
		}
		for i := 0; err == nil && i < len(key); i++ {
			err = json.Unmarshal(parts[i], key[i])
		}
	}
	// The same key can be encoded in many ways, for example with null. Only the encoding
	// that a list itself writes is accepted.
	if err != nil || EncodeCursor(key...) != cursor || bytes.Contains(text, []byte(`\u0000`)) {
		var f problem.Fields
		f.Add("/cursor", "is not a cursor of this list")
		return f.Err()
	}
	return nil
}

// One returns the row that a read found. If the read found none, it returns a
// not-found problem with this detail.
func One[Row any](rows []Row, err error, detail string, args ...any) (row Row, _ error) {
	if err == nil && len(rows) == 0 {
		err = problem.New(problem.NotFound, detail, args...)
	}
	if err != nil {
		return row, err
	}
	return rows[0], nil
}
