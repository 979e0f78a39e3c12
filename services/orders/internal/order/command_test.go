package order

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"roundtrip/internal/problem"
)

var (
	placedLines = []Line{
		{SKU: "a", Location: MainLocation, Quantity: 2, UnitPrice: 100},
		{SKU: "b", Location: "east", Quantity: 1, UnitPrice: 50},
	}
	amendedLines = []Line{{SKU: "a", Location: MainLocation, Quantity: 5, UnitPrice: 90}}
	otherLines   = []Line{{SKU: "c", Location: MainLocation, Quantity: 1, UnitPrice: 1}}
)

func placeCommand(id string) Place {
	return Place{ID: id, Customer: "Ada", Currency: "GBP", HoldSeconds: 600, Lines: placedLines}
}

// situations are the states of an order and the operations that may be pending in
// each, written state/operation. A final state never has a pending operation;
// pending always has one.
var situations = []string{
	"missing", "pending/place", "pending/cancel", "pending/give-up",
	"placed/-", "placed/amend", "placed/confirm", "placed/cancel", "confirmed/-", "confirmed/cancel",
	"rejected/-", "cancelled/-", "expired/-",
}

// orderIn returns an order in a situation. It is nil for "missing".
func orderIn(situation string) *Order {
	state, operation, ok := strings.Cut(situation, "/")
	if !ok {
		return nil
	}
	created := NewUnitOfWork(start, nil).Decide(placeCommand("order-1")).Order
	o := &Order{
		ID: "order-1", State: State(state), Version: 7, Customer: "Ada", Currency: "GBP", HoldSeconds: 600,
		Lines: placedLines, Total: 250, CreatedAt: start.Add(-time.Hour), UpdatedAt: start.Add(-time.Minute),
		Seq: 3, Fingerprint: created.Fingerprint,
	}
	if o.State == Placed || o.State == Expired {
		o.HoldExpiresAt = start.Add(time.Minute)
	}
	if o.State != Pending {
		o.Last = &Settlement{Operation: PlaceOperation, Seq: 1, Outcome: OutcomeDone}
	}
	if operation != "-" {
		o.Intent = &Intent{Operation: Operation(operation), Seq: 3, Since: start.Add(-time.Minute)}
		switch o.Intent.Operation {
		case PlaceOperation:
			o.Intent.Lines, o.Intent.Fingerprint = placedLines, o.Fingerprint
		case AmendOperation:
			o.Intent.Lines, o.Intent.Fingerprint = amendedLines, fingerprintOf(nil, amendedLines)
		}
	}
	return o
}

// column is a command of a table, with the intent that it may record.
type column struct {
	name  string
	make  func(seq int64) Command
	opens Operation
	lines []Line
}

// changeColumns are the columns of the callers' commands, all with one
// precondition.
func changeColumns(p Precondition) []column {
	amend := func(name string, lines []Line) column {
		return column{name, func(int64) Command { return Amend{ID: "order-1", Lines: lines, IfMatch: p} }, AmendOperation, lines}
	}
	return []column{
		amend("amend-pending", amendedLines), amend("amend-current", placedLines), amend("amend-other", otherLines),
		{"confirm", func(int64) Command { return Confirm{ID: "order-1", IfMatch: p} }, ConfirmOperation, nil},
		{"cancel", func(int64) Command { return Cancel{ID: "order-1", IfMatch: p} }, CancelOperation, nil},
	}
}

