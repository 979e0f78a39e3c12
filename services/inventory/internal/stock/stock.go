// Package stock is the domain: levels, reservations, the ledger that explains them, and
// the rules by which they change. It decides in memory. A [Store] loads, locks and
// writes.
//
// # Levels and the ledger
//
// A [Level] is the stock of one SKU at one location. It has a quantity on hand. A part
// of that is reserved for orders, and the rest is available. Every change of these
// quantities appends one [Entry] to the ledger, so the ledger explains every level: a
// level equals the sum of its entries.
//
// # Reservations and the fence
//
// A [Reservation] is the stock side of one order, under the order's id. The orders
// service asks for a state (held, committed, released) with [Put]. It numbers the
// requests for one order: seq 1, 2, 3 and so on. This number is the fence:
//
//   - A seq above the last one is decided once. Its outcome is stored, whether it is a
//     success or a rejection.
//   - The last seq again gets the stored outcome again.
//   - A lower seq is stale and changes nothing.
//
// So a wire may repeat, delay or reorder a request, and it still takes effect once.
//
// The release of a reservation that does not exist leaves a tombstone (a released
// reservation without lines). Without it, a delayed request for a hold could arrive
// after the order was cancelled, and hold stock that no later request releases.
//
// # Expiry
//
// A hold ends at a set time. After that, the hold is due: it reads as expired and can't
// be committed. The level still counts it as reserved until its expiry is written. A
// [UnitOfWork] writes the expiry of every due hold that it is given, before it decides
// any command. So if a level has too little stock for a command, the store looks for due
// holds on that level (see [UnitOfWork.Short]). The sweeper frees the other due holds.
package stock

import (
	"slices"
	"strings"
	"time"
)

// The limits and defaults of a request.
const (
	// MaxLines is the most lines that a reservation may have. Real invoices have more
	// than 1,000 lines.
	MaxLines = 2000
	// MaxQuantity is the most units that one line may ask for.
	MaxQuantity = 1_000_000
	// MaxOnHand is the highest quantity on hand that a request may set.
	MaxOnHand = 1_000_000_000_000
	// MaxHold is the longest hold, in seconds: 30 days.
	MaxHold = 30 * 24 * 60 * 60
	// DefaultHold is the length of a hold if the request gives none, in seconds.
	DefaultHold = 900
	// MaxNote is the most characters that a note may have.
	MaxNote = 256
	// MaxName is the most characters that a level's name may have.
	MaxName = 256
	// MainLocation is the location if a request names none.
	MainLocation = "main"
)

// Key names a level. Keys are sorted by location, then SKU. Levels are locked in this
// order.
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

// Level is the stock of one SKU at one location. At every commit,
// 0 <= Reserved <= OnHand.
type Level struct {
	SKU, Location string
	// Name is for people. No rule depends on it.
	Name     string
	OnHand   int64
	Reserved int64
	// Version grows by 1 with every change.
	Version int64
}

// Key is the level's key.
func (l Level) Key() Key { return Key{l.Location, l.SKU} }

// Available is the quantity that orders can still reserve.
func (l Level) Available() int64 { return l.OnHand - l.Reserved }

// Line is a demand for a quantity of one SKU at one location.
type Line struct {
	SKU, Location string
	Quantity      int64
}

// Key is the key of the level that the line takes stock from.
func (l Line) Key() Key { return Key{l.Location, l.SKU} }

// merge adds up lines for the same level, and sorts the lines by [Key]. Several lines
// for one level are one demand.
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

// State is the state of a reservation.
type State string

const (
	// None has never held anything: every request so far was rejected.
	None State = "none"
	// Held keeps its lines reserved until it expires.
	Held State = "held"
	// Committed has taken its lines from the quantity on hand.
	Committed State = "committed"
	// Released has given its lines back, or never had any (a tombstone).
	Released State = "released"
	// Expired was held until its time passed, and has given its lines back.
	Expired State = "expired"
)

// States lists every state of a reservation.
func States() []State { return []State{None, Held, Committed, Released, Expired} }

// Reservation is the stock side of one order.
type Reservation struct {
	// ID is the order's id.
	ID string
	// Seq is the last seq that was decided.
	Seq   int64
	State State
	// Lines are the lines that are held or committed, or that were until the release
	// or the expiry. They are merged, and sorted by location and SKU.
	Lines []Line
	// ExpiresAt is when the hold ends or ended. It is zero unless held or expired.
	ExpiresAt time.Time
	CreatedAt time.Time
	// Last is the stored outcome of Seq.
	Last Outcome
}

// due reports whether the reservation is a due hold.
func (r Reservation) due(now time.Time) bool {
	return r.State == Held && !now.Before(r.ExpiresAt)
}

// At returns the reservation as it reads at a time. A due hold reads as expired.
func (r Reservation) At(now time.Time) Reservation {
	if r.due(now) {
		r.State = Expired
	}
	return r
}

// Reason says why a level changed.
type Reason string

// The reasons of a reservation's entries. Entry.Ref is the reservation's id, and
// Entry.Seq is the seq of the request.
const (
	ReasonHeld      Reason = "held"
	ReasonAmended   Reason = "amended"
	ReasonCommitted Reason = "committed"
	ReasonReleased  Reason = "released"
	ReasonReturned  Reason = "returned"
	ReasonExpired   Reason = "expired"
)

// The reasons of an adjustment's entries. The caller gives the reason. Entry.Ref is the
// adjustment's id.
const (
	ReasonReceived  Reason = "received"
	ReasonCounted   Reason = "counted"
	ReasonDamaged   Reason = "damaged"
	ReasonLost      Reason = "lost"
	ReasonCorrected Reason = "corrected"
)

// ReasonImported is the reason of an import's entries. Entry.Ref is the import's id, and
// Entry.Seq is the row.
const ReasonImported Reason = "imported"

// AdjustmentReasons lists the reasons that an adjustment may give.
func AdjustmentReasons() []Reason {
	return []Reason{ReasonReceived, ReasonCounted, ReasonDamaged, ReasonLost, ReasonCorrected}
}

// Entry is one line of the ledger. Entries are unique by Ref, Seq, Reason, SKU
// and Location, and are never changed.
type Entry struct {
	// ID grows with time. The store assigns it.
	ID            int64
	At            time.Time
	SKU, Location string
	OnHandDelta   int64
	ReservedDelta int64
	// OnHand and Reserved are the quantities of the level after the change.
	OnHand   int64
	Reserved int64
	Reason   Reason
	Ref      string
	Seq      int64
}
