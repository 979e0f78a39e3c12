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
// # Errors
//
// An error of the database itself (a full disk, a failing device, a lock that
// can't be had) is an unavailable problem that wraps its cause: the transaction
// was rolled back, or nobody knows, and either way the request may be sent
// again. Whatever else a transaction's function returns passes through.
package database

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"roundtrip/internal/problem"
)

// Address says where a database is.
type Address struct {
	// Path is the file of an SQLite database.
	Path string
}

// ParseAddress reads an address such as "sqlite:/var/lib/orders.db".
func ParseAddress(s string) (Address, error) {
	path, ok := strings.CutPrefix(strings.TrimSpace(s), "sqlite:")
	if !ok || path == "" {
		// The address is not repeated: it may hold a password.
		return Address{}, fmt.Errorf("a database's address looks like sqlite:PATH")
	}
	return Address{Path: path}, nil
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

// EncodeCursor makes a list's cursor of the sort key of its last row.
func EncodeCursor(key ...any) string {
	text, err := json.Marshal(key)
	if err != nil { // a key holds strings and numbers only
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// DecodeCursor reads what [EncodeCursor] made into pointers; anything else is
// an invalid problem.
func DecodeCursor(cursor string, key ...any) error {
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
	if err != nil {
		var f problem.Fields
		f.Add("query:cursor", "is none that a list of ours gave")
		return f.Err()
	}
	return nil
}
