package order

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

// pair is the protocol between a store in memory and a small inventory.
type pair struct {
	*Protocol
	t      *testing.T
	store  *memory
	wire   *wire
	gate   *turnstile
	alarms *tally
}

// tally counts the reasons of alarms.
type tally struct {
	mu      sync.Mutex
	reasons []string
}

func (a *tally) add(reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reasons = append(a.reasons, reason)
}

// newPair has 10 of "a" at main and of "b" in the east. Whatever the test does,
// no write may have broken a rule and nobody may be left inside the gate.
func newPair(t *testing.T) *pair {
	now := func() time.Time { return time.Now().Truncate(time.Millisecond) }
	p := &pair{
		t: t, store: newMemory(now), wire: &wire{warehouse: newWarehouse(now, map[string]int64{"a": 10})},
		gate: new(turnstile), alarms: new(tally),
	}
	p.wire.onHand[shelf{"east", "b"}] = 10
	p.Protocol = NewProtocol(p.store, p.wire, p.gate, p.alarms.add)
	t.Cleanup(func() {
		if err := errors.Join(p.store.broken...); err != nil {
			t.Error(err)
		}
		if n := p.gate.inside.Load(); n != 0 {
			t.Errorf("%d are left inside the gate", n)
		}
	})
	return p
}

// mute makes inventory decide nothing and answer nothing from here on; it
// returns how to make it work again.
func (p *pair) mute() (unmute func()) {
	p.wire.carryPut.set(func(context.Context, Request, func() (Reservation, error)) (Reservation, error) {
		return Reservation{}, lost()
	})
	return func() { p.wire.carryPut.set(nil) }
}

// loseReplies makes inventory decide, and loses what it answers.
func (p *pair) loseReplies() (restore func()) {
	p.wire.carryPut.set(func(_ context.Context, _ Request, arrive func() (Reservation, error)) (Reservation, error) {
		_, _ = arrive()
		return Reservation{}, lost()
	})
	return func() { p.wire.carryPut.set(nil) }
}

func (p *pair) settled(a Response, err error) Order {
	p.t.Helper()
	if err != nil || !a.Settled {
		p.t.Fatalf("the answer is %+v, %v; want it settled", a, err)
	}
	return a.Order
}

func (p *pair) unknown(a Response, err error) Order {
	p.t.Helper()
	if err != nil || a.Settled {
		p.t.Fatalf("the answer is %+v, %v; want it recorded and not known yet", a, err)
	}
	return a.Order
}

func (p *pair) order(id string) Order {
	p.t.Helper()
	o, ok := p.store.find(id)
	if !ok {
		p.t.Fatalf("there is no order %s", id)
	}
	return o
}

func (p *pair) wantState(id string, state State, pending Operation) {
	p.t.Helper()
	o := p.order(id)
	var operation Operation
	if o.Intent != nil {
		operation = o.Intent.Operation
	}
	if o.State != state || operation != pending {
		p.t.Errorf("order %s is %s with %q pending, want %s with %q", id, o.State, operation, state, pending)
	}
}

func (p *pair) wantRequests(want ...string) {
	p.t.Helper()
	if got := p.wire.requests(); !slices.Equal(got, want) {
		p.t.Errorf("sent are %v, want %v", got, want)
	}
}

func (p *pair) wantAlarms(want ...string) {
	p.t.Helper()
	p.alarms.mu.Lock()
	defer p.alarms.mu.Unlock()
	if !slices.Equal(p.alarms.reasons, want) {
		p.t.Errorf("alarms are %v, want %v", p.alarms.reasons, want)
	}
}

func wantCode(t *testing.T, err error, want problem.Code) {
	t.Helper()
	if got := problem.CodeOf(err); got != want {
		t.Errorf("the answer is %q (%v), want %q", got, err, want)
	}
}

func TestAnOrderFromPlaceToCancel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		// The intent is committed before anything is sent, and no lock is held
		// meanwhile: the store can be read.
		p.wire.carryPut.set(func(ctx context.Context, r Request, arrive func() (Reservation, error)) (Reservation, error) {
			o, err := p.store.Order(ctx, r.ID)
			if err != nil || o.Intent == nil || !reflect.DeepEqual(request(o), r) {
				t.Errorf("while %+v is sent the order is %+v, %v", r, o, err)
			}
			return arrive()
		})
		a, err := p.Place(t.Context(), placing("order-1"))
		o := p.settled(a, err)
		if !a.Created || o.State != Placed || o.Total != 250 || o.Version != 2 || !o.HoldExpiresAt.Equal(time.Now().Add(600*time.Second)) {
			t.Errorf("placed is %+v", a)
		}
		time.Sleep(time.Minute)
		o = p.settled(p.Amend(t.Context(), Amend{ID: "order-1", Lines: amendedLines}))
		if o.State != Placed || o.Total != 450 || o.Version != 4 || !o.HoldExpiresAt.Equal(time.Now().Add(600*time.Second)) {
			t.Errorf("amended is %+v", o)
		}
		o = p.settled(p.Confirm(t.Context(), Confirm{ID: "order-1"}))
		if o.State != Confirmed || o.Version != 6 || !o.HoldExpiresAt.IsZero() || p.wire.onHand[shelf{MainLocation, "a"}] != 5 {
			t.Errorf("confirmed is %+v, %v on hand", o, p.wire.onHand)
		}
		o = p.settled(p.Cancel(t.Context(), Cancel{ID: "order-1"}))
		if o.State != Cancelled || o.Version != 8 || p.wire.onHand[shelf{MainLocation, "a"}] != 10 {
			t.Errorf("cancelled is %+v, %v on hand", o, p.wire.onHand)
		}
		p.wantRequests("1 held", "2 held", "3 committed", "4 released")
		if got, err := p.Order(t.Context(), "order-1"); err != nil || !reflect.DeepEqual(got, o) {
			t.Errorf("read is %+v, %v", got, err)
		}
		p.wantAlarms()
	})
}