// Every command in every situation. A cell is a problem's code, or:
//
//	opens    an intent is recorded under the next seq; a pending one is superseded
//	joins    the pending intent answers; nothing is written
//	true     the order already has this state; nothing is written
//	nothing  another process was first; nothing is written, and there is no error
//	settles  the pending intent ends
//	marks    the order is marked expired
func TestEveryCommandInEverySituation(t *testing.T) {
	t.Parallel()
	other := func(change func(*Place)) func(int64) Command {
		p := placeCommand("order-1")
		change(&p)
		return func(int64) Command { return p }
	}
	t.Run("place", func(t *testing.T) {
		t.Parallel()
		same := column{"same", other(func(*Place) {}), PlaceOperation, placedLines}
		away := column{"inventory-away", other(func(p *Place) { p.InventoryUnreachable = true }), PlaceOperation, placedLines}
		lines := column{"other-lines", other(func(p *Place) { p.Lines = otherLines }), PlaceOperation, otherLines}
		holds := column{"other-hold", other(func(p *Place) { p.HoldSeconds++ }), PlaceOperation, placedLines}
		checkCells(t, []column{same, away, lines, holds}, `
			order             same   inventory-away  other-lines  other-hold
			missing           opens  unavailable     opens        opens
			pending/place     joins  joins           key-reused   key-reused
			pending/cancel    joins  joins           key-reused   key-reused
			pending/give-up   joins  joins           key-reused   key-reused
			placed/-          true   true            key-reused   key-reused
			placed/amend      true   true            key-reused   key-reused
			placed/confirm    true   true            key-reused   key-reused
			placed/cancel     true   true            key-reused   key-reused
			confirmed/-       true   true            key-reused   key-reused
			confirmed/cancel  true   true            key-reused   key-reused
			rejected/-        true   true            key-reused   key-reused
			cancelled/-       true   true            key-reused   key-reused
			expired/-         true   true            key-reused   key-reused`)
	})
	for name, p := range map[string]Precondition{
		"without If-Match":              {},
		"If-Match the version":          {Given: true, Versions: []int64{7}},
		"If-Match one of many versions": {Given: true, Versions: []int64{1, 7, 9}},
		"If-Match *":                    {Given: true, Any: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkCells(t, changeColumns(p), `
				order             amend-pending        amend-current        amend-other          confirm              cancel
				missing           not-found            not-found            not-found            not-found            not-found
				pending/place     operation-pending    operation-pending    operation-pending    operation-pending    opens
				pending/cancel    operation-pending    operation-pending    operation-pending    operation-pending    joins
				pending/give-up   operation-pending    operation-pending    operation-pending    operation-pending    opens
				placed/-          opens                opens                opens                opens                opens
				placed/amend      joins                operation-pending    operation-pending    operation-pending    opens
				placed/confirm    operation-pending    operation-pending    operation-pending    joins                opens
				placed/cancel     operation-pending    operation-pending    operation-pending    operation-pending    joins
				confirmed/-       wrong-state          wrong-state          wrong-state          true                 opens
				confirmed/cancel  operation-pending    operation-pending    operation-pending    operation-pending    joins
				rejected/-        wrong-state          wrong-state          wrong-state          wrong-state          wrong-state
				cancelled/-       wrong-state          wrong-state          wrong-state          wrong-state          true
				expired/-         reservation-expired  reservation-expired  reservation-expired  reservation-expired  wrong-state`)
		})
	}
	// Joining comes before the precondition, and a change that is already true
	// ignores it.
	for name, p := range map[string]Precondition{
		"If-Match another version":          {Given: true, Versions: []int64{6}},
		"If-Match only foreign tags":        {Given: true},
		"If-Match a list without it":        {Given: true, Versions: []int64{1, 6, 8}},
		"If-Match a version that never was": {Given: true, Versions: []int64{0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkCells(t, changeColumns(p), `
				order             amend-pending        amend-current        amend-other          confirm              cancel
				missing           not-found            not-found            not-found            not-found            not-found
				pending/place     operation-pending    operation-pending    operation-pending    operation-pending    precondition-failed
				pending/cancel    operation-pending    operation-pending    operation-pending    operation-pending    joins
				pending/give-up   operation-pending    operation-pending    operation-pending    operation-pending    precondition-failed
				placed/-          precondition-failed  true                 precondition-failed  precondition-failed  precondition-failed
				placed/amend      joins                operation-pending    operation-pending    operation-pending    precondition-failed
				placed/confirm    operation-pending    operation-pending    operation-pending    joins                precondition-failed
				placed/cancel     operation-pending    operation-pending    operation-pending    operation-pending    joins
				confirmed/-       precondition-failed  precondition-failed  precondition-failed  true                 precondition-failed
				confirmed/cancel  operation-pending    operation-pending    operation-pending    operation-pending    joins
				rejected/-        precondition-failed  precondition-failed  precondition-failed  precondition-failed  precondition-failed
				cancelled/-       precondition-failed  precondition-failed  precondition-failed  precondition-failed  true
				expired/-         precondition-failed  precondition-failed  precondition-failed  precondition-failed  precondition-failed`)
		})
	}
	t.Run("commands of the protocol", func(t *testing.T) {
		t.Parallel()
		settle := func(by int64) func(int64) Command {
			return func(seq int64) Command {
				return RecordOutcome{ID: "order-1", Seq: seq + by, Outcome: Outcome{Reservation: ReservationHeld, ExpiresAt: start.Add(time.Hour)}}
			}
		}
		giveUp := func(by int64) func(int64) Command {
			return func(seq int64) Command { return GiveUp{ID: "order-1", Seq: seq + by} }
		}
		expire := func(by int64) func(int64) Command {
			return func(seq int64) Command { return Expire{ID: "order-1", Seq: seq + by} }
		}
		checkCells(t, []column{
			{"settle", settle(0), "", nil}, {"settle-earlier", settle(-1), "", nil}, {"settle-later", settle(1), "", nil},
			{"give-up", giveUp(0), GiveUpOperation, nil}, {"give-up-earlier", giveUp(-1), "", nil}, {"give-up-later", giveUp(1), "", nil},
			{"expire", expire(0), "", nil}, {"expire-earlier", expire(-1), "", nil}, {"expire-later", expire(1), "", nil},
		}, `
			order             settle     settle-earlier  settle-later  give-up    give-up-earlier  give-up-later  expire     expire-earlier  expire-later
			missing           not-found  not-found       not-found     not-found  not-found        not-found      not-found  not-found       not-found
			pending/place     settles    nothing         nothing       opens      nothing          nothing        nothing    nothing         nothing
			pending/cancel    settles    nothing         nothing       nothing    nothing          nothing        nothing    nothing         nothing
			pending/give-up   settles    nothing         nothing       nothing    nothing          nothing        nothing    nothing         nothing
			placed/-          nothing    nothing         nothing       nothing    nothing          nothing        marks      nothing         nothing
			placed/amend      settles    nothing         nothing       nothing    nothing          nothing        nothing    nothing         nothing
			placed/confirm    settles    nothing         nothing       nothing    nothing          nothing        nothing    nothing         nothing
			placed/cancel     settles    nothing         nothing       nothing    nothing          nothing        nothing    nothing         nothing
			confirmed/-       nothing    nothing         nothing       nothing    nothing          nothing        nothing    nothing         nothing
			confirmed/cancel  settles    nothing         nothing       nothing    nothing          nothing        nothing    nothing         nothing
			rejected/-        nothing    nothing         nothing       nothing    nothing          nothing        nothing    nothing         nothing
			cancelled/-       nothing    nothing         nothing       nothing    nothing          nothing        nothing    nothing         nothing
			expired/-         nothing    nothing         nothing       nothing    nothing          nothing        nothing    nothing         nothing`)
	})
}

