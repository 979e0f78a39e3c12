package order

import (
	"context"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

// docs/protocol.md, "Only an outcome settles": with any other answer the caller
// gets 202, the intent stays, and a repeat sends the same request again.
func TestOtherAnswersLeaveTheIntentUnsettled(t *testing.T) {
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
		"lost":                       {Reservation{}, connectionLost(), ""},
		"late":                       {Reservation{}, problem.New(problem.DeadlineExceeded, ""), ""},
		"overloaded":                 {Reservation{}, problem.New(problem.Overloaded, ""), ""},
		"too many requests":          {Reservation{}, problem.New(problem.RateLimited, ""), ""},
		"invalid":                    {Reservation{}, problem.New(problem.Invalid, ""), "invalid"},
		"unauthenticated":            {Reservation{}, problem.New(problem.Unauthenticated, ""), "unauthenticated"},
		"forbidden":                  {Reservation{}, problem.New(problem.Forbidden, ""), "forbidden"},
		"not found":                  {Reservation{}, problem.New(problem.NotFound, ""), "not-found"},
		"too large":                  {Reservation{}, problem.New(problem.TooLarge, ""), "too-large"},
		"internal":                   {Reservation{}, problem.New(problem.Internal, ""), "internal"},
		"stale seq":                  {Reservation{}, conflict(problem.StaleSeq, "order-1", 2), "stale-seq"},
		"seq reused":                 {Reservation{}, conflict(problem.SeqReused, "order-1", 1), "seq-reused"},
		"rejection of another order": {Reservation{}, conflict(problem.InsufficientStock, "order-2", 1), "unexplained"},
		"rejection of another seq":   {Reservation{}, conflict(problem.InsufficientStock, "order-1", 2), "unexplained"},
		"garbage":                    {Reservation{}, problem.Wrap(ErrUnexplained, problem.Internal, ""), "unexplained"},
		"empty":                      {Reservation{}, nil, "unexplained"},
		"success of another order":   {Reservation{ID: "order-2", Seq: 1, State: ReservationHeld}, nil, "unexplained"},
		"success of another seq":     {Reservation{ID: "order-1", Seq: 2, State: ReservationHeld}, nil, "unexplained"},
		"success with another state": {Reservation{ID: "order-1", Seq: 1, State: ReservationCommitted}, nil, "unexplained"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.client.onPut.set(func(context.Context, Request, func() (Reservation, error)) (Reservation, error) {
				return test.r, test.err
			})
			answer, err := h.Place(t.Context(), placeCommand("order-1"))
			o := h.wantUnknown(answer, err)
			if !answer.Created || o.State != Pending || o.Version != 1 || o.Intent == nil || o.Intent.Seq != 1 {
				t.Errorf("the answer is %+v", answer)
			}
			var alarms []string
			if test.alarm != "" {
				alarms = append(alarms, test.alarm)
			}
			h.wantAlarms(alarms...)

			h.client.onPut.set(nil)
			answer, err = h.Place(t.Context(), placeCommand("order-1"))
			if o := h.wantSettled(answer, err); answer.Created || o.State != Placed {
				t.Errorf("the repeat got %+v", answer)
			}
			h.wantRequests("1 held", "1 held")
			if first, second := h.client.sent[0], h.client.sent[1]; !reflect.DeepEqual(first, second) {
				t.Errorf("the requests are %+v and %+v, want the same", first, second)
			}
			h.wantAlarms(alarms...)
		})
	}
}

// No operation is lost with its reply.
func TestLostReplyIsResolvedByRepeating(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	steps := []struct {
		do    func() (Response, error)
		state State
	}{
		{func() (Response, error) { return h.Place(t.Context(), placeCommand("order-1")) }, Placed},
		{func() (Response, error) { return h.Amend(t.Context(), Amend{ID: "order-1", Lines: amendedLines}) }, Placed},
		{func() (Response, error) { return h.Confirm(t.Context(), Confirm{ID: "order-1"}) }, Confirmed},
		{func() (Response, error) { return h.Cancel(t.Context(), Cancel{ID: "order-1"}) }, Cancelled},
	}
	for i, step := range steps {
		restore := h.dropReplies()
		h.wantUnknown(step.do())
		h.wantUnknown(step.do())
		restore()
		if o := h.wantSettled(step.do()); o.State != step.state || o.Seq != int64(i+1) {
			t.Errorf("after step %d the order is %+v", i, o)
		}
	}
	if n := len(h.client.outcomes); n != 4 {
		t.Errorf("inventory decided %d times, want once for each operation", n)
	}
	h.wantAlarms()
}

// An exchange that takes its whole deadline leaves time to read the order, so the
// caller gets 202 in time.
func TestDeadlineKeepsTimeForTheOutcome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		h.client.onPut.set(func(ctx context.Context, _ Request, _ func() (Reservation, error)) (Reservation, error) {
			<-ctx.Done()
			return Reservation{}, problem.Wrap(ctx.Err(), problem.DeadlineExceeded, "")
		})
		ctx, cancel := context.WithTimeout(t.Context(), exchange.DefaultTimeout)
		defer cancel()
		began := time.Now()
		h.wantUnknown(h.Place(ctx, placeCommand("order-1")))
		if took := time.Since(began); took != exchange.DefaultTimeout-outcomeReserve || ctx.Err() != nil {
			t.Errorf("the place took %s of %s", took, exchange.DefaultTimeout)
		}
		// Settling the pending operation takes the time that the operation itself
		// would need.
		_, err := h.Confirm(ctx, Confirm{ID: "order-1"})
		wantCode(t, err, problem.DeadlineExceeded)
		h.wantRequests("1 held")
	})
}

