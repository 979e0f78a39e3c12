package order

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"roundtrip/internal/problem"
)

// start is when every test that has a clock of its own begins.
var start = time.Date(2026, time.November, 24, 13, 0, 0, 0, time.UTC)

// memory is the smallest [Store]: it loads, lets a book decide and writes, under
// one mutex, with the constraints of a real schema and those rules of the
// protocol that every single write must keep. What goes in and out is copied, so
// a book that keeps its hands on what was stored is found out.
type memory struct {
	now func() time.Time
	// before may fail a transaction: nothing is written then. after may make its
	// result unknown: all is written. read may fail what only reads. Each may block.
	before, after hook[func(ctx context.Context, c Command) error]
	read          hook[func(ctx context.Context) error]

	mu      sync.Mutex
	orders  map[string]Order
	intents map[string][]recorded // of each order; the one with seq n is at n-1
	leased  map[string]time.Time
	// history is every version of every order, adopted what a repair made of it
	// last, and broken is every rule that a write broke.
	history map[string][]Order
	adopted map[string]Order
	broken  []error
}

// recorded is an intent and, once it has ended, how.
type recorded struct {
	Intent
	end *Settlement
}

var _ Store = (*memory)(nil)

// hook is what a test puts in the way, also while others run; nil is nothing.
type hook[F any] struct{ f atomic.Pointer[F] }

func (h *hook[F]) set(f F) { h.f.Store(&f) }

func (h *hook[F]) get() (f F) {
	if p := h.f.Load(); p != nil {
		f = *p
	}
	return f
}

func newMemory(now func() time.Time) *memory {
	return &memory{
		now: now, orders: map[string]Order{}, intents: map[string][]recorded{},
		leased: map[string]time.Time{}, history: map[string][]Order{}, adopted: map[string]Order{},
	}
}

func (m *memory) Do(ctx context.Context, commands []Command) []Result {
	results := make([]Result, len(commands))
	for i, c := range commands {
		results[i] = m.transact(ctx, c)
	}
	return results
}

func (m *memory) transact(ctx context.Context, c Command) Result {
	if err := cmp.Or(c.Validate(), ctx.Err()); err != nil {
		return Result{Err: err}
	}
	if f := m.before.get(); f != nil {
		if err := f(ctx, c); err != nil {
			return Result{Err: err}
		}
	}
	result := m.commit(c)
	if f := m.after.get(); f != nil {
		if err := f(ctx, c); err != nil {
			return Result{Err: err}
		}
	}
	return result
}

func (m *memory) commit(c Command) Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	var loaded []Order
	if o, ok := m.orders[c.OrderID()]; ok {
		loaded = append(loaded, copied(o))
	}
	now := m.now()
	book := NewUnitOfWork(now, loaded)
	result := book.Decide(c)
	result.Order = copied(result.Order)
	_, adopts := c.(Repair)
	if err := m.write(now, book.Changes(), adopts); err != nil {
		m.broken = append(m.broken, fmt.Errorf("%T %+v: %w", c, c, err))
	}
	return result
}

// next lists the states that may follow each.
var next = map[State][]State{
	Pending:   {Pending, Placed, Rejected, Cancelled, Expired},
	Placed:    {Placed, Confirmed, Cancelled, Expired},
	Confirmed: {Confirmed, Cancelled},
	Rejected:  {Rejected}, Cancelled: {Cancelled}, Expired: {Expired},
}