// checkCells runs a table with a line for each situation and a column for each
// command.
func checkCells(t *testing.T, columns []column, table string) {
	t.Helper()
	var names []string
	for _, c := range columns {
		names = append(names, c.name)
	}
	forEachCell(t, situations, names, table, func(t *testing.T, situation string, i int, cell string) {
		checkCell(t, situation, columns[i], cell)
	})
}

func checkCell(t *testing.T, situation string, c column, cell string) {
	before := orderIn(situation)
	var orders []Order
	pendingSeq, last := int64(0), int64(0)
	if before != nil {
		orders, last = []Order{*before}, before.Seq
		if before.Intent != nil {
			pendingSeq = before.Intent.Seq
		}
	}
	unit := NewUnitOfWork(start, orders)
	command := c.make(last)
	if err := command.Validate(); err != nil {
		t.Fatal(err)
	}
	if command.OrderID() != "order-1" {
		t.Fatalf("the command names order %q", command.OrderID())
	}
	got, changes := unit.Decide(command), unit.Changes()

	switch cell {
	case "opens":
		checkOpened(t, before, c, got, changes)
		return
	case "settles":
		checkSettled(t, *before, got, changes)
		return
	case "marks":
		want := *before
		want.State, want.Version, want.UpdatedAt = Expired, 8, start
		if got.Err != nil || !reflect.DeepEqual(got.Order, want) {
			t.Errorf("the result is %+v, want %+v", got, want)
		}
		if len(changes.Orders) != 1 || len(changes.Opened)+len(changes.Closed)+len(changes.Created) > 0 {
			t.Errorf("the changes are %+v, want only the order", changes)
		}
		return
	}

	if !changes.Empty() || len(changes.Opened)+len(changes.Closed)+len(changes.Created) > 0 {
		t.Errorf("the changes are %+v, want none", changes)
	}
	if got.Created {
		t.Error("the result says that the order was created")
	}
	code := problem.CodeOf(got.Err)
	wantSame := true
	switch cell {
	case "joins":
		if code != "" || got.Seq != pendingSeq {
			t.Errorf("the result is %q with seq %d, want the intent's seq %d", code, got.Seq, pendingSeq)
		}
	case "true":
		if code != "" || got.Seq != 0 {
			t.Errorf("the result is %q with seq %d, want neither", code, got.Seq)
		}
	case "nothing":
		if code != "" {
			t.Errorf("the result is %v, want no error", got.Err)
		}
	default:
		if code != problem.Code(cell) {
			t.Errorf("the result is %q (%v), want %s", code, got.Err, cell)
		}
		if problem.From(got.Err).Detail == "" {
			t.Error("the problem has no detail")
		}
		wantSame = code == problem.OperationPending
	}
	if wantSame && !reflect.DeepEqual(got.Order, *before) {
		t.Errorf("the order is %+v, want it as it was: %+v", got.Order, *before)
	}
}

