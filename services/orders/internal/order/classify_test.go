package order

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"roundtrip/internal/problem"
)

// TestClassify enumerates docs/protocol.md, "Only an outcome settles". Each table
// has a line for each answer. A cell is "outcome", or why the answer settles nothing:
//
//	again        the same request again may settle it; there is no alarm
//	unexplained  an alarm: no rule of the protocol gives such an answer
//	a code       an alarm: repeating the request does not help
//	-            inventory never gives this answer to this request; not checked
//
// The request is for order-1 under seq 3, and asks for the state of its column.
func TestClassify(t *testing.T) {
	t.Parallel()
	expiresAt := start.Add(time.Hour)
	asked := []string{"held", "committed", "released"}
	success := func(state ReservationState) Reservation {
		return Reservation{ID: "order-1", Seq: 3, State: state, ExpiresAt: expiresAt}
	}
	reject := func(code problem.Code, current *problem.Current) error {
		p := problem.New(code, "No.")
		p.Current = current
		return p
	}
	current := func(state string) *problem.Current { return &problem.Current{ID: "order-1", Seq: 3, State: state} }
	check := func(t *testing.T, state string, r Reservation, err error, cell string) {
		t.Helper()
		checkClassified(t, Request{ID: "order-1", Seq: 3, State: ReservationState(state)}, r, err, cell)
	}

	t.Run("success, the reservation is", func(t *testing.T) {
		t.Parallel()
		rows := []string{"none", "held", "expired", "committed", "released", "(empty)", "HELD", "sold"}
		forEachCell(t, rows, asked, `
			answer       held         committed    released
			none         unexplained  unexplained  unexplained
			held         outcome      unexplained  unexplained
			expired      outcome      unexplained  unexplained
			committed    unexplained  outcome      unexplained
			released     unexplained  unexplained  outcome
			(empty)      unexplained  unexplained  unexplained
			HELD         unexplained  unexplained  unexplained
			sold         unexplained  unexplained  unexplained`, func(t *testing.T, row string, column int, cell string) {
			state := ReservationState(row)
			if row == "(empty)" {
				state = ""
			}
			check(t, asked[column], success(state), nil, cell)
		})
	})

	t.Run("success for", func(t *testing.T) {
		t.Parallel()
		answers := map[string]Reservation{
			"nothing":         {},
			"no-id":           {Seq: 3},
			"another-id":      {ID: "order-2", Seq: 3},
			"the-id-in-upper": {ID: "ORDER-1", Seq: 3},
			"no-seq":          {ID: "order-1"},
			"an-earlier-seq":  {ID: "order-1", Seq: 2},
			"a-later-seq":     {ID: "order-1", Seq: 4},
		}
		rows := []string{"nothing", "no-id", "another-id", "the-id-in-upper", "no-seq", "an-earlier-seq", "a-later-seq"}
		forEachCell(t, rows, asked, `
			answer           held         committed    released
			nothing          unexplained  unexplained  unexplained
			no-id            unexplained  unexplained  unexplained
			another-id       unexplained  unexplained  unexplained
			the-id-in-upper  unexplained  unexplained  unexplained
			no-seq           unexplained  unexplained  unexplained
			an-earlier-seq   unexplained  unexplained  unexplained
			a-later-seq      unexplained  unexplained  unexplained`, func(t *testing.T, row string, column int, cell string) {
			answer := answers[row]
			if row != "nothing" {
				answer.State = ReservationState(asked[column])
			}
			check(t, asked[column], answer, nil, cell)
		})
	})

	rejections := []problem.Code{problem.InsufficientStock, problem.ReservationExpired, problem.WrongState}
	t.Run("rejection, the reservation is", func(t *testing.T) {
		t.Parallel()
		var rows []string
		for _, code := range rejections {
			for _, state := range []string{"none", "held", "expired", "committed", "released"} {
				rows = append(rows, string(code)+"/"+state)
			}
		}
		forEachCell(t, rows, asked, `
			answer                         held     committed  released
			insufficient-stock/none        outcome  -          -
			insufficient-stock/held        outcome  -          -
			insufficient-stock/expired     outcome  -          -
			insufficient-stock/committed   -        -          -
			insufficient-stock/released    -        -          -
			reservation-expired/none       -        -          -
			reservation-expired/held       -        -          -
			reservation-expired/expired    outcome  outcome    -
			reservation-expired/committed  -        -          -
			reservation-expired/released   -        -          -
			wrong-state/none               -        outcome    -
			wrong-state/held               -        -          -
			wrong-state/expired            -        -          -
			wrong-state/committed          outcome  -          -
			wrong-state/released           outcome  outcome    -`, func(t *testing.T, row string, column int, cell string) {
			code, state, _ := strings.Cut(row, "/")
			check(t, asked[column], Reservation{}, reject(problem.Code(code), current(state)), cell)
		})
	})

	t.Run("rejection with", func(t *testing.T) {
		t.Parallel()
		currents := map[string]*problem.Current{
			"no-current":         nil,
			"an-empty-current":   {},
			"another-id":         {ID: "order-2", Seq: 3, State: "held"},
			"no-id":              {Seq: 3, State: "held"},
			"an-earlier-seq":     {ID: "order-1", Seq: 2, State: "held"},
			"a-later-seq":        {ID: "order-1", Seq: 4, State: "held"},
			"no-state":           current(""),
			"an-unknown-state":   current("sold"),
			"an-order's-state":   current("placed"),
			"a-state-in-capital": current("Held"),
		}
		rows := []string{"no-current", "an-empty-current", "another-id", "no-id", "an-earlier-seq", "a-later-seq",
			"no-state", "an-unknown-state", "an-order's-state", "a-state-in-capital"}
		for _, code := range rejections {
			t.Run(string(code), func(t *testing.T) {
				t.Parallel()
				forEachCell(t, rows, asked, `
					answer              held         committed    released
					no-current          unexplained  unexplained  unexplained
					an-empty-current    unexplained  unexplained  unexplained
					another-id          unexplained  unexplained  unexplained
					no-id               unexplained  unexplained  unexplained
					an-earlier-seq      unexplained  unexplained  unexplained
					a-later-seq         unexplained  unexplained  unexplained
					no-state            unexplained  unexplained  unexplained
					an-unknown-state    unexplained  unexplained  unexplained
					an-order's-state    unexplained  unexplained  unexplained
					a-state-in-capital  unexplained  unexplained  unexplained`, func(t *testing.T, row string, column int, cell string) {
					check(t, asked[column], Reservation{}, reject(code, currents[row]), cell)
				})
			})
		}
	})

	// Every code that is not a rejection. None is an outcome, even if the problem names
	// the same seq, or a reservation comes with it.
	t.Run("another problem", func(t *testing.T) {
		t.Parallel()
		var rows []string
		for _, code := range problem.Codes() {
			if !slices.Contains(rejections, code) {
				rows = append(rows, string(code))
			}
		}
		formNames := []string{"bare", "naming-the-seq", "with-a-reservation"}
		forms := []func(code problem.Code, asked ReservationState) (Reservation, error){
			func(code problem.Code, _ ReservationState) (Reservation, error) {
				return Reservation{}, problem.New(code, "")
			},
			func(code problem.Code, _ ReservationState) (Reservation, error) {
				return Reservation{}, reject(code, current("held"))
			},
			func(code problem.Code, asked ReservationState) (Reservation, error) {
				return success(asked), reject(code, nil)
			},
		}
		forEachCell(t, rows, formNames, `
			problem              bare                 naming-the-seq       with-a-reservation
			below-reserved       below-reserved       below-reserved       below-reserved
			deadline-exceeded    again                again                again
			forbidden            forbidden            forbidden            forbidden
			given-up             given-up             given-up             given-up
			internal             internal             internal             internal
			invalid              invalid              invalid              invalid
			key-reused           key-reused           key-reused           key-reused
			method-not-allowed   method-not-allowed   method-not-allowed   method-not-allowed
			not-found            not-found            not-found            not-found
			operation-pending    again                again                again
			overloaded           again                again                again
			precondition-failed  precondition-failed  precondition-failed  precondition-failed
			rate-limited         again                again                again
			seq-reused           seq-reused           seq-reused           seq-reused
			stale-seq            stale-seq            stale-seq            stale-seq
			too-large            too-large            too-large            too-large
			unauthenticated      unauthenticated      unauthenticated      unauthenticated
			unavailable          again                again                again
			unsupported-media    unsupported-media    unsupported-media    unsupported-media`, func(t *testing.T, row string, form int, cell string) {
			for _, state := range asked {
				t.Run(state, func(t *testing.T) {
					r, err := forms[form](problem.Code(row), ReservationState(state))
					check(t, state, r, err, cell)
				})
			}
		})
	})

	for _, test := range []struct {
		name string
		err  error
		cell string
	}{
		{"unknown code", reject("sold-out", nil), "unexplained"},
		{"unknown code naming the seq", reject("sold-out", current("held")), "unexplained"},
		{"code in capitals", reject("INSUFFICIENT_STOCK", current("none")), "unexplained"},
		{"empty code", reject("", current("none")), "unexplained"},
		{"garbage", ErrUnexplained, "unexplained"},
		{"garbage wrapped as unavailable", problem.Wrap(ErrUnexplained, problem.Unavailable, "It can't be read."), "unexplained"},
		{"garbage wrapped as a rejection", problem.Wrap(ErrUnexplained, problem.InsufficientStock, "It can't be read."), "unexplained"},
		{"error that is not a problem", errors.New("boom"), "internal"},
		{"wrapped rejection", fmt.Errorf("ask: %w", reject(problem.InsufficientStock, current("none"))), "outcome"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			check(t, "held", Reservation{}, test.err, test.cell)
		})
	}
}