// What is already so is answered without asking anybody.
func TestRepeatsOfWhatIsSettled(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	first := p.settled(p.Place(t.Context(), placing("order-1")))
	a, err := p.Place(t.Context(), placing("order-1"))
	if again := p.settled(a, err); a.Created || !reflect.DeepEqual(again, first) {
		t.Errorf("the repeat is answered %+v, want the order as it is: %+v", a, first)
	}
	other := placing("order-1")
	other.Customer = "Bob"
	_, err = p.Place(t.Context(), other)
	wantCode(t, err, problem.KeyReused)

	confirmed := p.settled(p.Confirm(t.Context(), Confirm{ID: "order-1"}))
	if again := p.settled(p.Confirm(t.Context(), Confirm{ID: "order-1", IfMatch: Precondition{Given: true, Versions: []int64{1}}})); !reflect.DeepEqual(again, confirmed) {
		t.Errorf("confirming it again gives %+v, want %+v", again, confirmed)
	}
	// The place is still answered by what has become of the order.
	if again := p.settled(p.Place(t.Context(), placing("order-1"))); again.State != Confirmed {
		t.Errorf("placing it again gives %+v", again)
	}
	_, err = p.Amend(t.Context(), Amend{ID: "order-1", Lines: amendedLines})
	wantCode(t, err, problem.WrongState)
	p.settled(p.Cancel(t.Context(), Cancel{ID: "order-1"}))
	p.settled(p.Cancel(t.Context(), Cancel{ID: "order-1", IfMatch: Precondition{Given: true}}))
	_, err = p.Confirm(t.Context(), Confirm{ID: "order-1"})
	wantCode(t, err, problem.WrongState)
	p.wantRequests("1 held", "2 committed", "3 released")

	for _, change := range []func() error{
		func() error { _, err := p.Amend(t.Context(), Amend{ID: "none", Lines: amendedLines}); return err },
		func() error { _, err := p.Confirm(t.Context(), Confirm{ID: "none"}); return err },
		func() error { _, err := p.Cancel(t.Context(), Cancel{ID: "none"}); return err },
		func() error { _, err := p.Order(t.Context(), "none"); return err },
		func() error { _, err := p.Protocol.Reservation(t.Context(), "none"); return err },
	} {
		wantCode(t, change(), problem.NotFound)
	}
}

// A rejection is told with all its shortages, and told again to whoever repeats
// the place, though there is stock by then.
func TestRejectionStays(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	c := placing("order-1")
	c.Lines = []Line{{SKU: "a", Location: MainLocation, Quantity: 11}, {SKU: "x", Location: MainLocation, Quantity: 1}}
	_, first := p.Place(t.Context(), c)
	wantCode(t, first, problem.InsufficientStock)
	want := []problem.Shortage{{SKU: "a", Location: MainLocation, Requested: 11, Available: 10}, {SKU: "x", Location: MainLocation, Requested: 1, Available: 0}}
	if got := problem.From(first); !slices.Equal(got.Shortages, want) || got.Current != nil {
		t.Errorf("the answer is %+v, want the shortages %+v", got, want)
	}
	p.wire.onHand[shelf{MainLocation, "a"}], p.wire.onHand[shelf{MainLocation, "x"}] = 100, 100
	_, again := p.Place(t.Context(), c)
	if !reflect.DeepEqual(problem.From(again), problem.From(first)) {
		t.Errorf("the repeat is answered %+v, want %+v", again, first)
	}
	p.wantState("order-1", Rejected, "")
	_, err := p.Cancel(t.Context(), Cancel{ID: "order-1"})
	wantCode(t, err, problem.WrongState)
	p.wantRequests("1 held")

	// A rejected amend leaves the order as it was.
	before := p.settled(p.Place(t.Context(), placing("order-2")))
	_, err = p.Amend(t.Context(), Amend{ID: "order-2", Lines: []Line{{SKU: "a", Location: MainLocation, Quantity: 101}}})
	wantCode(t, err, problem.InsufficientStock)
	after := p.order("order-2")
	if !slices.Equal(after.Lines, before.Lines) || after.Total != before.Total || after.State != Placed || !after.HoldExpiresAt.Equal(before.HoldExpiresAt) {
		t.Errorf("after the rejected amend the order is %+v, was %+v", after, before)
	}
	if after.Last.Outcome != OutcomeRejected || after.Last.Problem.Code != problem.InsufficientStock {
		t.Errorf("it says of its last operation %+v", after.Last)
	}
}