func checkOpened(t *testing.T, before *Order, c column, got Result, changes Changes) {
	t.Helper()
	if got.Err != nil {
		t.Fatal(got.Err)
	}
	var want Order
	var closed []ClosedIntent
	if before == nil {
		p := c.make(0).(Place)
		want = Order{
			ID: "order-1", State: Pending, Customer: p.Customer, Currency: p.Currency, HoldSeconds: p.HoldSeconds, Lines: c.lines,
			CreatedAt: start, Fingerprint: got.Order.Fingerprint,
		}
		want.Total, _ = total(c.lines)
	} else {
		want = *before
		if in := before.Intent; in != nil {
			closed = []ClosedIntent{{"order-1", Settlement{Operation: in.Operation, Seq: in.Seq, Outcome: OutcomeSuperseded}}}
		}
	}
	want.Seq++
	want.Version++
	want.UpdatedAt = start
	want.Intent = &Intent{Operation: c.opens, Seq: want.Seq, Since: start, Lines: c.lines}
	if got.Order.Intent != nil { // any fingerprint will do: the joining cells check it
		want.Intent.Fingerprint = got.Order.Intent.Fingerprint
	}
	if !reflect.DeepEqual(got, Result{Order: want, Seq: want.Seq, Created: before == nil}) {
		t.Errorf("the result is\n%+v %+v, want\n%+v %+v", got, got.Order.Intent, want, want.Intent)
	}
	created := map[string]bool{}
	if before == nil {
		created["order-1"] = true
	}
	wantChanges := Changes{
		Orders: []Order{want}, Created: created, Opened: []OpenedIntent{{"order-1", *want.Intent}}, Closed: closed,
	}
	if !reflect.DeepEqual(changes, wantChanges) {
		t.Errorf("the changes are\n%+v, want\n%+v", changes, wantChanges)
	}
}

// checkSettled checks that the pending intent ended. TestSettlingTable checks how.
func checkSettled(t *testing.T, before Order, got Result, changes Changes) {
	t.Helper()
	if got.Err != nil || got.Seq != before.Intent.Seq {
		t.Fatalf("the result is %+v, want seq %d", got, before.Intent.Seq)
	}
	o := got.Order
	if o.Intent != nil || o.Version != before.Version+1 || o.Seq != before.Seq || !o.UpdatedAt.Equal(start) {
		t.Errorf("the order is %+v, want no intent, the next version and the same seq", o)
	}
	if len(changes.Orders) != 1 || len(changes.Opened)+len(changes.Created) > 0 || len(changes.Closed) != 1 {
		t.Fatalf("the changes are %+v, want the order and the end of its intent", changes)
	}
	if !reflect.DeepEqual(changes.Closed[0], ClosedIntent{"order-1", *o.Last}) || o.Last.Seq != before.Intent.Seq {
		t.Errorf("the intent ends as %+v, the order says %+v", changes.Closed[0], o.Last)
	}
}

