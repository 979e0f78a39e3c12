package order

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"roundtrip/internal/problem"
)

// warehouse is a small faithful inventory: the fence and the table of
// protocol.md, and nothing else. It keeps every outcome that it ever decided.
type warehouse struct {
	now func() time.Time

	mu       sync.Mutex
	onHand   map[shelf]int64
	bookings map[string]*booking
	decided  []decision
}

type shelf struct{ location, sku string }

// booking is a reservation.
type booking struct {
	seq     int64
	state   ReservationState
	lines   map[shelf]int64
	expires time.Time
	last    decision
}

// decision is an outcome.
type decision struct {
	Request
	rejection *problem.Problem
	expires   time.Time
}

func newWarehouse(now func() time.Time, onHand map[string]int64) *warehouse {
	w := &warehouse{now: now, onHand: map[shelf]int64{}, bookings: map[string]*booking{}}
	for sku, n := range onHand {
		w.onHand[shelf{MainLocation, sku}] = n
	}
	return w
}

func (w *warehouse) put(r Request) (Reservation, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expire()
	b, ok := w.bookings[r.ID]
	if !ok {
		b = &booking{state: ReservationNone}
		w.bookings[r.ID] = b
	}
	current := func(p *problem.Problem) error {
		answer := *p
		answer.Current = &problem.Current{ID: r.ID, Seq: b.seq, State: string(b.state)}
		return &answer
	}
	switch {
	case r.Seq < b.seq:
		return Reservation{}, current(problem.New(problem.StaleSeq, "The last seq is %d.", b.seq))
	case r.Seq == b.seq && !sameRequest(r, b.last.Request):
		return Reservation{}, current(problem.New(problem.SeqReused, "Seq %d was used for another request.", r.Seq))
	case r.Seq > b.seq:
		rejection := w.apply(b, r)
		b.seq = r.Seq
		b.last = decision{r, rejection, b.expires}
		w.decided = append(w.decided, b.last)
	}
	if b.last.rejection != nil {
		return Reservation{}, current(b.last.rejection)
	}
	return b.reservation(r.ID), nil
}

// expire frees every hold that has run out.
func (w *warehouse) expire() {
	for _, b := range w.bookings {
		if b.state == ReservationHeld && !w.now().Before(b.expires) {
			b.state = ReservationExpired
		}
	}
}

// available is what is on hand and not held by anybody else.
func (w *warehouse) available(at shelf, except *booking) int64 {
	n := w.onHand[at]
	for _, b := range w.bookings {
		if b != except && b.state == ReservationHeld {
			n -= b.lines[at]
		}
	}
	return n
}

// apply makes a transition, and returns why not.
func (w *warehouse) apply(b *booking, r Request) *problem.Problem {
	switch asked := r.State; {
	case asked == ReservationHeld && (b.state == ReservationNone || b.state == ReservationHeld):
		wanted := demand(r)
		var short []problem.Shortage
		for _, at := range slices.SortedFunc(maps.Keys(wanted), shelf.compare) {
			if n := w.available(at, b); wanted[at] > n {
				short = append(short, problem.Shortage{SKU: at.sku, Location: at.location, Requested: wanted[at], Available: n})
			}
		}
		if short != nil {
			return &problem.Problem{Code: problem.InsufficientStock, Detail: "Nothing was changed.", Shortages: short}
		}
		b.state, b.lines, b.expires = ReservationHeld, wanted, w.now().Add(time.Duration(r.HoldSeconds)*time.Second)
		return nil
	case asked == ReservationCommitted && b.state == ReservationHeld:
		for at, n := range b.lines {
			w.onHand[at] -= n
		}
		b.state = ReservationCommitted
		return nil
	case asked == ReservationCommitted && b.state == ReservationCommitted:
		return nil
	case asked == ReservationReleased:
		if b.state == ReservationCommitted {
			for at, n := range b.lines {
				w.onHand[at] += n
			}
		}
		b.state = ReservationReleased
		return nil
	case b.state == ReservationExpired:
		return problem.New(problem.ReservationExpired, "The hold has expired.")
	}
	return problem.New(problem.WrongState, "What is %s can't become %s.", b.state, r.State)
}

