package order

import (
	"fmt"
	"regexp"
	"slices"
	"unicode/utf8"

	"roundtrip/internal/fingerprint"
	"roundtrip/internal/problem"
)

// Command is one decision about one order, made under the lock of its row. Callers
// send [Place], [Amend], [Confirm] and [Cancel]. [RecordOutcome] follows an answer from
// inventory, [GiveUp] and [Expire] follow the passing of time, and [Repair] follows the
// restore of a backup.
type Command interface {
	// Validate reports what is wrong with the command itself, as an invalid problem.
	Validate() error
	// OrderID returns the id of the order that has to be loaded and locked.
	OrderID() string

	// decide makes the decision. o is nil if there is no such order.
	decide(b *UnitOfWork, o *Order) Result
}

// Result is the answer to a command.
type Result struct {
	// Order is the order after the decision. It is also set if Err is operation-pending:
	// then it has the pending intent.
	Order Order
	// Seq is the seq of the intent that the caller's answer depends on, new or joined.
	// It is 0 if the order already was as the command wants it.
	Seq int64
	// Created reports that the order is new.
	Created bool
	// Err is a *problem.Problem, or the context's error if the caller left before
	// the decision.
	Err error
}

// currencyPattern is the form of an ISO 4217 code.
var currencyPattern = regexp.MustCompile(`^[A-Z]{3}$`)

// Place creates an order and asks inventory to hold its lines.
type Place struct {
	ID          string
	Customer    string
	Currency    string
	HoldSeconds int64
	Lines       []Line
	// InventoryUnreachable reports that orders can't connect to inventory. A new order
	// is then refused before it is recorded. The answer for a recorded order is as usual.
	InventoryUnreachable bool
}

// Validate reports every field in error as one invalid problem.
func (p Place) Validate() error {
	var f problem.Fields
	f.Name("/id", p.ID)
	validateCustomer(&f, p.Customer)
	if !currencyPattern.MatchString(p.Currency) {
		f.Add("/currency", "must be an ISO 4217 code, such as GBP")
	}
	f.Between("/hold_seconds", p.HoldSeconds, 1, MaxHold)
	validateLines(&f, p.Lines)
	return f.Err()
}

func validateCustomer(f *problem.Fields, customer string) {
	if n := utf8.RuneCountInString(customer); n < 1 || n > MaxCustomer {
		f.Add("/customer", "must have 1 to %d characters", MaxCustomer)
	}
}

func validateLines(f *problem.Fields, lines []Line) {
	if n := len(lines); n < 1 || n > MaxLines {
		f.Add("/lines", "must have 1 to %d lines; this has %d", MaxLines, n)
		return
	}
	for i, l := range lines {
		f.Name(fmt.Sprintf("/lines/%d/sku", i), l.SKU)
		f.Name(fmt.Sprintf("/lines/%d/location", i), l.Location)
		f.Between(fmt.Sprintf("/lines/%d/quantity", i), l.Quantity, 1, MaxQuantity)
		f.Between(fmt.Sprintf("/lines/%d/unit_price", i), l.UnitPrice, 0, MaxUnitPrice)
	}
	if f.Err() != nil {
		return
	}
	if _, ok := total(lines); !ok {
		f.Add("/lines", "have a total price that is too large")
	}
}

// OrderID returns the order's id.
func (p Place) OrderID() string { return p.ID }

func (p Place) decide(b *UnitOfWork, o *Order) Result {
	content := fingerprintOf([]any{p.Customer, p.Currency, p.HoldSeconds}, p.Lines)
	if o != nil {
		if o.Fingerprint != content {
			return refuse(problem.KeyReused, "Order %s was placed with another content.", p.ID)
		}
		if o.State == Pending {
			return Result{Order: *o, Seq: o.Intent.Seq}
		}
		return Result{Order: *o}
	}
	if p.InventoryUnreachable {
		return refuse(problem.Unavailable, "Inventory can't be reached; the order was not recorded.")
	}
	sum, _ := total(p.Lines)
	o = &Order{
		ID: p.ID, State: Pending, Customer: p.Customer, Currency: p.Currency, HoldSeconds: p.HoldSeconds,
		Lines: p.Lines, Total: sum, CreatedAt: b.now, Fingerprint: content,
	}
	b.orders[o.ID] = o
	b.created[o.ID] = true
	b.open(o, PlaceOperation, p.Lines, content)
	return Result{Order: *o, Seq: o.Seq, Created: true}
}

// Amend replaces all lines of a placed order, and restarts the hold's time.
type Amend struct {
	ID      string
	Lines   []Line
	IfMatch Precondition
}

// Validate reports every field in error as one invalid problem.
func (a Amend) Validate() error {
	var f problem.Fields
	f.Name("/id", a.ID)
	validateLines(&f, a.Lines)
	return f.Err()
}

// OrderID returns the order's id.
func (a Amend) OrderID() string { return a.ID }

func (a Amend) decide(b *UnitOfWork, o *Order) Result {
	content := fingerprintOf(nil, a.Lines)
	if r, ok := pending(o, a.ID, AmendOperation, content); !ok {
		return r
	}
	if !a.IfMatch.holds(o) {
		if o.State == Placed && slices.Equal(o.Lines, a.Lines) {
			return Result{Order: *o}
		}
		return mismatch(o)
	}
	if o.State != Placed {
		return wrongState(o, AmendOperation)
	}
	b.open(o, AmendOperation, a.Lines, content)
	return Result{Order: *o, Seq: o.Seq}
}

// Confirm takes what a placed order holds out of stock.
type Confirm struct {
	ID      string
	IfMatch Precondition
}

// Validate reports an id that is not valid.
func (c Confirm) Validate() error { return validateID(c.ID) }