// Whatever comes back that is no outcome: 202, the intent stays, and a repeat
// sends the same again.
func TestUnknownIsNeitherSuccessNorError(t *testing.T) {
	t.Parallel()
	conflict := func(code problem.Code, id string, seq int64) error {
		p := problem.New(code, "No.")
		p.Current = &problem.Current{ID: id, Seq: seq, State: "held"}
		return p
	}
	for name, test := range map[string]struct {
		r     Reservation
		err   error
		alarm string
	}{
		"lost":                      {Reservation{}, lost(), ""},
		"late":                      {Reservation{}, problem.New(problem.DeadlineExceeded, ""), ""},
		"overloaded":                {Reservation{}, problem.New(problem.Overloaded, ""), ""},
		"too many requests":         {Reservation{}, problem.New(problem.RateLimited, ""), ""},
		"invalid":                   {Reservation{}, problem.New(problem.Invalid, ""), "invalid"},
		"unauthenticated":           {Reservation{}, problem.New(problem.Unauthenticated, ""), "unauthenticated"},
		"forbidden":                 {Reservation{}, problem.New(problem.Forbidden, ""), "forbidden"},
		"not found":                 {Reservation{}, problem.New(problem.NotFound, ""), "not-found"},
		"too large":                 {Reservation{}, problem.New(problem.TooLarge, ""), "too-large"},
		"internal":                  {Reservation{}, problem.New(problem.Internal, ""), "internal"},
		"stale seq":                 {Reservation{}, conflict(problem.StaleSeq, "order-1", 2), "stale-seq"},
		"seq reused":                {Reservation{}, conflict(problem.SeqReused, "order-1", 1), "seq-reused"},
		"somebody else's rejection": {Reservation{}, conflict(problem.InsufficientStock, "order-2", 1), "unexplained"},
		"another seq's rejection":   {Reservation{}, conflict(problem.InsufficientStock, "order-1", 2), "unexplained"},
		"garbage":                   {Reservation{}, problem.Wrap(ErrUnexplained, problem.Internal, ""), "unexplained"},
		"empty":                     {Reservation{}, nil, "unexplained"},
		"another's":                 {Reservation{ID: "order-2", Seq: 1, State: ReservationHeld}, nil, "unexplained"},
		"another seq's":             {Reservation{ID: "order-1", Seq: 2, State: ReservationHeld}, nil, "unexplained"},
		"not what was asked":        {Reservation{ID: "order-1", Seq: 1, State: ReservationCommitted}, nil, "unexplained"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.wire.carryPut.set(func(context.Context, Request, func() (Reservation, error)) (Reservation, error) {
				return test.r, test.err
			})
			a, err := p.Place(t.Context(), placing("order-1"))
			o := p.unknown(a, err)
			if !a.Created || o.State != Pending || o.Version != 1 || o.Intent == nil || o.Intent.Seq != 1 {
				t.Errorf("the answer is %+v", a)
			}
			var alarms []string
			if test.alarm != "" {
				alarms = append(alarms, test.alarm)
			}
			p.wantAlarms(alarms...)

			p.wire.carryPut.set(nil)
			a, err = p.Place(t.Context(), placing("order-1"))
			if o := p.settled(a, err); a.Created || o.State != Placed {
				t.Errorf("the repeat is answered %+v", a)
			}
			p.wantRequests("1 held", "1 held")
			if first, second := p.wire.sent[0], p.wire.sent[1]; !reflect.DeepEqual(first, second) {
				t.Errorf("sent is %+v and then %+v", first, second)
			}
			p.wantAlarms(alarms...)
		})
	}
}

// A lost reply is no lost order, for any operation.
func TestLostReplies(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	steps := []struct {
		do    func() (Response, error)
		state State
	}{
		{func() (Response, error) { return p.Place(t.Context(), placing("order-1")) }, Placed},
		{func() (Response, error) { return p.Amend(t.Context(), Amend{ID: "order-1", Lines: amendedLines}) }, Placed},
		{func() (Response, error) { return p.Confirm(t.Context(), Confirm{ID: "order-1"}) }, Confirmed},
		{func() (Response, error) { return p.Cancel(t.Context(), Cancel{ID: "order-1"}) }, Cancelled},
	}
	for i, step := range steps {
		restore := p.loseReplies()
		p.unknown(step.do())
		p.unknown(step.do())
		restore()
		if o := p.settled(step.do()); o.State != step.state || o.Seq != int64(i+1) {
			t.Errorf("after step %d the order is %+v", i, o)
		}
	}
	if n := len(p.wire.decided); n != 4 {
		t.Errorf("inventory decided %d times, want once for each operation", n)
	}
	p.wantAlarms()
}

// 50 callers with the same request at once: one order, one decision, one body.
func TestTheSameAtOnce(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	var callers sync.WaitGroup
	answers := make([]Response, 50)
	begin := make(chan struct{})
	for i := range answers {
		callers.Go(func() {
			<-begin
			var err error
			if answers[i], err = p.Place(t.Context(), placing("order-1")); err != nil {
				t.Error(err)
			}
		})
	}
	close(begin)
	callers.Wait()
	created := 0
	for _, a := range answers {
		if a.Created {
			created++
		}
		if !a.Settled || !reflect.DeepEqual(a.Order, answers[0].Order) {
			t.Errorf("one is answered %+v, another %+v", a, answers[0])
		}
	}
	if created != 1 || len(p.wire.decided) != 1 {
		t.Errorf("%d created it and inventory decided %d times", created, len(p.wire.decided))
	}
	p.wantAlarms()
}

// Joining needs the same operation with the same content, whatever the version
// that the caller saw: the first one has moved it.
func TestJoinsBeforeIfMatch(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*pair, Precondition) (Response, error){
		"amend": func(p *pair, m Precondition) (Response, error) {
			return p.Amend(p.t.Context(), Amend{ID: "order-1", Lines: amendedLines, IfMatch: m})
		},
		"confirm": func(p *pair, m Precondition) (Response, error) {
			return p.Confirm(p.t.Context(), Confirm{ID: "order-1", IfMatch: m})
		},
		"cancel": func(p *pair, m Precondition) (Response, error) {
			return p.Cancel(p.t.Context(), Cancel{ID: "order-1", IfMatch: m})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			seen := Precondition{Given: true, Versions: []int64{p.settled(p.Place(t.Context(), placing("order-1"))).Version}}
			restore := p.loseReplies()
			p.unknown(change(p, seen))
			restore()
			p.settled(change(p, seen))
			sent := p.wire.requests()
			if len(sent) != 3 || sent[1] != sent[2] {
				t.Errorf("sent are %v, want the same seq twice", sent)
			}
			// Now it is settled, and the version is another.
			_, err := p.Amend(t.Context(), Amend{ID: "order-1", Lines: otherLines, IfMatch: seen})
			wantCode(t, err, problem.PreconditionFailed)
		})
	}
}

