package order

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

const (
	settleEvery = time.Second
	giveUpAfter = 30 * time.Second
)

// runSettler runs a settler of the pair's until stop is called, which returns
// once it has ended.
func (p *pair) runSettler(log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(p.t.Context())
	var running sync.WaitGroup
	running.Go(func() { NewSettler(p.Protocol, settleEvery, giveUpAfter, log).Run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

// pass lets time go by, until everybody waits.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// place records a place, whether or not inventory answers.
func (p *pair) place(id string) {
	p.t.Helper()
	if _, err := p.Place(p.t.Context(), placing(id)); err != nil {
		p.t.Fatal(err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestSettlerSendsTheSameAgain(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*pair) func(){
		"the request was lost": (*pair).mute,
		"the reply was lost":   (*pair).loseReplies,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				restore := lose(p)
				p.place("order-1")
				restore()
				p.wire.carryPut.set(func(ctx context.Context, r Request, arrive func() (Reservation, error)) (Reservation, error) {
					if age := time.Since(p.order("order-1").Intent.Since); age <= settleAfter {
						t.Errorf("the intent is taken after %s, while its caller may still wait", age)
					}
					if left, ok := exchange.Remaining(ctx); !ok || left != exchange.DefaultTimeout-outcomeReserve {
						t.Errorf("the exchange has %s", left)
					}
					if exchange.RequestID(ctx) == "" {
						t.Error("the exchange has no request id")
					}
					return arrive()
				})
				defer p.runSettler(quiet())()
				pass(settleAfter)
				p.wantState("order-1", Pending, PlaceOperation)
				pass(2 * settleEvery)
				p.wantState("order-1", Placed, "")
				p.wantRequests("1 held", "1 held")
				pass(time.Minute)
				p.wantRequests("1 held", "1 held")
				p.wantAlarms()
			})
		})
	}
}

// Only places are given up, after 30 seconds and no sooner; what inventory may
// have held for them comes back.
func TestSettlerGivesPlacesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		for _, id := range []string{"amend", "confirm", "cancel"} {
			p.place(id)
		}
		restore := p.loseReplies()
		p.place("held")
		restore()
		restore = p.mute()
		p.place("lost")
		p.place("customer")
		p.unknown(p.Amend(t.Context(), Amend{ID: "amend", Lines: []Line{{SKU: "a", Location: MainLocation, Quantity: 1}}}))
		p.unknown(p.Confirm(t.Context(), Confirm{ID: "confirm"}))
		p.unknown(p.Cancel(t.Context(), Cancel{ID: "cancel"}))

		defer p.runSettler(quiet())()
		pass(giveUpAfter)
		for _, id := range []string{"held", "lost", "customer"} {
			p.wantState(id, Pending, PlaceOperation)
		}
		pass(lease + 2*settleEvery)
		for _, id := range []string{"held", "lost", "customer"} {
			p.wantState(id, Pending, GiveUpOperation)
		}
		pass(time.Minute)
		p.wantState("held", Pending, GiveUpOperation)
		p.wantState("amend", Placed, AmendOperation)
		p.wantState("confirm", Placed, ConfirmOperation)
		p.wantState("cancel", Placed, CancelOperation)
		if p.wire.bookings["held"].state != ReservationHeld {
			t.Fatal("the test is not what it says")
		}

		// A customer's cancel is not the settler's: it supersedes it.
		o := p.unknown(p.Cancel(t.Context(), Cancel{ID: "customer"}))
		if o.Intent.Seq != 3 || o.Intent.Operation != CancelOperation {
			t.Errorf("after the customer's cancel the intent is %+v", o.Intent)
		}

		restore()
		pass(lease + 2*settleEvery)
		p.wantState("held", Rejected, "")
		p.wantState("lost", Rejected, "")
		p.wantState("customer", Cancelled, "")
		p.wantState("amend", Placed, "")
		p.wantState("confirm", Confirmed, "")
		p.wantState("cancel", Cancelled, "")
		for _, id := range []string{"held", "lost"} {
			if b := p.wire.bookings[id]; b.state != ReservationReleased || b.seq != 2 {
				t.Errorf("the reservation of %s is %s at %d", id, b.state, b.seq)
			}
			_, err := p.Place(t.Context(), placing(id))
			wantCode(t, err, problem.GivenUp)
			if last := p.order(id).Last; last.Operation != PlaceOperation || last.Outcome != OutcomeRejected {
				t.Errorf("%s says of its last operation %+v", id, last)
			}
		}
		// The place that was lost was only slow: it comes now, and changes nothing.
		_, err := p.wire.put(request(Order{ID: "lost", HoldSeconds: 600, Intent: &Intent{Operation: PlaceOperation, Seq: 1, Lines: placedLines}}))
		wantCode(t, err, problem.StaleSeq)
		if b := p.wire.bookings["lost"]; b.state != ReservationReleased {
			t.Errorf("the late place made the reservation %s", b.state)
		}
		p.wantAlarms()
	})
}