// OrderID returns the order's id.
func (c Confirm) OrderID() string { return c.ID }

func (c Confirm) decide(b *UnitOfWork, o *Order) Result {
	if r, ok := pending(o, c.ID, ConfirmOperation, ""); !ok {
		return r
	}
	if o.State == Confirmed {
		return Result{Order: *o}
	}
	if !c.IfMatch.holds(o) {
		return mismatch(o)
	}
	if o.State != Placed {
		return wrongState(o, ConfirmOperation)
	}
	b.open(o, ConfirmOperation, nil, "")
	return Result{Order: *o, Seq: o.Seq}
}

// Cancel returns what an order holds or has taken to stock. It supersedes any other
// pending operation.
type Cancel struct {
	ID      string
	IfMatch Precondition
}

// Validate reports an id that is not valid.
func (c Cancel) Validate() error { return validateID(c.ID) }

// OrderID returns the order's id.
func (c Cancel) OrderID() string { return c.ID }

func (c Cancel) decide(b *UnitOfWork, o *Order) Result {
	r, ok := pending(o, c.ID, CancelOperation, "")
	if !ok && problem.CodeOf(r.Err) != problem.OperationPending {
		return r
	}
	if o.State == Cancelled {
		return Result{Order: *o}
	}
	if !c.IfMatch.holds(o) {
		return mismatch(o)
	}
	if o.State == Rejected || o.State == Expired {
		return refuse(problem.WrongState, "An order that is %s can't be cancelled.", o.State)
	}
	b.open(o, CancelOperation, nil, "")
	return Result{Order: *o, Seq: o.Seq}
}

// pending returns true if the order is free for an operation. Otherwise it returns the
// result for an order that does not exist or has an intent: the same operation with the
// same content joins the intent, and any other operation has to wait.
func pending(o *Order, id string, op Operation, content string) (Result, bool) {
	switch {
	case o == nil:
		return refuse(problem.NotFound, "There is no order %s.", id), false
	case o.Intent == nil:
		return Result{}, true
	case o.Intent.Operation == op && o.Intent.Fingerprint == content:
		return Result{Order: *o, Seq: o.Intent.Seq}, false
	}
	r := refuse(problem.OperationPending, "The order's %s is not settled yet.", o.Intent.Operation)
	r.Order = *o
	return r, false
}

// RecordOutcome records an intent's outcome if that seq is still unsettled. If another
// writer was first, it changes nothing, and its result is the order as that writer left
// it.
type RecordOutcome struct {
	ID string
	// Seq and Operation are the intent's.
	Seq       int64
	Operation Operation
	Outcome   Outcome
}

// Validate accepts every RecordOutcome: the protocol makes it.
func (s RecordOutcome) Validate() error { return nil }

// OrderID returns the order's id.
func (s RecordOutcome) OrderID() string { return s.ID }

func (s RecordOutcome) decide(b *UnitOfWork, o *Order) Result {
	if o == nil {
		return refuse(problem.NotFound, "There is no order %s.", s.ID)
	}
	if o.Intent != nil && o.Intent.Seq == s.Seq {
		b.recordOutcome(o, s.Outcome)
	}
	return Result{Order: *o, Seq: s.Seq}
}

// GiveUp ends a place that has been unsettled for too long. It opens a cancel under the
// next seq, if the place's seq is still unsettled.
type GiveUp struct {
	ID  string
	Seq int64
}

// Validate accepts every GiveUp: the settler makes it.
func (g GiveUp) Validate() error { return nil }

// OrderID returns the order's id.
func (g GiveUp) OrderID() string { return g.ID }

func (g GiveUp) decide(b *UnitOfWork, o *Order) Result {
	if o == nil {
		return refuse(problem.NotFound, "There is no order %s.", g.ID)
	}
	if o.Intent != nil && o.Intent.Seq == g.Seq && o.Intent.Operation == PlaceOperation {
		b.open(o, GiveUpOperation, nil, "")
	}
	return Result{Order: *o, Seq: o.Seq}
}

// Expire marks an order as expired after inventory said that its hold has expired. It
// does so only if the order is placed, has no intent, and still has the seq that was
// asked about. A check of the state alone would wrongly expire an order that was amended
// since, or whose confirm was recorded since.
type Expire struct {
	ID  string
	Seq int64
}

// Validate accepts every Expire: the settler makes it.
func (e Expire) Validate() error { return nil }

// OrderID returns the order's id.
func (e Expire) OrderID() string { return e.ID }

func (e Expire) decide(b *UnitOfWork, o *Order) Result {
	if o == nil {
		return refuse(problem.NotFound, "There is no order %s.", e.ID)
	}
	if o.State == Placed && o.Intent == nil && o.Seq == e.Seq {
		o.State = Expired
		b.touch(o)
	}
	return Result{Order: *o}
}

func validateID(id string) error {
	var f problem.Fields
	f.Name("/id", id)
	return f.Err()
}

func fingerprintOf(parts []any, lines []Line) string {
	for _, l := range lines {
		parts = append(parts, l.SKU, l.Location, l.Quantity, l.UnitPrice)
	}
	return fingerprint.Of(parts...)
}

func refuse(code problem.Code, format string, args ...any) Result {
	return Result{Err: problem.New(code, format, args...)}
}

func mismatch(o *Order) Result {
	return refuse(problem.PreconditionFailed, "The order's version is %d.", o.Version)
}

// wrongState refuses an operation with the same problem as inventory: an expired order
// gets reservation-expired.
func wrongState(o *Order, op Operation) Result {
	if o.State == Expired {
		return refuse(problem.ReservationExpired, "The order's hold has expired.")
	}
	return refuse(problem.WrongState, "An order that is %s is no longer open to %s.", o.State, op)
}