// What is in the way is settled first, by whoever wants to pass.
func TestHelps(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	restore := p.mute()
	p.unknown(p.Place(t.Context(), placing("order-1")))
	restore()
	o := p.settled(p.Confirm(t.Context(), Confirm{ID: "order-1"}))
	if o.State != Confirmed || o.Seq != 2 {
		t.Errorf("the order is %+v", o)
	}
	p.wantRequests("1 held", "1 held", "2 committed")

	// Helping may also show that there is nothing left to do.
	c := placing("order-2")
	c.Lines = otherLines
	restore = p.mute()
	p.unknown(p.Place(t.Context(), c))
	restore()
	_, err := p.Confirm(t.Context(), Confirm{ID: "order-2"})
	wantCode(t, err, problem.WrongState)
	p.wantState("order-2", Rejected, "")

	// And a precondition that held while it was pending does not any more.
	restore = p.mute()
	pending := p.unknown(p.Place(t.Context(), placing("order-3")))
	restore()
	_, err = p.Confirm(t.Context(), Confirm{ID: "order-3", IfMatch: Precondition{Given: true, Versions: []int64{pending.Version}}})
	wantCode(t, err, problem.PreconditionFailed)
	p.wantState("order-3", Placed, "")
}

func TestHelpsAndDoesNotGetThrough(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.settled(p.Place(t.Context(), placing("order-1")))
	p.mute()
	before := p.unknown(p.Amend(t.Context(), Amend{ID: "order-1", Lines: amendedLines}))
	for _, c := range []func() error{
		func() error { _, err := p.Confirm(t.Context(), Confirm{ID: "order-1"}); return err },
		func() error {
			_, err := p.Amend(t.Context(), Amend{ID: "order-1", Lines: otherLines})
			return err
		},
	} {
		err := c()
		wantCode(t, err, problem.OperationPending)
		if wait, again := problem.From(err).Wait(); !again || wait <= 0 {
			t.Errorf("%v does not say when to come again", err)
		}
	}
	if after := p.order("order-1"); !reflect.DeepEqual(after, before) {
		t.Errorf("the order is %+v, was %+v", after, before)
	}
	p.wantRequests("1 held", "2 held", "2 held", "2 held")
}

// Somebody puts another intent in the way while the first one is helped.
func TestHelpsOnce(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.settled(p.Place(t.Context(), placing("order-1")))
	restore := p.mute()
	p.unknown(p.Amend(t.Context(), Amend{ID: "order-1", Lines: amendedLines}))
	restore()
	p.store.after.set(func(ctx context.Context, c Command) error {
		if s, ok := c.(RecordOutcome); ok && s.Seq == 2 {
			p.store.after.set(nil)
			p.mute()
			p.unknown(p.Amend(ctx, Amend{ID: "order-1", Lines: placedLines}))
		}
		return nil
	})
	_, err := p.Confirm(t.Context(), Confirm{ID: "order-1"})
	wantCode(t, err, problem.OperationPending)
	p.wantRequests("1 held", "2 held", "2 held", "3 held")
}

// A cancel does not wait for what is pending: it takes the next seq, and
// whatever the first one still does comes too late.
func TestCancelSupersedes(t *testing.T) {
	t.Parallel()
	t.Run("a place that arrives late", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t)
			arrive := make(chan struct{})
			p.wire.carryPut.set(func(_ context.Context, r Request, send func() (Reservation, error)) (Reservation, error) {
				if r.Seq == 1 {
					<-arrive
				}
				return send()
			})
			var place Response
			var placeErr error
			go func() { place, placeErr = p.Place(t.Context(), placing("order-1")) }()
			synctest.Wait()
			if o := p.settled(p.Cancel(t.Context(), Cancel{ID: "order-1"})); o.State != Cancelled || o.Seq != 2 {
				t.Errorf("cancelled is %+v", o)
			}
			close(arrive)
			synctest.Wait()
			// The place is answered by what the order is: it was cancelled.
			if o := p.settled(place, placeErr); o.State != Cancelled || !place.Created {
				t.Errorf("the place is answered %+v", place)
			}
			if r, err := p.wire.get("order-1"); err != nil || r.State != ReservationReleased || r.Seq != 2 {
				t.Errorf("the reservation is %+v, %v", r, err)
			}
			p.wantAlarms() // stale-seq, and explained
		})
	})
	t.Run("an amend that arrives late", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t)
			p.settled(p.Place(t.Context(), placing("order-1")))
			arrive := make(chan struct{})
			p.wire.carryPut.set(func(_ context.Context, r Request, send func() (Reservation, error)) (Reservation, error) {
				if r.Seq == 2 {
					<-arrive
				}
				return send()
			})
			var amendErr error
			go func() { _, amendErr = p.Amend(t.Context(), Amend{ID: "order-1", Lines: amendedLines}) }()
			synctest.Wait()
			p.settled(p.Cancel(t.Context(), Cancel{ID: "order-1"}))
			close(arrive)
			synctest.Wait()
			wantCode(t, amendErr, problem.WrongState)
			if end, err := p.store.Settlement(t.Context(), "order-1", 2); err != nil || end.Outcome != OutcomeSuperseded {
				t.Errorf("the amend ended %+v, %v", end, err)
			}
			p.wantAlarms()
		})
	})
	t.Run("before the reply, and is not settled either", func(t *testing.T) {
		t.Parallel()
		p := newPair(t)
		p.settled(p.Place(t.Context(), placing("order-1")))
		p.wire.carryPut.set(func(ctx context.Context, r Request, send func() (Reservation, error)) (Reservation, error) {
			if r.State == ReservationReleased {
				return Reservation{}, lost()
			}
			reply, err := send()
			p.unknown(p.Cancel(ctx, Cancel{ID: "order-1"}))
			return reply, err
		})
		if o := p.unknown(p.Confirm(t.Context(), Confirm{ID: "order-1"})); o.Intent == nil || o.Intent.Operation != CancelOperation {
			t.Errorf("the confirm is answered with %+v", o)
		}
		p.wire.carryPut.set(nil)
		p.settled(p.Cancel(t.Context(), Cancel{ID: "order-1"}))
		if p.wire.onHand[shelf{MainLocation, "a"}] != 10 {
			t.Errorf("what was committed did not come back: %v", p.wire.onHand)
		}
		p.wantRequests("1 held", "2 committed", "3 released", "3 released")
	})
}

