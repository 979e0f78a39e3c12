package order

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"roundtrip/internal/problem"
)

// checkPlaceAnswer compares the answer to a place with the stored order.
func (sim *simulation) checkPlaceAnswer(c Place, answer Response, err error) {
	if err == nil {
		sim.checkVersion(c.ID, answer)
		if answer.Order.Fingerprint != fingerprintOf([]any{c.Customer, c.Currency, c.HoldSeconds}, c.Lines) {
			sim.Fatalf("%+v got an order with other content: %+v", c, answer)
		}
		if answer.Settled == (answer.Order.State == Pending) || answer.Settled && answer.Order.State == Rejected {
			sim.Fatalf("%+v got %+v", c, answer)
		}
		return
	}
	p := problem.From(err)
	switch p.Code {
	case problem.InsufficientStock, problem.GivenUp:
		o := sim.store.orders[c.ID]
		if o.State != Rejected || o.Last.Problem.Code != p.Code || !slices.Equal(o.Last.Problem.Shortages, p.Shortages) {
			sim.Fatalf("%+v got %v, and the order is %+v", c, err, o)
		}
		if first := sim.rejections[c.ID]; first != nil && !reflect.DeepEqual(stored(p), first) {
			sim.Fatalf("%+v got %v first, and now %v", c, first, err)
		}
		sim.rejections[c.ID] = stored(p)
	case problem.KeyReused:
		if sim.store.orders[c.ID].Customer == c.Customer && slices.Equal(sim.store.history[c.ID][0].Lines, c.Lines) {
			sim.Fatalf("%+v got %v", c, err)
		}
	default:
		sim.checkFailure(err)
	}
}

// checkChangeAnswer compares the answer to every other operation with the stored order.
func (sim *simulation) checkChangeAnswer(id string, op Operation, lines []Line, match Precondition, answer Response, err error) {
	ended := func(outcome OutcomeKind, code problem.Code) bool {
		if repaired := sim.store.repaired[id].Last; repaired != nil && repaired.Operation == op && repaired.Outcome == outcome && code == "" {
			return true
		}
		return slices.ContainsFunc(sim.store.intents[id], func(in storedIntent) bool {
			return in.Operation == op && slices.Equal(in.Lines, lines) && in.settlement != nil && in.settlement.Outcome == outcome &&
				(in.settlement.Problem == nil && code == "" || in.settlement.Problem != nil && in.settlement.Problem.Code == code)
		})
	}
	was := func(is func(Order) bool) bool { return slices.ContainsFunc(sim.store.history[id], is) }
	switch code := problem.CodeOf(err); code {
	case "":
		sim.checkVersion(id, answer)
		already := match.Given && op == AmendOperation && was(func(o Order) bool { return slices.Equal(o.Lines, lines) })
		if answer.Settled && !ended(OutcomeDone, "") && !already {
			sim.Fatalf("the %s of %s got a success that is not recorded: %+v", op, id, answer)
		}
		if !answer.Settled && answer.Order.Intent == nil {
			sim.Fatalf("the %s of %s got an unsettled order without an intent: %+v", op, id, answer)
		}
	case problem.InsufficientStock:
		if !ended(OutcomeRejected, code) {
			sim.Fatalf("the %s of %s got %v, which is not recorded", op, id, err)
		}
	case problem.ReservationExpired:
		if !ended(OutcomeRejected, code) && !was(func(o Order) bool { return o.State == Expired }) {
			sim.Fatalf("the %s of %s got %v, which is not recorded", op, id, err)
		}
	case problem.WrongState:
		if !was(func(o Order) bool { return o.State != Pending && o.State != Placed }) {
			sim.Fatalf("the %s of %s got %v", op, id, err)
		}
	case problem.PreconditionFailed:
		if !match.Given || match.Any {
			sim.Fatalf("the %s of %s got %v", op, id, err)
		}
	case problem.NotFound:
	case problem.OperationPending:
		if op == CancelOperation {
			sim.Fatalf("a cancel got %v; it never waits", err)
		}
	default:
		sim.checkFailure(err)
	}
}