// A place that settles, or is cancelled, between the settler's look and its
// transaction is not given up.
func TestGivesUpOnlyWhatIsUnsettled(t *testing.T) {
	t.Parallel()
	for name, meanwhile := range map[string]struct {
		do   func(ctx context.Context, p *pair)
		want State
	}{
		"placed":    {func(ctx context.Context, p *pair) { p.settled(p.Place(ctx, placing("order-1"))) }, Placed},
		"cancelled": {func(ctx context.Context, p *pair) { p.settled(p.Cancel(ctx, Cancel{ID: "order-1"})) }, Cancelled},
		"placed and amended, not known yet": {func(ctx context.Context, p *pair) {
			p.settled(p.Place(ctx, placing("order-1")))
			restore := p.loseReplies()
			p.unknown(p.Amend(ctx, Amend{ID: "order-1", Lines: amendedLines}))
			restore()
		}, Placed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				restore := p.mute()
				p.place("order-1")
				tried := false
				p.store.before.set(func(ctx context.Context, c Command) error {
					if _, ok := c.(GiveUp); ok && !tried {
						tried = true
						restore()
						meanwhile.do(ctx, p)
					}
					return nil
				})
				defer p.runSettler(quiet())()
				pass(giveUpAfter + lease + settleAfter + lease)
				if !tried {
					t.Fatal("the place was never to be given up")
				}
				p.wantState("order-1", meanwhile.want, "")
				for _, in := range p.store.intents["order-1"] {
					if in.Operation == GiveUpOperation {
						t.Errorf("intent %d gives up what was settled", in.Seq)
					}
				}
			})
		})
	}
}

// A hold that ran out is marked when inventory says so, of the very seq.
func TestSettlerMarksHoldsThatRanOut(t *testing.T) {
	t.Parallel()
	const hold = 600 * time.Second
	t.Run("when inventory says so", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t)
			p.place("order-1")
			p.place("confirmed")
			p.settled(p.Confirm(t.Context(), Confirm{ID: "confirmed"}))
			defer p.runSettler(quiet())()
			pass(hold)
			p.wantState("order-1", Placed, "")
			pass(2 * settleEvery)
			p.wantState("order-1", Expired, "")
			p.wantState("confirmed", Confirmed, "")
			o := p.order("order-1")
			if o.Version != 3 || o.Seq != 1 || !o.HoldExpiresAt.Equal(o.CreatedAt.Add(hold)) {
				t.Errorf("the order is %+v", o)
			}
			_, err := p.Confirm(t.Context(), Confirm{ID: "order-1"})
			wantCode(t, err, problem.ReservationExpired)
			// Nothing was asked but how it is.
			p.wantRequests("1 held", "1 held", "2 committed")
		})
	})
	for name, answer := range map[string]func(Reservation) (Reservation, error){
		"not while inventory says that it is held": func(r Reservation) (Reservation, error) { r.State = ReservationHeld; return r, nil },
		"not for another order's answer":           func(r Reservation) (Reservation, error) { r.ID = "order-2"; return r, nil },
		"not for another seq's answer":             func(r Reservation) (Reservation, error) { r.Seq++; return r, nil },
		"not for no answer":                        func(r Reservation) (Reservation, error) { return r, lost() },
		"not for a reservation that is not there": func(r Reservation) (Reservation, error) {
			return Reservation{}, problem.New(problem.NotFound, "")
		},
		"not for one that is released": func(r Reservation) (Reservation, error) { r.State = ReservationReleased; return r, nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				p.place("order-1")
				asked := 0
				p.wire.carryGet.set(func(_ context.Context, _ string, arrive func() (Reservation, error)) (Reservation, error) {
					asked++
					r, err := arrive()
					if err != nil || r.State != ReservationExpired {
						t.Errorf("inventory says %+v, %v", r, err)
					}
					return answer(r)
				})
				defer p.runSettler(quiet())()
				pass(hold + 3*lease)
				p.wantState("order-1", Placed, "")
				if asked == 0 || asked > 3 {
					t.Errorf("inventory was asked %d times in 3 leases", asked)
				}
				p.wire.carryGet.set(nil)
				pass(lease + settleEvery)
				p.wantState("order-1", Expired, "")
				p.wantAlarms()
			})
		})
	}
	// Between inventory's answer and the mark an operation is recorded.
	for name, meanwhile := range map[string]struct {
		do      func(ctx context.Context, p *pair)
		want    State
		pending Operation
	}{
		"not with a confirm pending": {func(ctx context.Context, p *pair) {
			p.mute()
			p.unknown(p.Confirm(ctx, Confirm{ID: "order-1"}))
		}, Placed, ConfirmOperation},
		"not with another seq": {func(ctx context.Context, p *pair) {
			// Inventory's clock is behind ours, and the hold still stands.
			p.wire.bookings["order-1"].state = ReservationHeld
			p.wire.bookings["order-1"].expires = time.Now().Add(time.Minute)
			p.settled(p.Amend(ctx, Amend{ID: "order-1", Lines: amendedLines}))
		}, Placed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				p.place("order-1")
				marked := false
				p.store.before.set(func(ctx context.Context, c Command) error {
					if _, ok := c.(Expire); ok && !marked {
						marked = true
						meanwhile.do(ctx, p)
					}
					return nil
				})
				defer p.runSettler(quiet())()
				pass(hold + 2*settleEvery)
				if !marked {
					t.Fatal("the hold was never to be marked")
				}
				p.wantState("order-1", meanwhile.want, meanwhile.pending)
			})
		})
	}
}