// The order's state follows the reservation's. Its lines become the intent's only
// if inventory did what was asked.
func TestSettlingTable(t *testing.T) {
	t.Parallel()
	const short, expired, wrong = problem.InsufficientStock, problem.ReservationExpired, problem.WrongState
	for _, test := range []struct {
		situation string
		rejection problem.Code // "" is done
		now       ReservationState
		want      State
		lines     []Line
		hold      string // new, kept or none
		last      Operation
		outcome   OutcomeKind
		problem   problem.Code
	}{
		{"pending/place", "", ReservationHeld, Placed, placedLines, "new", PlaceOperation, OutcomeDone, ""},
		{"pending/place", "", ReservationExpired, Expired, placedLines, "new", PlaceOperation, OutcomeDone, ""},
		{"pending/place", short, ReservationNone, Rejected, placedLines, "none", PlaceOperation, OutcomeRejected, short},
		{"pending/place", wrong, ReservationReleased, Cancelled, placedLines, "none", PlaceOperation, OutcomeRejected, wrong},
		{"placed/amend", "", ReservationHeld, Placed, amendedLines, "new", AmendOperation, OutcomeDone, ""},
		{"placed/amend", "", ReservationExpired, Expired, amendedLines, "new", AmendOperation, OutcomeDone, ""},
		{"placed/amend", short, ReservationHeld, Placed, placedLines, "kept", AmendOperation, OutcomeRejected, short},
		{"placed/amend", short, ReservationExpired, Expired, placedLines, "kept", AmendOperation, OutcomeRejected, short},
		{"placed/amend", expired, ReservationExpired, Expired, placedLines, "kept", AmendOperation, OutcomeRejected, expired},
		{"placed/amend", wrong, ReservationCommitted, Confirmed, placedLines, "none", AmendOperation, OutcomeRejected, wrong},
		{"placed/amend", wrong, ReservationReleased, Cancelled, placedLines, "none", AmendOperation, OutcomeRejected, wrong},
		{"placed/confirm", "", ReservationCommitted, Confirmed, placedLines, "none", ConfirmOperation, OutcomeDone, ""},
		{"placed/confirm", expired, ReservationExpired, Expired, placedLines, "kept", ConfirmOperation, OutcomeRejected, expired},
		{"placed/confirm", wrong, ReservationReleased, Cancelled, placedLines, "none", ConfirmOperation, OutcomeRejected, wrong},
		{"placed/confirm", wrong, ReservationNone, Rejected, placedLines, "none", ConfirmOperation, OutcomeRejected, wrong},
		{"pending/cancel", "", ReservationReleased, Cancelled, placedLines, "none", CancelOperation, OutcomeDone, ""},
		{"placed/cancel", "", ReservationReleased, Cancelled, placedLines, "none", CancelOperation, OutcomeDone, ""},
		{"confirmed/cancel", "", ReservationReleased, Cancelled, placedLines, "none", CancelOperation, OutcomeDone, ""},
		// The caller of the place sees that the place was rejected.
		{"pending/give-up", "", ReservationReleased, Rejected, placedLines, "none", PlaceOperation, OutcomeRejected, problem.GivenUp},
	} {
		t.Run(fmt.Sprintf("%s is %s, now %s", test.situation, cmp.Or(test.rejection, "done"), test.now), func(t *testing.T) {
			t.Parallel()
			before := orderIn(test.situation)
			outcome := Outcome{Reservation: test.now}
			if test.rejection != "" {
				outcome.Rejection = problem.New(test.rejection, "No.")
			} else if test.now == ReservationHeld || test.now == ReservationExpired {
				outcome.ExpiresAt = start.Add(15 * time.Minute)
			}
			unit := NewUnitOfWork(start, []Order{*before})
			got := unit.Decide(RecordOutcome{ID: "order-1", Seq: 3, Operation: before.Intent.Operation, Outcome: outcome})
			checkSettled(t, *before, got, unit.Changes())

			o := got.Order
			want := *before
			want.State, want.Lines, want.Version, want.UpdatedAt, want.Intent, want.Last = test.want, test.lines, 8, start, nil, o.Last
			want.Total, _ = total(test.lines)
			want.HoldExpiresAt = map[string]time.Time{"new": start.Add(15 * time.Minute), "kept": start.Add(time.Minute)}[test.hold]
			if !reflect.DeepEqual(o, want) {
				t.Errorf("the order is\n%+v, want\n%+v", o, want)
			}
			var code problem.Code
			if o.Last.Problem != nil {
				code = o.Last.Problem.Code
			}
			if o.Last.Operation != test.last || o.Last.Outcome != test.outcome || code != test.problem {
				t.Errorf("the last operation is %+v (%s), want %s %s %s", o.Last, code, test.last, test.outcome, test.problem)
			}
		})
	}
}