// When somebody else moved on, the caller is told how its own operation ended.
func TestAnsweredByHistory(t *testing.T) {
	t.Parallel()
	t.Run("done", func(t *testing.T) {
		t.Parallel()
		p := newPair(t)
		p.settled(p.Place(t.Context(), placing("order-1")))
		p.wire.carryPut.set(func(ctx context.Context, _ Request, send func() (Reservation, error)) (Reservation, error) {
			reply, err := send()
			p.wire.carryPut.set(nil)
			p.settled(p.Confirm(ctx, Confirm{ID: "order-1"})) // joins, and is faster
			p.settled(p.Cancel(ctx, Cancel{ID: "order-1"}))
			return reply, err
		})
		if o := p.settled(p.Confirm(t.Context(), Confirm{ID: "order-1"})); o.State != Cancelled {
			t.Errorf("the confirm is answered with %+v, want the order as it is", o)
		}
		p.wantRequests("1 held", "2 committed", "2 committed", "3 released")
	})
	t.Run("rejected", func(t *testing.T) {
		t.Parallel()
		p := newPair(t)
		p.settled(p.Place(t.Context(), placing("order-1")))
		p.wire.carryPut.set(func(ctx context.Context, _ Request, send func() (Reservation, error)) (Reservation, error) {
			reply, err := send()
			p.wire.carryPut.set(nil)
			_, other := p.Amend(ctx, Amend{ID: "order-1", Lines: otherLines})
			wantCode(t, other, problem.InsufficientStock)
			p.settled(p.Confirm(ctx, Confirm{ID: "order-1"}))
			return reply, err
		})
		_, err := p.Amend(t.Context(), Amend{ID: "order-1", Lines: otherLines})
		wantCode(t, err, problem.InsufficientStock)
		if len(problem.From(err).Shortages) != 1 {
			t.Errorf("the rejection is %+v, want it as it was stored", err)
		}
		p.wantState("order-1", Confirmed, "")
	})
	t.Run("stale, because it was settled by somebody else", func(t *testing.T) {
		t.Parallel()
		p := newPair(t)
		p.settled(p.Place(t.Context(), placing("order-1")))
		p.wire.carryPut.set(func(ctx context.Context, _ Request, send func() (Reservation, error)) (Reservation, error) {
			p.wire.carryPut.set(nil)
			p.settled(p.Amend(ctx, Amend{ID: "order-1", Lines: amendedLines}))
			p.settled(p.Confirm(ctx, Confirm{ID: "order-1"}))
			return send()
		})
		p.settled(p.Amend(t.Context(), Amend{ID: "order-1", Lines: amendedLines}))
		p.wantAlarms()
	})
}

// 504 and overloaded come before the first step, or not at all.
func TestNothingIsRecorded(t *testing.T) {
	t.Parallel()
	within := func(t *testing.T, left time.Duration) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), left)
		t.Cleanup(cancel)
		return ctx
	}
	for name, test := range map[string]struct {
		prepare func(p *pair)
		left    time.Duration
		change  func(*Place)
		want    problem.Code
	}{
		"too little time":           {func(*pair) {}, outcomeReserve + exchange.MinTimeout - time.Millisecond, func(*Place) {}, problem.DeadlineExceeded},
		"no time":                   {func(*pair) {}, time.Nanosecond, func(*Place) {}, problem.DeadlineExceeded},
		"too many exchanges":        {func(p *pair) { p.gate.full.Store(true) }, time.Second, func(*Place) {}, problem.Overloaded},
		"away":                      {func(p *pair) { p.gate.away.Store(true) }, time.Second, func(*Place) {}, problem.Unavailable},
		"invalid":                   {func(*pair) {}, time.Second, func(c *Place) { c.Currency = "" }, problem.Invalid},
		"invalid comes before full": {func(p *pair) { p.gate.full.Store(true) }, time.Second, func(c *Place) { c.Currency = "" }, problem.Invalid},
		"the store fails": {func(p *pair) {
			p.store.before.set(func(context.Context, Command) error { return problem.New(problem.Unavailable, "The disk is full.") })
		}, time.Second, func(*Place) {}, problem.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				test.prepare(p)
				c := placing("order-1")
				test.change(&c)
				_, err := p.Place(within(t, test.left), c)
				wantCode(t, err, test.want)
				if len(p.store.orders) > 0 {
					t.Errorf("recorded is %+v", p.store.orders)
				}
				p.wantRequests()
			})
		})
	}
	t.Run("just enough time", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t)
			p.wire.carryPut.set(func(ctx context.Context, _ Request, send func() (Reservation, error)) (Reservation, error) {
				if left, ok := exchange.Remaining(ctx); !ok || left != exchange.MinTimeout {
					t.Errorf("the exchange has %s, want all but what is kept for the outcome", left)
				}
				return send()
			})
			p.settled(p.Place(within(t, outcomeReserve+exchange.MinTimeout), placing("order-1")))
		})
	})
	t.Run("a hang-up before", func(t *testing.T) {
		t.Parallel()
		p := newPair(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.Place(ctx, placing("order-1")); !errors.Is(err, context.Canceled) {
			t.Errorf("the answer is %v", err)
		}
		if len(p.store.orders) > 0 {
			t.Errorf("recorded is %+v", p.store.orders)
		}
	})
}

