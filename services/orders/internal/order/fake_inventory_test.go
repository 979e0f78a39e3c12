package order

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"roundtrip/internal/problem"
)

// fakeInventory implements only the fence and the table of docs/protocol.md, "What
// inventory does". It keeps every outcome that it decided.
type fakeInventory struct {
	now func() time.Time

	mu           sync.Mutex
	onHand       map[levelKey]int64
	reservations map[string]*fakeReservation
	outcomes     []storedOutcome
}

type levelKey struct{ location, sku string }

// fakeReservation is a reservation as inventory stores it.
type fakeReservation struct {
	seq     int64
	state   ReservationState
	lines   map[levelKey]int64
	expires time.Time
	outcome storedOutcome
}

// storedOutcome is the outcome of one seq, with the request that it answers.
type storedOutcome struct {
	Request
	rejection *problem.Problem
	expires   time.Time
}

func newFakeInventory(now func() time.Time, onHand map[string]int64) *fakeInventory {
	f := &fakeInventory{now: now, onHand: map[levelKey]int64{}, reservations: map[string]*fakeReservation{}}
	for sku, n := range onHand {
		f.onHand[levelKey{MainLocation, sku}] = n
	}
	return f
}

func (f *fakeInventory) put(r Request) (Reservation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire()
	res, ok := f.reservations[r.ID]
	if !ok {
		res = &fakeReservation{state: ReservationNone}
		f.reservations[r.ID] = res
	}
	current := func(p *problem.Problem) error {
		answer := *p
		answer.Current = &problem.Current{ID: r.ID, Seq: res.seq, State: string(res.state)}
		return &answer
	}
	switch {
	case r.Seq < res.seq:
		return Reservation{}, current(problem.New(problem.StaleSeq, "The last seq is %d.", res.seq))
	case r.Seq == res.seq && !sameRequest(r, res.outcome.Request):
		return Reservation{}, current(problem.New(problem.SeqReused, "Seq %d was used for another request.", r.Seq))
	case r.Seq > res.seq:
		rejection := f.apply(res, r)
		res.seq = r.Seq
		res.outcome = storedOutcome{r, rejection, res.expires}
		f.outcomes = append(f.outcomes, res.outcome)
	}
	if res.outcome.rejection != nil {
		return Reservation{}, current(res.outcome.rejection)
	}
	return res.reservation(r.ID), nil
}

// expire marks every expired hold.
func (f *fakeInventory) expire() {
	for _, res := range f.reservations {
		if res.state == ReservationHeld && !f.now().Before(res.expires) {
			res.state = ReservationExpired
		}
	}
}

// available is the quantity on hand that no other reservation holds.
func (f *fakeInventory) available(at levelKey, except *fakeReservation) int64 {
	n := f.onHand[at]
	for _, res := range f.reservations {
		if res != except && res.state == ReservationHeld {
			n -= res.lines[at]
		}
	}
	return n
}

// apply makes a transition, or returns why it is rejected.
func (f *fakeInventory) apply(res *fakeReservation, r Request) *problem.Problem {
	switch asked := r.State; {
	case asked == ReservationHeld && (res.state == ReservationNone || res.state == ReservationHeld):
		wanted := demand(r)
		var short []problem.Shortage
		for _, at := range slices.SortedFunc(maps.Keys(wanted), levelKey.compare) {
			if n := f.available(at, res); wanted[at] > n {
				short = append(short, problem.Shortage{SKU: at.sku, Location: at.location, Requested: wanted[at], Available: n})
			}
		}
		if short != nil {
			return &problem.Problem{Code: problem.InsufficientStock, Detail: "Nothing was changed.", Shortages: short}
		}
		res.state, res.lines, res.expires = ReservationHeld, wanted, f.now().Add(time.Duration(r.HoldSeconds)*time.Second)
		return nil
	case asked == ReservationCommitted && res.state == ReservationHeld:
		for at, n := range res.lines {
			f.onHand[at] -= n
		}
		res.state = ReservationCommitted
		return nil
	case asked == ReservationCommitted && res.state == ReservationCommitted:
		return nil
	case asked == ReservationReleased:
		if res.state == ReservationCommitted {
			for at, n := range res.lines {
				f.onHand[at] += n
			}
		}
		res.state = ReservationReleased
		return nil
	case res.state == ReservationExpired:
		return problem.New(problem.ReservationExpired, "The hold has expired.")
	}
	return problem.New(problem.WrongState, "What is %s can't become %s.", res.state, r.State)
}

func (res *fakeReservation) reservation(id string) Reservation {
	r := Reservation{ID: id, Seq: res.seq, State: res.state}
	if res.state == ReservationHeld || res.state == ReservationExpired {
		r.ExpiresAt = res.expires
	}
	for _, at := range slices.SortedFunc(maps.Keys(res.lines), levelKey.compare) {
		r.Lines = append(r.Lines, Demand{at.sku, at.location, res.lines[at]})
	}
	return r
}

func (f *fakeInventory) get(id string) (Reservation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire()
	res, ok := f.reservations[id]
	if !ok {
		return Reservation{}, problem.New(problem.NotFound, "There is no reservation %s.", id)
	}
	return res.reservation(id), nil
}

func (a levelKey) compare(b levelKey) int {
	return cmp.Or(cmp.Compare(a.location, b.location), cmp.Compare(a.sku, b.sku))
}

// demand adds up the lines of a request by level.
func demand(r Request) map[levelKey]int64 {
	sum := map[levelKey]int64{}
	for _, l := range r.Lines {
		sum[levelKey{l.Location, l.SKU}] += l.Quantity
	}
	return sum
}

func sameRequest(a, b Request) bool {
	return a.ID == b.ID && a.Seq == b.Seq && a.State == b.State && a.HoldSeconds == b.HoldSeconds && maps.Equal(demand(a), demand(b))
}