// checkVersion checks that the answer is a stored version of the order (invariant
// 3).
func (sim *simulation) checkVersion(id string, answer Response) {
	if v := answer.Order.Version; v < 1 || v > int64(len(sim.store.history[id])) || !reflect.DeepEqual(answer.Order, sim.store.history[id][v-1]) {
		sim.Fatalf("the answer %+v is not a version of %s", answer, id)
	}
}

func (sim *simulation) checkFailure(err error) {
	if !errors.Is(err, context.Canceled) && problem.CodeOf(err) != problem.Unavailable {
		sim.Fatalf("a caller got %v", err)
	}
}

// checkInvariants runs after every step.
func (sim *simulation) checkInvariants() {
	if err := errors.Join(sim.store.violations...); err != nil {
		sim.Fatal(err)
	}
	for at, n := range sim.client.onHand {
		if held := n - sim.client.available(at, nil); held < 0 || held > n {
			sim.Fatalf("%v has %d on hand and %d held", at, n, held)
		}
	}
	if sim.diverged {
		return
	}
	for _, reason := range sim.alarms {
		if reason != "unexplained" && reason != string(problem.Forbidden) {
			sim.Fatalf("there was the alarm %s", reason)
		}
	}
	if len(sim.alarms) > sim.alarmingAnswers {
		sim.Fatalf("there were %d alarms for %d answers that raise one", len(sim.alarms), sim.alarmingAnswers)
	}
	for id, o := range sim.store.orders {
		sim.checkAgainstModel(o)
		if o.Intent == nil {
			if err := checkAgreement(o, sim.client.reservations[id], sim.now); err != nil {
				sim.Fatal(err)
			}
		}
	}
	for id, res := range sim.client.reservations {
		if o, ok := sim.store.orders[id]; !ok || res.seq > o.Seq {
			sim.Fatalf("inventory is at seq %d of %s, orders is at %+v", res.seq, id, o)
		}
	}
}

// checkAgainstModel derives the order from the settlements of its intents. Each
// settlement must be what inventory decided under that seq.
func (sim *simulation) checkAgainstModel(o Order) {
	decided := map[int64]storedOutcome{}
	for _, d := range sim.client.outcomes {
		if d.ID == o.ID {
			decided[d.Seq] = d
		}
	}
	intents := sim.store.intents[o.ID]
	state, lines := Pending, intents[0].Lines
	var hold time.Time
	repaired, isRepaired := sim.store.repaired[o.ID]
	if isRepaired {
		state, lines, hold = repaired.State, repaired.Lines, repaired.HoldExpiresAt
	}
	for _, in := range intents {
		if in.settlement == nil || in.settlement.Outcome == OutcomeSuperseded || in.Seq < repaired.Seq {
			continue
		}
		d, ok := decided[in.Seq]
		var rejection problem.Code
		if d.rejection != nil {
			rejection = d.rejection.Code
		}
		givenUp := in.Operation == GiveUpOperation
		switch {
		case !ok:
			sim.Fatalf("operation %d of %s ended %+v, and inventory has not decided it", in.Seq, o.ID, in.settlement)
		case givenUp && (rejection != "" || in.settlement.Outcome != OutcomeRejected || in.settlement.Problem.Code != problem.GivenUp),
			!givenUp && (in.settlement.Outcome == OutcomeDone) != (rejection == ""),
			!givenUp && rejection != "" && (in.settlement.Problem.Code != rejection || !slices.Equal(in.settlement.Problem.Shortages, d.rejection.Shortages)):
			sim.Fatalf("operation %d of %s ended %+v, inventory decided %q", in.Seq, o.ID, in.settlement, rejection)
		}
		switch {
		case givenUp, in.Operation == PlaceOperation && rejection != "":
			state = Rejected
		case in.Operation == CancelOperation:
			state = Cancelled
		case in.Operation == ConfirmOperation && rejection == "":
			state = Confirmed
		case rejection == problem.ReservationExpired:
			state = Expired
		case rejection == "":
			state, lines, hold = Placed, in.Lines, d.expires
		}
	}
	if o.State == Expired && state == Placed && !sim.now.Before(hold) {
		state = Expired // marked by the settler, or expired when the outcome arrived
	}
	sum, _ := total(lines)
	if o.State != state || !slices.Equal(o.Lines, lines) || o.Total != sum {
		sim.Fatalf("order %s is\n%+v, want %s with %v by its settlements", o.ID, o, state, lines)
	}
}