func (b *booking) reservation(id string) Reservation {
	r := Reservation{ID: id, Seq: b.seq, State: b.state}
	if b.state == ReservationHeld || b.state == ReservationExpired {
		r.ExpiresAt = b.expires
	}
	for _, at := range slices.SortedFunc(maps.Keys(b.lines), shelf.compare) {
		r.Lines = append(r.Lines, Demand{at.sku, at.location, b.lines[at]})
	}
	return r
}

func (w *warehouse) get(id string) (Reservation, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expire()
	b, ok := w.bookings[id]
	if !ok {
		return Reservation{}, problem.New(problem.NotFound, "There is no reservation %s.", id)
	}
	return b.reservation(id), nil
}

func (a shelf) compare(b shelf) int {
	return cmp.Or(cmp.Compare(a.location, b.location), cmp.Compare(a.sku, b.sku))
}

// demand adds up a request's lines: the same SKU on several is one demand.
func demand(r Request) map[shelf]int64 {
	sum := map[shelf]int64{}
	for _, l := range r.Lines {
		sum[shelf{l.Location, l.SKU}] += l.Quantity
	}
	return sum
}

func sameRequest(a, b Request) bool {
	return a.ID == b.ID && a.Seq == b.Seq && a.State == b.State && a.HoldSeconds == b.HoldSeconds && maps.Equal(demand(a), demand(b))
}

// wire is an [Inventory]: a warehouse, and what is between.
type wire struct {
	*warehouse
	// carryPut, if set, carries a request: it may call arrive, once or not at all,
	// now or when it likes, and answers what it likes. carryGet does so for what
	// only asks.
	carryPut hook[func(ctx context.Context, r Request, arrive func() (Reservation, error)) (Reservation, error)]
	carryGet hook[func(ctx context.Context, id string, arrive func() (Reservation, error)) (Reservation, error)]
	// stock answers [Inventory.Stock].
	stock func(ctx context.Context, skus []string) ([]Level, error)

	mu   sync.Mutex
	sent []Request
}

var _ Inventory = (*wire)(nil)

func (w *wire) PutReservation(ctx context.Context, r Request) (Reservation, error) {
	w.mu.Lock()
	w.sent = append(w.sent, r)
	w.mu.Unlock()
	arrive := func() (Reservation, error) { return w.put(r) }
	if carry := w.carryPut.get(); carry != nil {
		return carry(ctx, r, arrive)
	}
	return arrive()
}

func (w *wire) Reservation(ctx context.Context, id string) (Reservation, error) {
	arrive := func() (Reservation, error) { return w.get(id) }
	if carry := w.carryGet.get(); carry != nil {
		return carry(ctx, id, arrive)
	}
	return arrive()
}

func (w *wire) Stock(ctx context.Context, skus []string) ([]Level, error) { return w.stock(ctx, skus) }

// requests names what was sent, as "seq state".
func (w *wire) requests() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := []string{}
	for _, r := range w.sent {
		list = append(list, fmt.Sprintf("%d %s", r.Seq, r.State))
	}
	return list
}

// lost is the answer to a request that nobody knows the end of.
func lost() error { return problem.New(problem.Unavailable, "The connection broke.") }

// turnstile is a [Gate] that counts who is inside.
type turnstile struct {
	full, away      atomic.Bool
	entered, inside atomic.Int64
}

func (g *turnstile) Enter() (func(), error) {
	if g.full.Load() {
		return nil, problem.New(problem.Overloaded, "Too many exchanges are in flight.")
	}
	g.entered.Add(1)
	g.inside.Add(1)
	return func() { g.inside.Add(-1) }, nil
}

func (g *turnstile) Away() bool { return g.away.Load() }
