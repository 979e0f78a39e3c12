// Package timestamp formats times for JSON bodies, on every wire.
package timestamp

import "time"

// Format writes a time in RFC 3339, in UTC, with milliseconds.
func Format(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

// Optional is like [Format], but returns "" for the zero time.
func Optional(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return Format(t)
}