// An exchange that takes all the time it has leaves time to look at the order,
// and the answer is 202 within the deadline.
func TestNoAnswerWithinTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.wire.carryPut.set(func(ctx context.Context, _ Request, _ func() (Reservation, error)) (Reservation, error) {
			<-ctx.Done()
			return Reservation{}, problem.Wrap(ctx.Err(), problem.DeadlineExceeded, "")
		})
		ctx, cancel := context.WithTimeout(t.Context(), exchange.DefaultTimeout)
		defer cancel()
		began := time.Now()
		p.unknown(p.Place(ctx, placing("order-1")))
		if took := time.Since(began); took != exchange.DefaultTimeout-outcomeReserve || ctx.Err() != nil {
			t.Errorf("it took %s of %s", took, exchange.DefaultTimeout)
		}
		// Helping takes the time that the operation itself would need.
		_, err := p.Confirm(ctx, Confirm{ID: "order-1"})
		wantCode(t, err, problem.DeadlineExceeded)
		p.wantRequests("1 held")
	})
}

// From the first step on a caller's hang-up cancels nothing.
func TestHangUpCancelsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		for name, lines := range map[string][]Line{"done": placedLines, "rejected": otherLines} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			ctx, hangUp := context.WithCancel(exchange.WithRequestID(ctx, "request-7"))
			p.wire.carryPut.set(func(ctx context.Context, _ Request, send func() (Reservation, error)) (Reservation, error) {
				hangUp()
				synctest.Wait()
				if ctx.Err() != nil {
					t.Error("the exchange is cancelled")
				}
				if left, ok := exchange.Remaining(ctx); !ok || left != time.Second-outcomeReserve {
					t.Errorf("the exchange has %s left of its deadline", left)
				}
				if id := exchange.RequestID(ctx); id != "request-7" {
					t.Errorf("the exchange has the request id %q", id)
				}
				return send()
			})
			c := placing(name)
			c.Lines = lines
			_, _ = p.Place(ctx, c) // nobody hears the answer
		}
		p.wantState("done", Placed, "")
		p.wantState("rejected", Rejected, "")

		// Nor is the way back to what somebody else did.
		ctx, hangUp := context.WithCancel(t.Context())
		p.wire.carryPut.set(func(other context.Context, _ Request, send func() (Reservation, error)) (Reservation, error) {
			p.wire.carryPut.set(nil)
			p.settled(p.Confirm(other, Confirm{ID: "done"}))
			p.settled(p.Cancel(other, Cancel{ID: "done"}))
			hangUp()
			return send()
		})
		p.settled(p.Confirm(ctx, Confirm{ID: "done"}))
	})
}

// While inventory is away only a place that is not recorded is refused.
func TestAwayRefusesNewPlacesOnly(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.settled(p.Place(t.Context(), placing("placed")))
	p.settled(p.Place(t.Context(), placing("amended")))
	restore := p.mute()
	p.unknown(p.Place(t.Context(), placing("pending")))
	p.gate.away.Store(true)

	_, err := p.Place(t.Context(), placing("new"))
	wantCode(t, err, problem.Unavailable)
	if _, ok := p.store.find("new"); ok {
		t.Error("a place is recorded while inventory is away")
	}
	p.settled(p.Place(t.Context(), placing("placed")))
	p.unknown(p.Place(t.Context(), placing("pending")))
	p.unknown(p.Confirm(t.Context(), Confirm{ID: "placed"}))
	p.unknown(p.Amend(t.Context(), Amend{ID: "amended", Lines: amendedLines}))
	p.unknown(p.Cancel(t.Context(), Cancel{ID: "pending"}))

	restore()
	p.gate.away.Store(false)
	p.settled(p.Confirm(t.Context(), Confirm{ID: "placed"}))
	p.settled(p.Amend(t.Context(), Amend{ID: "amended", Lines: amendedLines}))
	p.settled(p.Cancel(t.Context(), Cancel{ID: "pending"}))
}

// A place in flight is taken once for an operation, however much it has to help.
func TestGateIsEnteredOnce(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	restore := p.mute()
	p.unknown(p.Place(t.Context(), placing("order-1")))
	restore()
	p.wire.carryPut.set(func(_ context.Context, _ Request, send func() (Reservation, error)) (Reservation, error) {
		if n := p.gate.inside.Load(); n != 1 {
			t.Errorf("%d are inside the gate", n)
		}
		return send()
	})
	p.settled(p.Confirm(t.Context(), Confirm{ID: "order-1"}))
	if n := p.gate.entered.Load(); n != 2 {
		t.Errorf("the gate was entered %d times by two operations", n)
	}
}