// Once the intent is recorded, a hang-up of the caller cancels nothing.
func TestHangUpAfterTheIntentCancelsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		for name, lines := range map[string][]Line{"done": placedLines, "rejected": otherLines} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			ctx, hangUp := context.WithCancel(exchange.WithRequestID(ctx, "request-7"))
			h.client.onPut.set(func(ctx context.Context, _ Request, deliver func() (Reservation, error)) (Reservation, error) {
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
				return deliver()
			})
			c := placeCommand(name)
			c.Lines = lines
			_, _ = h.Place(ctx, c) // the caller has hung up
		}
		h.wantState("done", Placed, "")
		h.wantState("rejected", Rejected, "")

		// Reading another caller's result is not cancelled either.
		ctx, hangUp := context.WithCancel(t.Context())
		h.client.onPut.set(func(other context.Context, _ Request, deliver func() (Reservation, error)) (Reservation, error) {
			h.client.onPut.set(nil)
			h.wantSettled(h.Confirm(other, Confirm{ID: "done"}))
			h.wantSettled(h.Cancel(other, Cancel{ID: "done"}))
			hangUp()
			return deliver()
		})
		h.wantSettled(h.Confirm(ctx, Confirm{ID: "done"}))
	})
}

// A commit with an unknown result may have recorded the intent. A repeat joins it.
func TestUnknownIntentCommitIsFoundByRepeating(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.store.after.set(func(context.Context, Command) error { return problem.New(problem.Unavailable, "It may be recorded.") })
	_, err := h.Place(t.Context(), placeCommand("order-1"))
	wantCode(t, err, problem.Unavailable)
	h.wantRequests()
	h.wantState("order-1", Pending, PlaceOperation)
	h.store.after.set(nil)
	answer, err := h.Place(t.Context(), placeCommand("order-1"))
	if o := h.wantSettled(answer, err); answer.Created || o.Seq != 1 {
		t.Errorf("the repeat got %+v", answer)
	}
}

// If the outcome is not recorded, or may not be, the caller gets 202.
func TestOutcomeThatIsNotRecordedStaysUnknown(t *testing.T) {
	t.Parallel()
	fail := func(_ context.Context, c Command) error {
		if _, ok := c.(RecordOutcome); ok {
			return problem.New(problem.Unavailable, "The disk is full.")
		}
		return nil
	}
	for name, prepare := range map[string]func(*fakeStore){
		"nothing is written": func(s *fakeStore) { s.before.set(fail) },
		"all is written":     func(s *fakeStore) { s.after.set(fail) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			prepare(h.store)
			h.wantUnknown(h.Place(t.Context(), placeCommand("order-1")))
			h.store.before.set(nil)
			h.store.after.set(nil)
			if o := h.wantSettled(h.Place(t.Context(), placeCommand("order-1"))); o.State != Placed || o.Version != 2 {
				t.Errorf("the repeat got %+v", o)
			}
			if len(h.client.outcomes) != 1 {
				t.Errorf("inventory decided %d times", len(h.client.outcomes))
			}
		})
	}
}

// There is no alarm if the operation has settled meanwhile, or if the order cannot
// be read.
func TestAlarmsOnlyWhileUnsettled(t *testing.T) {
	t.Parallel()
	refuse := func(context.Context, Request, func() (Reservation, error)) (Reservation, error) {
		return Reservation{}, problem.New(problem.Forbidden, "")
	}
	t.Run("settled meanwhile", func(t *testing.T) {
		t.Parallel()
		h := newHarness(t)
		h.client.onPut.set(func(ctx context.Context, r Request, _ func() (Reservation, error)) (Reservation, error) {
			h.client.onPut.set(nil)
			h.wantSettled(h.Place(ctx, placeCommand("order-1")))
			return refuse(ctx, r, nil)
		})
		if o := h.wantSettled(h.Place(t.Context(), placeCommand("order-1"))); o.State != Placed {
			t.Errorf("the order is %+v", o)
		}
		h.wantAlarms()
	})
	t.Run("superseded meanwhile", func(t *testing.T) {
		t.Parallel()
		h := newHarness(t)
		h.client.onPut.set(func(ctx context.Context, r Request, _ func() (Reservation, error)) (Reservation, error) {
			h.dropRequests()
			h.wantUnknown(h.Cancel(ctx, Cancel{ID: "order-1"}))
			return refuse(ctx, r, nil)
		})
		if o := h.wantUnknown(h.Place(t.Context(), placeCommand("order-1"))); o.Intent.Operation != CancelOperation {
			t.Errorf("the order is %+v", o)
		}
		h.wantAlarms()
	})
	t.Run("the order cannot be read", func(t *testing.T) {
		t.Parallel()
		h := newHarness(t)
		h.client.onPut.set(refuse)
		h.store.read.set(func(context.Context) error { return problem.New(problem.Unavailable, "The disk is gone.") })
		if o := h.wantUnknown(h.Place(t.Context(), placeCommand("order-1"))); o.Intent == nil {
			t.Errorf("the order is %+v", o)
		}
		h.wantAlarms()
	})
	t.Run("still unsettled, at each attempt", func(t *testing.T) {
		t.Parallel()
		h := newHarness(t)
		h.client.onPut.set(refuse)
		h.wantUnknown(h.Place(t.Context(), placeCommand("order-1")))
		_, err := h.Confirm(t.Context(), Confirm{ID: "order-1"})
		wantCode(t, err, problem.OperationPending)
		h.wantAlarms("forbidden", "forbidden")
	})
}