func (m *memory) write(now time.Time, c Changes, adopts bool) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if c.Empty() && len(c.Opened)+len(c.Closed) > 0 {
		fail("changes say that they are empty: %+v", c)
	}
	for _, in := range c.Closed {
		list := m.intents[in.OrderID]
		if in.Seq < 1 || in.Seq > int64(len(list)) || list[in.Seq-1].end != nil {
			fail("intent %d of %s ends and is not open", in.Seq, in.OrderID)
			continue
		}
		end := in.Settlement
		end.Problem = stored(end.Problem)
		list[in.Seq-1].end = &end
	}
	for _, in := range c.Opened {
		list := m.intents[in.OrderID]
		if in.Seq != int64(len(list))+1 {
			fail("intent %d of %s follows on %d", in.Seq, in.OrderID, len(list))
		}
		if n := len(list); n > 0 && list[n-1].end == nil {
			fail("intent %d of %s begins before %d has ended", in.Seq, in.OrderID, n)
		}
		m.intents[in.OrderID] = append(list, recorded{Intent: *copied(Order{Intent: &in.Intent}).Intent})
	}
	for _, o := range c.Orders {
		old, ok := m.orders[o.ID]
		if ok == c.Created[o.ID] {
			fail("order %s is created: %v; it was there: %v", o.ID, c.Created[o.ID], ok)
		}
		if o.Version != old.Version+1 {
			fail("version %d of %s follows on %d", o.Version, o.ID, old.Version)
		}
		if ok {
			// What a repair adopts may have come a long way since.
			if !slices.Contains(next[old.State], o.State) && !(adopts && old.State == Pending) {
				fail("order %s goes from %s to %s", o.ID, old.State, o.State)
			}
			if o.Fingerprint != old.Fingerprint || o.Customer != old.Customer || o.Currency != old.Currency ||
				o.HoldSeconds != old.HoldSeconds || !o.CreatedAt.Equal(old.CreatedAt) {
				fail("order %s changes in what never changes: %+v, was %+v", o.ID, o, old)
			}
		}
		if !o.UpdatedAt.Equal(now) {
			fail("order %s was updated now and says %s", o.ID, o.UpdatedAt)
		}
		if sum, ok := total(o.Lines); !ok || sum != o.Total {
			fail("order %s has a total of %d, its lines one of %d", o.ID, o.Total, sum)
		}
		if o.HoldExpiresAt.IsZero() == (o.State == Placed || o.State == Expired) {
			fail("order %s is %s and its hold ends %s", o.ID, o.State, o.HoldExpiresAt)
		}
		if o.State == Pending && o.Intent == nil || o.Intent != nil && len(next[o.State]) == 1 {
			fail("order %s is %s with the intent %+v", o.ID, o.State, o.Intent)
		}
		if adopts {
			m.adopt(o)
		}
		m.checkIntents(o, fail)
		m.orders[o.ID] = copied(o)
		m.history[o.ID] = append(m.history[o.ID], copied(o))
	}
	return errors.Join(errs...)
}

// adopt leaves out the seqs that an order never had for itself.
func (m *memory) adopt(o Order) {
	m.adopted[o.ID] = copied(o)
	for int64(len(m.intents[o.ID])) < o.Seq {
		m.intents[o.ID] = append(m.intents[o.ID], recorded{end: &Settlement{Outcome: OutcomeSuperseded}})
	}
}

// checkIntents holds an order's intent and its last operation against the
// intents that are recorded.
func (m *memory) checkIntents(o Order, fail func(string, ...any)) {
	var open *Intent
	adopted := m.adopted[o.ID]
	last := adopted.Last
	for _, in := range m.intents[o.ID] {
		switch {
		case in.end == nil:
			open = &in.Intent
		case in.end.Outcome != OutcomeSuperseded && in.Seq > adopted.Seq:
			last = in.end
		}
	}
	if !reflect.DeepEqual(open, o.Intent) {
		fail("order %s has the intent %+v, recorded is %+v", o.ID, o.Intent, open)
	}
	if !reflect.DeepEqual(last, copied(o).Last) {
		fail("order %s says that it ended %+v last, recorded is %+v", o.ID, o.Last, last)
	}
	if o.Seq != int64(len(m.intents[o.ID])) {
		fail("order %s has seq %d and %d intents", o.ID, o.Seq, len(m.intents[o.ID]))
	}
}