// A commit whose result is unknown may be there; a repeat joins what is.
func TestFirstStepIsUnknown(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.store.after.set(func(context.Context, Command) error { return problem.New(problem.Unavailable, "It may be recorded.") })
	_, err := p.Place(t.Context(), placing("order-1"))
	wantCode(t, err, problem.Unavailable)
	p.wantRequests()
	p.wantState("order-1", Pending, PlaceOperation)
	p.store.after.set(nil)
	a, err := p.Place(t.Context(), placing("order-1"))
	if o := p.settled(a, err); a.Created || o.Seq != 1 {
		t.Errorf("the repeat is answered %+v", a)
	}
}

// An outcome that could not be written down, or whose writing is unknown, is
// not known.
func TestThirdStepFails(t *testing.T) {
	t.Parallel()
	fail := func(_ context.Context, c Command) error {
		if _, ok := c.(RecordOutcome); ok {
			return problem.New(problem.Unavailable, "The disk is full.")
		}
		return nil
	}
	for name, prepare := range map[string]func(*memory){
		"nothing is written": func(m *memory) { m.before.set(fail) },
		"all is written":     func(m *memory) { m.after.set(fail) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			prepare(p.store)
			p.unknown(p.Place(t.Context(), placing("order-1")))
			p.store.before.set(nil)
			p.store.after.set(nil)
			if o := p.settled(p.Place(t.Context(), placing("order-1"))); o.State != Placed || o.Version != 2 {
				t.Errorf("the repeat is answered %+v", o)
			}
			if len(p.wire.decided) != 1 {
				t.Errorf("inventory decided %d times", len(p.wire.decided))
			}
		})
	}
}

// Nobody is alarmed by what can't be told, or has settled meanwhile.
func TestAlarmsOnlyWhileUnsettled(t *testing.T) {
	t.Parallel()
	refuse := func(context.Context, Request, func() (Reservation, error)) (Reservation, error) {
		return Reservation{}, problem.New(problem.Forbidden, "")
	}
	t.Run("settled meanwhile", func(t *testing.T) {
		t.Parallel()
		p := newPair(t)
		p.wire.carryPut.set(func(ctx context.Context, r Request, _ func() (Reservation, error)) (Reservation, error) {
			p.wire.carryPut.set(nil)
			p.settled(p.Place(ctx, placing("order-1")))
			return refuse(ctx, r, nil)
		})
		if o := p.settled(p.Place(t.Context(), placing("order-1"))); o.State != Placed {
			t.Errorf("the order is %+v", o)
		}
		p.wantAlarms()
	})
	t.Run("superseded meanwhile", func(t *testing.T) {
		t.Parallel()
		p := newPair(t)
		p.wire.carryPut.set(func(ctx context.Context, r Request, _ func() (Reservation, error)) (Reservation, error) {
			p.mute()
			p.unknown(p.Cancel(ctx, Cancel{ID: "order-1"}))
			return refuse(ctx, r, nil)
		})
		if o := p.unknown(p.Place(t.Context(), placing("order-1"))); o.Intent.Operation != CancelOperation {
			t.Errorf("the order is %+v", o)
		}
		p.wantAlarms()
	})
	t.Run("can't be told", func(t *testing.T) {
		t.Parallel()
		p := newPair(t)
		p.wire.carryPut.set(refuse)
		p.store.read.set(func(context.Context) error { return problem.New(problem.Unavailable, "The disk is gone.") })
		if o := p.unknown(p.Place(t.Context(), placing("order-1"))); o.Intent == nil {
			t.Errorf("the order is %+v", o)
		}
		p.wantAlarms()
	})
	t.Run("still there, each time", func(t *testing.T) {
		t.Parallel()
		p := newPair(t)
		p.wire.carryPut.set(refuse)
		p.unknown(p.Place(t.Context(), placing("order-1")))
		_, err := p.Confirm(t.Context(), Confirm{ID: "order-1"})
		wantCode(t, err, problem.OperationPending)
		p.wantAlarms("forbidden", "forbidden")
	})
}

