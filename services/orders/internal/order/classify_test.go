package order

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"roundtrip/internal/problem"
)

// Only an answer that inventory stored for exactly this request is an outcome.
func TestJudge(t *testing.T) {
	t.Parallel()
	until := start.Add(time.Hour)
	asked := func(state ReservationState) Request { return Request{ID: "order-1", Seq: 3, State: state} }
	answer := func(state ReservationState) Reservation {
		return Reservation{ID: "order-1", Seq: 3, State: state, ExpiresAt: until}
	}
	type test struct {
		name    string
		asked   ReservationState
		r       Reservation
		err     error
		outcome bool
		alarm   string
	}
	var tests []test
	add := func(name string, asked ReservationState, r Reservation, err error, outcome bool, alarm string) {
		tests = append(tests, test{fmt.Sprintf("%s for %s", name, asked), asked, r, err, outcome, alarm})
	}

	// Success: what the reservation is has to be what was asked, or a hold that
	// ran out since.
	states := []ReservationState{ReservationNone, ReservationHeld, ReservationCommitted, ReservationReleased, ReservationExpired, "", "HELD", "sold"}
	explained := map[ReservationState][]ReservationState{ReservationHeld: {ReservationHeld, ReservationExpired}, ReservationCommitted: {ReservationCommitted}, ReservationReleased: {ReservationReleased}}
	for asked, good := range explained {
		for _, s := range states {
			outcome := s == good[0] || s == good[len(good)-1]
			alarm := "unexplained"
			if outcome {
				alarm = ""
			}
			add(fmt.Sprintf("ok %q", s), asked, answer(s), nil, outcome, alarm)
		}
		for name, r := range map[string]Reservation{
			"nothing":       {},
			"no id":         {Seq: 3, State: asked},
			"other id":      {ID: "order-2", Seq: 3, State: asked},
			"id in capital": {ID: "ORDER-1", Seq: 3, State: asked},
			"no seq":        {ID: "order-1", State: asked},
			"earlier seq":   {ID: "order-1", Seq: 2, State: asked},
			"later seq":     {ID: "order-1", Seq: 4, State: asked},
		} {
			add("ok with "+name, asked, r, nil, false, "unexplained")
		}
	}

	// A rejection has to name the reservation, its seq and a state that there is.
	reject := func(code problem.Code, current *problem.Current) error {
		p := problem.New(code, "No.")
		p.Current = current
		return p
	}
	current := func(state ReservationState) *problem.Current {
		return &problem.Current{ID: "order-1", Seq: 3, State: string(state)}
	}
	for _, rejection := range []struct {
		asked ReservationState
		code  problem.Code
		now   []ReservationState
	}{
		{ReservationHeld, problem.InsufficientStock, []ReservationState{ReservationNone, ReservationHeld, ReservationExpired}},
		{ReservationHeld, problem.ReservationExpired, []ReservationState{ReservationExpired}},
		{ReservationHeld, problem.WrongState, []ReservationState{ReservationCommitted, ReservationReleased}},
		{ReservationCommitted, problem.ReservationExpired, []ReservationState{ReservationExpired}},
		{ReservationCommitted, problem.WrongState, []ReservationState{ReservationNone, ReservationReleased}},
	} {
		for _, now := range rejection.now {
			add(fmt.Sprintf("%s, now %s", rejection.code, now), rejection.asked, Reservation{}, reject(rejection.code, current(now)), true, "")
		}
		for name, c := range map[string]*problem.Current{
			"no current":          nil,
			"an empty current":    {},
			"another's current":   {ID: "order-2", Seq: 3, State: "held"},
			"no id":               {Seq: 3, State: "held"},
			"an earlier seq":      {ID: "order-1", Seq: 2, State: "held"},
			"a later seq":         {ID: "order-1", Seq: 4, State: "held"},
			"no state":            {ID: "order-1", Seq: 3},
			"an unknown state":    {ID: "order-1", Seq: 3, State: "sold"},
			"an order's state":    {ID: "order-1", Seq: 3, State: "placed"},
			"a capitalised state": {ID: "order-1", Seq: 3, State: "Held"},
		} {
			add(fmt.Sprintf("%s with %s", rejection.code, name), rejection.asked, Reservation{}, reject(rejection.code, c), false, "unexplained")
		}
	}

	// Any other problem is none, even if it names the very seq. Repeating the
	// request mends those that say so.
	mends := map[problem.Code]bool{
		problem.OperationPending: true, problem.RateLimited: true, problem.Overloaded: true, problem.Unavailable: true,
		problem.DeadlineExceeded: true,
	}
	for _, code := range problem.Codes() {
		switch code {
		case problem.InsufficientStock, problem.ReservationExpired, problem.WrongState:
			continue
		}
		alarm := string(code)
		if mends[code] {
			alarm = ""
		}
		for asked := range explained {
			add(string(code), asked, Reservation{}, problem.New(code, ""), false, alarm)
			add(string(code)+" naming the seq", asked, Reservation{}, reject(code, current(ReservationHeld)), false, alarm)
			// What comes beside an error is no answer.
			add(string(code)+" beside a reservation", asked, answer(asked), reject(code, nil), false, alarm)
		}
	}
	for name, err := range map[string]error{
		"unknown code":          reject("sold-out", nil),
		"unknown code and seq":  reject("sold-out", current(ReservationHeld)),
		"code in capitals":      reject("INSUFFICIENT_STOCK", current(ReservationNone)),
		"empty code":            reject("", current(ReservationNone)),
		"garbage":               ErrUnexplained,
		"garbage in a problem":  problem.Wrap(ErrUnexplained, problem.Unavailable, "It can't be read."),
		"garbage in a conflict": problem.Wrap(ErrUnexplained, problem.InsufficientStock, "It can't be read."),
	} {
		add(name, ReservationHeld, Reservation{}, err, false, "unexplained")
	}
	add("an error that is no problem", ReservationHeld, Reservation{}, errors.New("boom"), false, string(problem.Internal))
	add("a wrapped outcome", ReservationHeld, Reservation{}, fmt.Errorf("ask: %w", reject(problem.InsufficientStock, current(ReservationNone))), true, "")

	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			v, alarm := classify(asked(test.asked), test.r, test.err)
			if (v != nil) != test.outcome || alarm != test.alarm {
				t.Fatalf("the verdict is %+v with alarm %q, want an outcome: %v, alarm %q", v, alarm, test.outcome, test.alarm)
			}
			if v == nil {
				return
			}
			want := &Outcome{Reservation: test.r.State, ExpiresAt: test.r.ExpiresAt}
			if test.err != nil {
				// The current seq and state are of the moment; they are not part of
				// what is stored.
				p := problem.From(test.err)
				want.Reservation = ReservationState(p.Current.State)
				rejection := *p
				rejection.Current = nil
				want.Rejection = &rejection
			}
			if !reflect.DeepEqual(v, want) {
				t.Errorf("the verdict is %+v, want %+v", v, want)
			}
		})
	}
}

// What is sent is made from what was written down alone.
func TestRequestOfAnIntent(t *testing.T) {
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
		if got := request(*in(situation)); !reflect.DeepEqual(got, want) {
			t.Errorf("%s asks %+v, want %+v", situation, got, want)
		}
	}
}