// checkClassified compares the classification of one answer with its cell.
func checkClassified(t *testing.T, asked Request, r Reservation, err error, cell string) {
	t.Helper()
	want := cell // the alarm
	if cell == "outcome" || cell == "again" {
		want = ""
	}
	outcome, alarm := classify(asked, r, err)
	if (outcome != nil) != (cell == "outcome") || alarm != want {
		t.Fatalf("the outcome is %+v and the alarm %q, want %s", outcome, alarm, cell)
	}
	if outcome == nil {
		return
	}
	wantOutcome := &Outcome{Reservation: r.State, ExpiresAt: r.ExpiresAt}
	if err != nil {
		// The current seq and state belong to the answer. They are not part of the
		// stored outcome.
		p := problem.From(err)
		wantOutcome.Reservation = ReservationState(p.Current.State)
		rejection := *p
		rejection.Current = nil
		wantOutcome.Rejection = &rejection
	}
	if !reflect.DeepEqual(outcome, wantOutcome) {
		t.Errorf("the outcome is %+v, want %+v", outcome, wantOutcome)
	}
}

// A request is built only from what the intent recorded.
func TestRequestIsBuiltFromTheIntent(t *testing.T) {
	t.Parallel()
	lines := []Demand{{"a", MainLocation, 2}, {"b", "east", 1}}
	for situation, want := range map[string]Request{
		"pending/place":    {ID: "order-1", Seq: 3, State: ReservationHeld, Lines: lines, HoldSeconds: 600},
		"pending/cancel":   {ID: "order-1", Seq: 3, State: ReservationReleased},
		"pending/give-up":  {ID: "order-1", Seq: 3, State: ReservationReleased},
		"placed/amend":     {ID: "order-1", Seq: 3, State: ReservationHeld, Lines: []Demand{{"a", MainLocation, 5}}, HoldSeconds: 600},
		"placed/confirm":   {ID: "order-1", Seq: 3, State: ReservationCommitted},
		"placed/cancel":    {ID: "order-1", Seq: 3, State: ReservationReleased},
		"confirmed/cancel": {ID: "order-1", Seq: 3, State: ReservationReleased},
	} {
		if got := request(*orderIn(situation)); !reflect.DeepEqual(got, want) {
			t.Errorf("%s sends %+v, want %+v", situation, got, want)
		}
	}
}
