// Package order defines what an order is, which states it goes through, and how each
// of its operations takes effect in inventory exactly once.
//
// # Intent, exchange, outcome
//
// Every operation on an order (place, amend, confirm, cancel) takes three steps:
//
//  1. Intent. In one transaction, under the lock of the order's row, a [Command]
//     checks the order's state, takes the next seq and records everything that
//     inventory will be asked. Orders sends nothing before this is committed.
//  2. Exchange. Orders asks inventory, with no transaction open and no lock held.
//     The seq makes the request idempotent, so the same caller, another caller with
//     the same request, or the [Settler] can send it again.
//  3. Outcome. In one transaction orders records inventory's answer, if that seq is
//     still unsettled (compare and set).
//
// An interruption (a lost reply, a killed process) leaves an unsettled intent, and the
// order shows it. Orders never guesses the outcome. The answer is then "not known yet",
// which is neither a success nor an error, and the settler learns the outcome later.
//
// Only an outcome settles an intent: an answer that inventory stored for exactly this
// seq. [classify] tells an outcome from every other answer or error.
//
// # How the package is laid out
//
// The rules do no input or output: commands decide in memory on a [UnitOfWork]. A
// [Store] loads and locks the orders before, and writes the changes after. [Protocol]
// runs the three steps for a caller. [Settler] runs them for intents that were left
// over. [RepairOrder] makes an order agree with its reservation after a backup was
// restored. They know inventory only through the [Inventory] interface, which is the
// same for every wire.
package order

import (
	"math/bits"
	"slices"
	"time"

	"roundtrip/internal/problem"
)

// Limits and defaults of a request.
const (
	// MaxLines is the highest number of lines of an order. Real invoices have more than
	// 1,000.
	MaxLines = 2000
	// MaxQuantity is the highest quantity of one line.
	MaxQuantity = 1_000_000
	// MaxUnitPrice is the highest price of one unit, in minor units of the currency.
	MaxUnitPrice = 1_000_000_000_000
	// MaxSKUs is the highest number of SKUs in one request for availability.
	MaxSKUs = 100
	// MaxCustomer is the longest customer, in characters.
	MaxCustomer = 128
	// MaxHold is the longest hold, in seconds: 30 days.
	MaxHold = 30 * 24 * 60 * 60
	// DefaultHold is the hold of an order whose request names none, in seconds.
	DefaultHold = 900
	// MainLocation is the location of a line that names none.
	MainLocation = "main"
)

// LocationOr returns the location that a request names, or [MainLocation] if it names
// none.
func LocationOr(given *string) string {
	if given == nil {
		return MainLocation
	}
	return *given
}

// HoldSecondsOr returns the seconds that a request names, or [DefaultHold] if it names
// none.
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

// State is the state of an order. Rejected, Cancelled and Expired are final.
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

// Operation is the kind of change that is made to an order.
type Operation string

const (
	PlaceOperation   Operation = "place"
	AmendOperation   Operation = "amend"
	ConfirmOperation Operation = "confirm"
	CancelOperation  Operation = "cancel"
	// GiveUpOperation is the settler's cancel of a place that did not settle. It is a
	// separate operation, so that a customer's cancel supersedes it.
	GiveUpOperation Operation = "give-up"
)

// Order is what a customer ordered, and its state now.
type Order struct {
	ID    string
	State State
	// Version grows with every visible change, including a new intent.
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

	// Seq is the last seq that an intent took. After a repair it is one above the
	// higher of the order's and the reservation's seq. The next intent takes Seq+1.
	Seq int64
	// Fingerprint is the fingerprint of the request that created the order. It never
	// changes, so that a late repeat of the request is still recognised.
	Fingerprint string
	// Intent is the operation that is recorded and not settled; nil if there is none.
	Intent *Intent
	// Last is the operation that was settled last; nil if there is none.
	Last *Settlement
}

// Intent is an operation that is recorded and not settled, with everything that
// inventory will be asked.
type Intent struct {
	Operation Operation
	Seq       int64
	Since     time.Time
	// Lines are the lines to hold, for place and amend.
	Lines []Line
	// Fingerprint is the fingerprint of the operation's content. A caller who asks for
	// the same operation with an equal fingerprint joins the intent.
	Fingerprint string
}

// OutcomeKind is how an operation ended.
type OutcomeKind string

const (
	// OutcomeDone: it took effect in inventory.
	OutcomeDone OutcomeKind = "done"
	// OutcomeRejected: inventory rejected it, or it was given up.
	OutcomeRejected OutcomeKind = "rejected"
	// OutcomeSuperseded: a later operation took its place before its outcome was known.
	OutcomeSuperseded OutcomeKind = "superseded"
)

// Settlement is how one operation ended, under its seq.
type Settlement struct {
	Operation Operation
	Seq       int64
	Outcome   OutcomeKind
	// Problem is the reason, if the outcome is OutcomeRejected.
	Problem *problem.Problem
}

// total returns the total price of lines; false if it is too large for an int64.
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

// Precondition is an If-Match header (RFC 9110 §13.1.1): the versions of the order that
// the caller is willing to change. The zero value is no precondition.
type Precondition struct {
	// Any is "*": any version, as long as the order exists.
	Any      bool
	Versions []int64
	// Given reports that there is a precondition. A precondition that names no version
	// of an order, for example a weak entity tag, never holds.
	Given bool
}

func (p Precondition) holds(o *Order) bool {
	return !p.Given || p.Any || slices.Contains(p.Versions, o.Version)
}