func (m *memory) Order(ctx context.Context, id string) (Order, error) {
	if err := m.mayRead(ctx); err != nil {
		return Order{}, err
	}
	if o, ok := m.find(id); ok {
		return o, nil
	}
	return Order{}, problem.New(problem.NotFound, "There is no order %s.", id)
}

func (m *memory) mayRead(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if f := m.read.get(); f != nil {
		return f(ctx)
	}
	return nil
}

// find gives the order as it is stored.
func (m *memory) find(id string) (Order, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.orders[id]
	return copied(o), ok
}

func (m *memory) Settlement(ctx context.Context, id string, seq int64) (Settlement, error) {
	if err := m.mayRead(ctx); err != nil {
		return Settlement{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if list := m.intents[id]; seq >= 1 && seq <= int64(len(list)) && list[seq-1].end != nil {
		return *list[seq-1].end, nil
	}
	return Settlement{}, problem.New(problem.NotFound, "Operation %d of %s is not settled.", seq, id)
}

func (m *memory) LeaseUnsettled(ctx context.Context, before time.Time, lease time.Duration, limit int) ([]Order, error) {
	return m.take(ctx, lease, limit, func(o Order) (time.Time, bool) {
		if o.Intent == nil {
			return time.Time{}, false
		}
		return o.Intent.Since, o.Intent.Since.Before(before)
	})
}

func (m *memory) LeaseExpiredHolds(ctx context.Context, before time.Time, lease time.Duration, limit int) ([]Order, error) {
	return m.take(ctx, lease, limit, func(o Order) (time.Time, bool) {
		return o.HoldExpiresAt, o.State == Placed && o.Intent == nil && o.HoldExpiresAt.Before(before)
	})
}

// take leases what is due, the oldest first.
func (m *memory) take(ctx context.Context, lease time.Duration, limit int, due func(Order) (since time.Time, ok bool)) ([]Order, error) {
	if err := m.mayRead(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Order
	for id, o := range m.orders {
		if _, ok := due(o); ok && !m.leased[id].After(m.now()) {
			list = append(list, copied(o))
		}
	}
	slices.SortFunc(list, func(a, b Order) int {
		sinceA, _ := due(a)
		sinceB, _ := due(b)
		return cmp.Or(sinceA.Compare(sinceB), cmp.Compare(a.ID, b.ID))
	})
	list = list[:min(limit, len(list))]
	for _, o := range list {
		m.leased[o.ID] = m.now().Add(lease)
	}
	return list, nil
}

func (m *memory) Orders(ctx context.Context, state State, customer string, page Page) ([]Order, string, error) {
	return nil, "", errors.New("no test lists orders")
}

func (m *memory) CountUnsettled(context.Context) (int64, time.Time, error) {
	return 0, time.Time{}, errors.New("no test counts intents")
}

func (m *memory) Close() error { return nil }

// backup is a copy of all that is stored.
func (m *memory) backup() *memory {
	b := newMemory(m.now)
	for id, o := range m.orders {
		b.orders[id] = copied(o)
	}
	for id, list := range m.intents {
		b.intents[id] = slices.Clone(list)
	}
	for id, list := range m.history {
		b.history[id] = slices.Clone(list)
	}
	maps.Copy(b.leased, m.leased)
	return b
}

// copied is the order as a database would give it back.
func copied(o Order) Order {
	o.Lines = slices.Clone(o.Lines)
	if o.Intent != nil {
		in := *o.Intent
		in.Lines = slices.Clone(in.Lines)
		o.Intent = &in
	}
	if o.Last != nil {
		last := *o.Last
		last.Problem = stored(last.Problem)
		o.Last = &last
	}
	return o
}

// stored is the problem as a database would give it back.
func stored(p *problem.Problem) *problem.Problem {
	if p == nil {
		return nil
	}
	text, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	read := new(problem.Problem)
	if err := json.Unmarshal(text, read); err != nil {
		panic(err)
	}
	return read
}
