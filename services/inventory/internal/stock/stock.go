// Package stock says what stock is: levels, reservations, the ledger that
// explains them, and the rules by which they change. It is pure: it decides in
// memory and leaves loading, locking and writing to a [Store].
//
// # Levels and the ledger
//
// A [Level] is the stock of one SKU at one location. What is on hand belongs to
// the house; part of it is reserved for orders; the rest is available. Every
// change of these quantities appends one [Entry] to the ledger, so a level can
// always be explained: it equals the sum of its entries.
//
// # Reservations and the fence
//
// A [Reservation] is the stock side of one order, under the order's own id. The
// order's service asks for a state (held, committed, released) with [Put], and
// numbers what it asks: seq 1, 2, 3 and so on. That number is the fence. A seq
// above the last one is decided, once, and its outcome is stored, a rejection
// like a success; the same seq again gets the stored outcome again; a lower one
// is stale and changes nothing. So a request may be repeated, delayed or
// reordered by any wire and still takes effect once.
//
// Releasing a reservation that does not exist leaves a tombstone (a released
// reservation without lines). Without it, a held request that was delayed would
// arrive after its own cancel and hold stock that is never given back.
//
// # Expiry
//
// A hold is for a time. Past it, the hold reads as expired and can't be
// committed, but the level still counts it as reserved until somebody writes
// the expiry down. A [UnitOfWork] does so for every due hold that it is given before
// it decides anything; a store therefore looks for due holds wherever a demand
// fell short (see [UnitOfWork.Short]), and a sweeper frees the rest.
package stock

import (
	"slices"
	"strings"
	"time"
)

// Limits of what a request may say.
const (
	// MaxLines is the most lines a reservation may have; real invoices pass 1,000.
	MaxLines = 2000
	// MaxQuantity is the most units one line may ask for.
	MaxQuantity = 1_000_000
	// MaxOnHand is the most units a level may be set to.
	MaxOnHand = 1_000_000_000_000
	// MaxHold is the longest hold, in seconds: 30 days.
	MaxHold = 30 * 24 * 60 * 60
	// DefaultHold is the hold of a request that names none, in seconds.
	DefaultHold = 900
	// MaxNote is the most characters a note may have.
	MaxNote = 256
	// MaxName is the most characters a level's name may have.
	MaxName = 256
	// MainLocation is meant where no location is named.
	MainLocation = "main"
)

// Key names a level. Keys are ordered by location, then SKU: the order in which
// levels are locked.
type Key struct {
	Location, SKU string
}

// Compare orders keys by location, then SKU.
func (k Key) Compare(other Key) int {
	if c := strings.Compare(k.Location, other.Location); c != 0 {
		return c
	}
	return strings.Compare(k.SKU, other.SKU)
}

// Level is the stock of one SKU at one location. At every commit
// 0 <= Reserved <= OnHand.
type Level struct {
	SKU, Location string
	// Name is for people; nothing depends on it.
	Name     string
	OnHand   int64
	Reserved int64
	// Version grows by one with every change.
	Version int64
}

// Key names the level.
func (l Level) Key() Key { return Key{l.Location, l.SKU} }

// Available is what can still be promised.
func (l Level) Available() int64 { return l.OnHand - l.Reserved }

// Line is a demand for a quantity of one SKU at one location.
type Line struct {
	SKU, Location string
	Quantity      int64
}

// Key names the level that the line draws on.
func (l Line) Key() Key { return Key{l.Location, l.SKU} }

// merge adds up lines for the same level and sorts them by [Key]: the same SKU
// on several lines is one demand.
func merge(lines []Line) []Line {
	sorted := slices.Clone(lines)
	slices.SortStableFunc(sorted, func(a, b Line) int { return a.Key().Compare(b.Key()) })
	merged := sorted[:0]
	for _, l := range sorted {
		if n := len(merged); n > 0 && merged[n-1].Key() == l.Key() {
			merged[n-1].Quantity += l.Quantity
			continue
		}
		merged = append(merged, l)
	}
	return merged
}

// State is what a reservation is.
type State string

const (
	// None holds nothing and never has: every request so far was rejected.
	None State = "none"
	// Held keeps its lines reserved until it expires.
	Held State = "held"
	// Committed has taken its lines out of stock.
	Committed State = "committed"
	// Released gave its lines back, or never had any (a tombstone).
	Released State = "released"
	// Expired was held for too long and lost its lines.
	Expired State = "expired"
)

// States lists every state of a reservation.
func States() []State { return []State{None, Held, Committed, Released, Expired} }

// Reservation is the stock side of one order.
type Reservation struct {
	// ID is the order's.
	ID string
	// Seq is the last one that was decided.
	Seq   int64
	State State
	// Lines are what is held or committed, or was until it was released or
	// expired; merged, sorted by location and SKU.
	Lines []Line
	// ExpiresAt is when the hold ends or ended; zero unless held or expired.
	ExpiresAt time.Time
	CreatedAt time.Time
	// Last is the outcome that is stored for Seq.
	Last Outcome
}

// due reports whether the hold has run out and is not yet marked.
func (r Reservation) due(now time.Time) bool {
	return r.State == Held && !now.Before(r.ExpiresAt)
}

// At is the reservation as it reads at a time: a hold that has run out reads as
// expired, whether or not anybody has written that down.
func (r Reservation) At(now time.Time) Reservation {
	if r.due(now) {
		r.State = Expired
	}
	return r
}

// Reason says why a level changed.
type Reason string

// The reasons of a reservation's entries; Entry.Ref is the reservation's id and
// Entry.Seq the seq that did it.
const (
	ReasonHeld      Reason = "held"
	ReasonAmended   Reason = "amended"
	ReasonCommitted Reason = "committed"
	ReasonReleased  Reason = "released"
	ReasonReturned  Reason = "returned"
	ReasonExpired   Reason = "expired"
)

// The reasons of an adjustment's entries, given by the caller; Entry.Ref is
// the adjustment's id.
const (
	ReasonReceived  Reason = "received"
	ReasonCounted   Reason = "counted"
	ReasonDamaged   Reason = "damaged"
	ReasonLost      Reason = "lost"
	ReasonCorrected Reason = "corrected"
)

// ReasonImported is the reason of an import's entries; Entry.Ref is the import's
// id and Entry.Seq the row.
const ReasonImported Reason = "imported"

// AdjustmentReasons lists the reasons that an adjustment may give.
func AdjustmentReasons() []Reason {
	return []Reason{ReasonReceived, ReasonCounted, ReasonDamaged, ReasonLost, ReasonCorrected}
}

// Entry is one line of the ledger. Entries are unique by Ref, Seq, Reason, SKU
// and Location, and are never changed.
type Entry struct {
	// ID grows with time; the store gives it.
	ID            int64
	At            time.Time
	SKU, Location string
	OnHandDelta   int64
	ReservedDelta int64
	// OnHand and Reserved are the level's after the change.
	OnHand   int64
	Reserved int64
	Reason   Reason
	Ref      string
	Seq      int64
}