// While inventory is away it is asked about one order at a time, and about all
// of them as soon as it answers.
func TestSettlerProbesWhileAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.wire.onHand[shelf{MainLocation, "a"}], p.wire.onHand[shelf{"east", "b"}] = 1000, 1000
		p.mute()
		for i := range 100 {
			p.place(fmt.Sprintf("order-%03d", i))
		}
		p.gate.away.Store(true)
		var perSecond sync.Map // of the unix second, *atomic.Int64
		back := time.Now().Add(15*time.Second - time.Millisecond)
		p.wire.carryPut.set(func(_ context.Context, _ Request, arrive func() (Reservation, error)) (Reservation, error) {
			n, _ := perSecond.LoadOrStore(time.Now().Unix(), new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
			if time.Now().Before(back) {
				return Reservation{}, lost()
			}
			p.gate.away.Store(false)
			return arrive()
		})
		defer p.runSettler(quiet())()
		pass(14500 * time.Millisecond)
		probes := 0
		perSecond.Range(func(_, n any) bool {
			probes++
			if n := n.(*atomic.Int64).Load(); n != 1 {
				t.Errorf("there were %d probes at once", n)
			}
			return true
		})
		if probes != 8 { // at 7, 8, … 14 s
			t.Errorf("there were %d probes", probes)
		}
		pass(time.Second)
		settled := 0
		for i := range 100 {
			if p.order(fmt.Sprintf("order-%03d", i)).State == Placed {
				settled++
			}
		}
		// Those that were probed in vain are leased for a while longer.
		if settled < 92 {
			t.Errorf("%d are settled a second after inventory returned", settled)
		}
		pass(lease)
		for i := range 100 {
			p.wantState(fmt.Sprintf("order-%03d", i), Placed, "")
		}
	})
}

// Another replica may have settled what this one could have asked about: then
// nothing else would find inventory, while each place is refused.
func TestSettlerLooksForInventoryWhereThereIsNothingToSettle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		asked := 0
		p.wire.carryGet.set(func(_ context.Context, _ string, arrive func() (Reservation, error)) (Reservation, error) {
			if asked++; asked < 3 {
				return Reservation{}, lost()
			}
			p.gate.away.Store(false)
			return arrive()
		})
		defer p.runSettler(quiet())()
		pass(3*settleEvery + 1)
		if asked > 0 {
			t.Errorf("inventory is there, and is asked %d times", asked)
		}
		p.gate.away.Store(true)
		pass(10 * settleEvery)
		if asked != 3 || p.gate.Away() {
			t.Errorf("it was asked %d times, away: %t", asked, p.gate.Away())
		}
	})
}

