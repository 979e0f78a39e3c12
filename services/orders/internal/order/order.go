// Package order says what an order is, which states it goes through, and how
// its operations are made to take effect in inventory exactly once.
//
// # Intent, exchange, outcome
//
// Every operation on an order (place, amend, confirm, cancel) takes three steps:
//
//  1. Intent. In one transaction, under the lock of the order's row, a [Command]
//     checks the order's state, takes the next seq and writes down all that
//     inventory will be asked. Nothing is sent before that is committed.
//  2. Exchange. Inventory is asked, with no transaction open and no lock held.
//     The seq makes the request idempotent, so it can be sent again by anyone:
//     the same caller, another one who asks for the same, the [Settler].
//  3. Outcome. In one transaction inventory's answer is written down, only where
//     that seq is still unsettled (compare and set).
//
// An interruption (a lost reply, a killed process) leaves an intent
// that is unsettled, and an order that says so. It never leaves a guess: the
// answer is then neither a success nor an error but "not known yet", and the
// settler finds out.
//
// Only an outcome settles: an answer that inventory stored for exactly this seq.
// [classify] tells it from everything else that may come back.
//
// # How the package is laid out
//
// The rules are pure: commands decide in memory on a [UnitOfWork], and a [Store] loads,
// locks and writes around them. [Protocol] runs the three steps for a caller,
// [Settler] for what was left over, and [RepairOrder] mends what a backup that was put
// back has set apart. They know inventory only by the [Inventory] interface; what
// carries the exchange is not their business.
package order

import (
	"math/bits"
	"slices"
	"time"

	"roundtrip/internal/problem"
)

// Limits of what a request may say.
const (
	// MaxLines is the most lines an order may have; real invoices pass 1,000.
	MaxLines = 2000
	// MaxQuantity is the most units one line may ask for.
	MaxQuantity = 1_000_000
	// MaxUnitPrice is the highest price of one unit, in minor units of the currency.
	MaxUnitPrice = 1_000_000_000_000
	// MaxSKUs is the most SKUs that one question for availability may name.
	MaxSKUs = 100
	// MaxCustomer is the most characters a customer may have.
	MaxCustomer = 128
	// MaxHold is the longest hold, in seconds: 30 days.
	MaxHold = 30 * 24 * 60 * 60
	// DefaultHold is the hold of an order that names none, in seconds.
	DefaultHold = 900
	// MainLocation is meant where no location is named.
	MainLocation = "main"
)

// LocationOr is the location that a request names, or [MainLocation] when it
// names none.
func LocationOr(given *string) string {
	if given == nil {
		return MainLocation
	}
	return *given
}

// HoldSecondsOr are the seconds that a request names, or [DefaultHold] when it
// names none.
func HoldSecondsOr(given *int64) int64 {
	if given == nil {
		return DefaultHold
	}
	return *given
}

// Line is a quantity of one SKU from one location at a price.
type Line struct {
	SKU, Location string
	Quantity      int64
	// UnitPrice is in minor units of the order's currency.
	UnitPrice int64
}

// State is what an order is. Once Rejected, Cancelled or Expired it stays so.
type State string

// The states of an order: pending becomes placed, rejected, cancelled or
// expired; placed becomes confirmed, cancelled or expired; confirmed becomes
// cancelled.
const (
	Pending   State = "pending"
	Placed    State = "placed"
	Rejected  State = "rejected"
	Confirmed State = "confirmed"
	Cancelled State = "cancelled"
	Expired   State = "expired"
)

// States lists every state of an order.
func States() []State { return []State{Pending, Placed, Rejected, Confirmed, Cancelled, Expired} }

// Operation is what is done to an order.
type Operation string

const (
	PlaceOperation   Operation = "place"
	AmendOperation   Operation = "amend"
	ConfirmOperation Operation = "confirm"
	CancelOperation  Operation = "cancel"
	// GiveUpOperation is the settler's cancel of a place that never settled. It
	// is an operation of its own so that a customer's cancel supersedes it.
	GiveUpOperation Operation = "give-up"
)

// Order is what a customer ordered and what has become of it.
type Order struct {
	ID    string
	State State
	// Version moves with every visible change, an intent too.
	Version     int64
	Customer    string
	Currency    string
	HoldSeconds int64
	Lines       []Line
	// Total is the sum of the lines, in minor units of the currency.
	Total int64
	// HoldExpiresAt is when the hold ends or ended; zero unless the order is
	// Placed or Expired.
	HoldExpiresAt time.Time
	CreatedAt     time.Time
	UpdatedAt     time.Time

	// Seq is the last one that an intent took, or one past the reservation's where
	// a repair set it; the next intent takes the one after it.
	Seq int64
	// Fingerprint is that of the request that created the order. It is never
	// updated, so that a late repeat is still recognised.
	Fingerprint string
	// Intent is the operation that is written down and not settled; nil where there is none.
	Intent *Intent
	// Last is the operation that was settled last; nil where there is none.
	Last *Settlement
}

// Intent is an operation that was written down, with all that inventory will be
// asked, and is not settled.
type Intent struct {
	Operation Operation
	Seq       int64
	Since     time.Time
	// Lines are what will be held, for place and amend.
	Lines []Line
	// Fingerprint is that of the operation's content; equal ones join.
	Fingerprint string
}

// OutcomeKind is how an operation ended.
type OutcomeKind string

const (
	// OutcomeDone: it took effect in inventory.
	OutcomeDone OutcomeKind = "done"
	// OutcomeRejected: inventory rejected it, or it was given up.
	OutcomeRejected OutcomeKind = "rejected"
	// OutcomeSuperseded: a later operation took its place before its end was known.
	OutcomeSuperseded OutcomeKind = "superseded"
)

// Settlement is how one operation, under one seq, ended.
type Settlement struct {
	Operation Operation
	Seq       int64
	Outcome   OutcomeKind
	// Problem says why, where the outcome is Refused.
	Problem *problem.Problem
}

// total adds up what lines cost; false where that is more than an int64 holds.
func total(lines []Line) (int64, bool) {
	var sum uint64
	for _, l := range lines {
		high, low := bits.Mul64(uint64(l.Quantity), uint64(l.UnitPrice))
		var carry uint64
		sum, carry = bits.Add64(sum, low, 0)
		if high|carry|sum>>63 != 0 {
			return 0, false
		}
	}
	return int64(sum), true
}

// Precondition is an If-Match (RFC 9110 §13.1.1): the versions of the order
// that the caller is willing to change. The zero value is none.
type Precondition struct {
	// Any is "*": any version, as long as the order exists.
	Any      bool
	Versions []int64
	// Given says that there is a precondition; one that names no version of
	// ours, such as a weak entity tag, never holds.
	Given bool
}

func (p Precondition) holds(o *Order) bool {
	return !p.Given || p.Any || slices.Contains(p.Versions, o.Version)
}