// What inventory is asked for a caller's information, and what becomes of
// answers that would mean nothing to that caller.
func TestAskingOnly(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.settled(p.Place(t.Context(), placing("order-1")))
	r, err := p.Protocol.Reservation(t.Context(), "order-1")
	if err != nil || r.State != ReservationHeld || r.Seq != 1 || len(r.Lines) != 2 {
		t.Errorf("the reservation is %+v, %v", r, err)
	}
	_, err = p.Protocol.Reservation(t.Context(), "no/id")
	wantCode(t, err, problem.Invalid)
	_, err = p.Order(t.Context(), "no/id")
	wantCode(t, err, problem.Invalid)

	p.wire.stock = func(_ context.Context, skus []string) ([]Level, error) {
		return []Level{{skus[0], MainLocation, 3}}, nil
	}
	if levels, err := p.Availability(t.Context(), []string{"a"}); err != nil || !slices.Equal(levels, []Level{{"a", MainLocation, 3}}) {
		t.Errorf("available are %v, %v", levels, err)
	}

	var answer Reservation
	var failure error
	p.wire.carryGet.set(func(context.Context, string, func() (Reservation, error)) (Reservation, error) {
		return answer, failure
	})
	p.wire.stock = func(context.Context, []string) ([]Level, error) { return nil, failure }
	for _, test := range []struct {
		err                error
		reservation, stock problem.Code
	}{
		{problem.New(problem.NotFound, ""), problem.NotFound, problem.Unavailable},
		{problem.New(problem.Unavailable, ""), problem.Unavailable, problem.Unavailable},
		{problem.New(problem.Overloaded, ""), problem.Overloaded, problem.Overloaded},
		{problem.New(problem.DeadlineExceeded, ""), problem.DeadlineExceeded, problem.DeadlineExceeded},
		{problem.New(problem.Forbidden, ""), problem.Unavailable, problem.Unavailable},
		{problem.New(problem.Invalid, ""), problem.Unavailable, problem.Unavailable},
		{problem.New(problem.Internal, ""), problem.Unavailable, problem.Unavailable},
		{problem.New("sold-out", ""), problem.Unavailable, problem.Unavailable},
		{problem.Wrap(ErrUnexplained, problem.Internal, ""), problem.Unavailable, problem.Unavailable},
	} {
		failure = test.err
		_, err := p.Protocol.Reservation(t.Context(), "order-1")
		wantCode(t, err, test.reservation)
		_, err = p.Availability(t.Context(), []string{"a"})
		wantCode(t, err, test.stock)
	}
	answer, failure = Reservation{ID: "order-2", Seq: 1, State: ReservationHeld}, nil
	_, err = p.Protocol.Reservation(t.Context(), "order-1")
	wantCode(t, err, problem.Unavailable)

	p.wire.stock = func(context.Context, []string) ([]Level, error) { return []Level{{"b", MainLocation, 3}}, nil }
	_, err = p.Availability(t.Context(), []string{"a"})
	wantCode(t, err, problem.Unavailable)

	p.gate.full.Store(true)
	_, err = p.Protocol.Reservation(t.Context(), "order-1")
	wantCode(t, err, problem.Overloaded)
	_, err = p.Availability(t.Context(), []string{"a"})
	wantCode(t, err, problem.Overloaded)
	p.wantAlarms()
}

// Many callers do everything at once to a few orders, while messages and
// commits are lost; in the end orders and inventory agree.
func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	var n sync.Mutex
	count := 0
	every := func(k int) bool {
		n.Lock()
		defer n.Unlock()
		count++
		return count%k == 0
	}
	p.wire.carryPut.set(func(_ context.Context, _ Request, send func() (Reservation, error)) (Reservation, error) {
		if every(7) {
			return Reservation{}, lost()
		}
		r, err := send()
		if every(5) {
			return Reservation{}, lost()
		}
		return r, err
	})
	p.store.after.set(func(context.Context, Command) error {
		if every(11) {
			return problem.New(problem.Unavailable, "It may be recorded.")
		}
		return nil
	})
	var callers sync.WaitGroup
	ids := []string{"order-0", "order-1", "order-2", "order-3"}
	for caller := range 16 {
		callers.Go(func() {
			for i := range 25 {
				id := ids[(caller+i)%len(ids)]
				switch (caller*7 + i) % 9 {
				case 0:
					_, _ = p.Confirm(t.Context(), Confirm{ID: id})
				case 1, 2, 3:
					_, _ = p.Amend(t.Context(), Amend{ID: id, Lines: []Line{{SKU: "a", Location: MainLocation, Quantity: int64(1 + i%4)}}})
				case 4:
					if i > 20 {
						_, _ = p.Cancel(t.Context(), Cancel{ID: id})
					}
				default:
					_, _ = p.Place(t.Context(), placing(id))
				}
			}
		})
	}
	callers.Wait()
	p.wire.carryPut.set(nil)
	p.store.after.set(nil)
	for _, id := range ids {
		o := p.order(id)
		if o.Intent != nil {
			o = p.settle(t.Context(), o)
		}
		if err := agree(o, p.wire.bookings[id], time.Now()); err != nil {
			t.Error(err)
		}
	}
	p.wantAlarms()
}

// agree tells how an order without an intent and its reservation differ
// (invariant 5).
func agree(o Order, b *booking, now time.Time) error {
	if o.Intent != nil {
		return fmt.Errorf("order %s still has the intent %+v", o.ID, o.Intent)
	}
	if b == nil {
		return fmt.Errorf("order %s is %s and has no reservation", o.ID, o.State)
	}
	state := b.state
	if state == ReservationHeld && !now.Before(b.expires) {
		state = ReservationExpired
	}
	want := map[ReservationState][]State{
		ReservationHeld: {Placed}, ReservationExpired: {Placed, Expired}, ReservationCommitted: {Confirmed}, ReservationNone: {Rejected}, ReservationReleased: {Cancelled},
	}[state]
	if state == ReservationReleased && o.Last.Problem != nil && o.Last.Problem.Code == problem.GivenUp {
		want = []State{Rejected}
	}
	repaired := o.Last.Seq < o.Seq && o.Seq > b.seq // past it, under a seq that no operation had
	if !slices.Contains(want, o.State) || o.Seq != b.seq && !repaired {
		return fmt.Errorf("order %s is %s at seq %d, its reservation %s at %d", o.ID, o.State, o.Seq, state, b.seq)
	}
	if state == ReservationNone || o.State == Cancelled || o.State == Rejected {
		return nil
	}
	lines := map[shelf]int64{}
	for _, l := range o.Lines {
		lines[shelf{l.Location, l.SKU}] += l.Quantity
	}
	if !reflect.DeepEqual(lines, b.lines) {
		return fmt.Errorf("order %s has the lines %v, its reservation %v", o.ID, lines, b.lines)
	}
	if o.State == Placed && !o.HoldExpiresAt.Equal(b.expires) {
		return fmt.Errorf("order %s says that its hold ends %s, inventory says %s", o.ID, o.HoldExpiresAt, b.expires)
	}
	return nil
}