// A row that is taken while somebody settles it comes without an intent.
func TestSettlerPassesOverWhatWasSettledMeanwhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.place("order-1")
		NewSettler(p.Protocol, settleEvery, giveUpAfter, quiet()).resend(t.Context(), p.order("order-1"))
		p.wantState("order-1", Placed, "")
		p.wantRequests("1 held")
	})
}

// Two replicas' settlers share the work, each within its own limit.
func TestSettlersShareTheWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.wire.onHand[shelf{MainLocation, "a"}], p.wire.onHand[shelf{"east", "b"}] = 1000, 1000
		restore := p.mute()
		const n = 300
		for i := range n {
			p.place(fmt.Sprintf("order-%03d", i))
		}
		restore()
		var inFlight, most, resent atomic.Int64
		p.wire.carryPut.set(func(_ context.Context, _ Request, arrive func() (Reservation, error)) (Reservation, error) {
			most.Store(max(most.Load(), inFlight.Add(1)))
			resent.Add(1)
			time.Sleep(10 * time.Millisecond)
			inFlight.Add(-1)
			return arrive()
		})
		stopOne, stopOther := p.runSettler(quiet()), p.runSettler(quiet())
		pass(settleAfter + 2*settleEvery)
		stopOne()
		stopOther()
		for i := range n {
			p.wantState(fmt.Sprintf("order-%03d", i), Placed, "")
		}
		if resent.Load() != n {
			t.Errorf("%d intents were sent %d times", n, resent.Load())
		}
		if most.Load() > 2*settlerWorkers || most.Load() < settlerWorkers {
			t.Errorf("there were %d exchanges at once, want up to %d for each of two", most.Load(), settlerWorkers)
		}
	})
}

// What can't be mended by repeating is repeated once a lease, alarms each time,
// and is never settled.
func TestSettlerNeverSettlesByAnythingElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.place("order-1")
		p.wire.carryPut.set(func(_ context.Context, r Request, _ func() (Reservation, error)) (Reservation, error) {
			stale := problem.New(problem.StaleSeq, "")
			stale.Current = &problem.Current{ID: r.ID, Seq: r.Seq + 5, State: "committed"}
			return Reservation{}, stale
		})
		p.unknown(p.Confirm(t.Context(), Confirm{ID: "order-1"}))
		defer p.runSettler(quiet())()
		pass(10 * time.Minute)
		p.wantState("order-1", Placed, ConfirmOperation)
		p.alarms.mu.Lock()
		defer p.alarms.mu.Unlock()
		if n := len(p.alarms.reasons); n < 30 || n > 61 || slices.ContainsFunc(p.alarms.reasons, func(r string) bool { return r != "stale-seq" }) {
			t.Errorf("%d alarms in 60 leases: %v", n, p.alarms.reasons)
		}
	})
}

// A settler that is stopped finishes what it has begun, so that an answer it
// waits for is written down.
func TestSettlerStops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		restore := p.mute()
		p.place("order-1")
		restore()
		asking := make(chan struct{})
		p.wire.carryPut.set(func(ctx context.Context, _ Request, arrive func() (Reservation, error)) (Reservation, error) {
			close(asking)
			time.Sleep(time.Second)
			if ctx.Err() != nil {
				t.Error("the exchange is cancelled")
			}
			return arrive()
		})
		stop := p.runSettler(quiet())
		<-asking
		began := time.Now()
		stop()
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %s to stop", took)
		}
		p.wantState("order-1", Placed, "")
	})
}

// A database that fails for a moment is logged, and looked at again.
func TestSettlerOutlivesItsDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		restore := p.mute()
		p.place("order-1")
		restore()
		p.store.read.set(func(context.Context) error { return problem.New(problem.Unavailable, "The disk is gone.") })
		var text bytes.Buffer
		stop := p.runSettler(slog.New(slog.NewTextHandler(&text, nil)))
		pass(10 * time.Second)
		p.wantState("order-1", Pending, PlaceOperation)
		p.store.read.set(nil)
		pass(2 * time.Second)
		p.wantState("order-1", Placed, "")
		stop()
		for _, want := range []string{"unsettled intents", "holds that ran out", "The disk is gone."} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("the log does not say %q", want)
			}
		}
	})
}