// A unit of work never changes the orders that it was given or the results that it
// returned.
func TestUnitOfWorkCopiesOrders(t *testing.T) {
	t.Parallel()
	given := orderIn("placed/amend")
	was := copied(*given)
	unit := NewUnitOfWork(start, []Order{*given})
	first := unit.Decide(Cancel{ID: "order-1"})
	decided := copied(first.Order)
	unit.Decide(RecordOutcome{ID: "order-1", Seq: 4, Operation: CancelOperation, Outcome: Outcome{Reservation: ReservationReleased}})
	if !reflect.DeepEqual(*given, was) {
		t.Errorf("the loaded order became %+v", *given)
	}
	if !reflect.DeepEqual(first.Order, decided) {
		t.Errorf("the first result's order became %+v, was %+v", first.Order, decided)
	}
}

// Commands are decided in the order of their arrival. Each sees the changes of
// those before it.
func TestCommandsAreDecidedInOrder(t *testing.T) {
	t.Parallel()
	unit := NewUnitOfWork(start, []Order{*orderIn("placed/-")})
	new2 := placeCommand("order-2")
	new0 := placeCommand("order-0")
	commands := []Command{
		new2, new2, Confirm{ID: "order-1"}, Cancel{ID: "order-2"}, new0,
		RecordOutcome{ID: "order-2", Seq: 1, Outcome: Outcome{Reservation: ReservationHeld}},
		RecordOutcome{ID: "order-2", Seq: 2, Outcome: Outcome{Reservation: ReservationReleased}},
		Cancel{ID: "order-1"}, Confirm{ID: "order-1"}, new2,
	}
	wantSeqs := []int64{1, 1, 4, 2, 1, 1, 2, 5, 0, 0}
	for i, c := range commands {
		r := unit.Decide(c)
		if r.Seq != wantSeqs[i] {
			t.Errorf("command %d has seq %d, want %d", i, r.Seq, wantSeqs[i])
		}
		if created := i == 0 || i == 4; r.Created != created {
			t.Errorf("command %d created an order: %v, want %v", i, r.Created, created)
		}
		if pending := i == 8; (problem.CodeOf(r.Err) == problem.OperationPending) != pending {
			t.Errorf("command %d got %v", i, r.Err)
		}
	}
	changes := unit.Changes()
	var ids []string
	for _, o := range changes.Orders {
		ids = append(ids, fmt.Sprintf("%s %s v%d", o.ID, o.State, o.Version))
	}
	if want := []string{"order-0 pending v1", "order-1 placed v9", "order-2 cancelled v3"}; !slices.Equal(ids, want) {
		t.Errorf("the changed orders are %v, want %v", ids, want)
	}
	if !reflect.DeepEqual(changes.Created, map[string]bool{"order-0": true, "order-2": true}) {
		t.Errorf("the created orders are %v", changes.Created)
	}
	var opened, closed []string
	for _, in := range changes.Opened {
		opened = append(opened, fmt.Sprint(in.OrderID, " ", in.Seq, " ", in.Operation))
	}
	for _, in := range changes.Closed {
		closed = append(closed, fmt.Sprint(in.OrderID, " ", in.Seq, " ", in.Outcome))
	}
	if want := []string{"order-2 1 place", "order-1 4 confirm", "order-2 2 cancel", "order-0 1 place", "order-1 5 cancel"}; !slices.Equal(opened, want) {
		t.Errorf("the opened intents are %v, want %v", opened, want)
	}
	if want := []string{"order-2 1 superseded", "order-2 2 done", "order-1 4 superseded"}; !slices.Equal(closed, want) {
		t.Errorf("the closed intents are %v, want %v", closed, want)
	}
}
