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

// start is the time at which a test with its own clock starts.
var start = time.Date(2026, time.November, 24, 13, 0, 0, 0, time.UTC)

// fakeStore is a [Store] in memory. It decides one command at a time, under one
// mutex. It checks the constraints of the real schema and the rules that every
// write must keep, and records violations. Orders are copied on the way in and out,
// so a unit of work that keeps a reference to a stored order is detected.
type fakeStore struct {
	now func() time.Time
	// Each hook may be nil, and may block. An error of before fails a transaction,
	// and nothing is written. An error of after makes the result of a commit
	// unknown: everything is written. An error of read fails a read.
	before, after hook[func(ctx context.Context, c Command) error]
	read          hook[func(ctx context.Context) error]

	mu      sync.Mutex
	orders  map[string]Order
	intents map[string][]storedIntent // by order; seq n is at index n-1
	leased  map[string]time.Time
	// history has every version of every order. repaired has each order as its last
	// repair left it. violations are the rules that writes broke.
	history    map[string][]Order
	repaired   map[string]Order
	violations []error
}

// storedIntent is an intent, and its settlement once it has one.
type storedIntent struct {
	Intent
	settlement *Settlement
}

var _ Store = (*fakeStore)(nil)

// hook is a function that a test may set and clear while others call it.
type hook[F any] struct{ f atomic.Pointer[F] }

func (h *hook[F]) set(f F) { h.f.Store(&f) }

func (h *hook[F]) get() (f F) {
	if p := h.f.Load(); p != nil {
		f = *p
	}
	return f
}

func newFakeStore(now func() time.Time) *fakeStore {
	return &fakeStore{
		now: now, orders: map[string]Order{}, intents: map[string][]storedIntent{},
		leased: map[string]time.Time{}, history: map[string][]Order{}, repaired: map[string]Order{},
	}
}

func (s *fakeStore) Do(ctx context.Context, commands []Command) []Result {
	results := make([]Result, len(commands))
	for i, c := range commands {
		results[i] = s.transact(ctx, c)
	}
	return results
}

func (s *fakeStore) transact(ctx context.Context, c Command) Result {
	if err := cmp.Or(c.Validate(), ctx.Err()); err != nil {
		return Result{Err: err}
	}
	if f := s.before.get(); f != nil {
		if err := f(ctx, c); err != nil {
			return Result{Err: err}
		}
	}
	result := s.commit(c)
	if f := s.after.get(); f != nil {
		if err := f(ctx, c); err != nil {
			return Result{Err: err}
		}
	}
	return result
}

func (s *fakeStore) commit(c Command) Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	var loaded []Order
	if o, ok := s.orders[c.OrderID()]; ok {
		loaded = append(loaded, copied(o))
	}
	now := s.now()
	unit := NewUnitOfWork(now, loaded)
	result := unit.Decide(c)
	result.Order = copied(result.Order)
	_, isRepair := c.(Repair)
	if err := s.write(now, unit.Changes(), isRepair); err != nil {
		s.violations = append(s.violations, fmt.Errorf("%T %+v: %w", c, c, err))
	}
	return result
}

// next lists the states that may follow each state.
var next = map[State][]State{
	Pending:   {Pending, Placed, Rejected, Cancelled, Expired},
	Placed:    {Placed, Confirmed, Cancelled, Expired},
	Confirmed: {Confirmed, Cancelled},
	Rejected:  {Rejected}, Cancelled: {Cancelled}, Expired: {Expired},
}

func (s *fakeStore) write(now time.Time, c Changes, isRepair bool) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if c.Empty() && len(c.Opened)+len(c.Closed) > 0 {
		fail("changes with intents say that they are empty: %+v", c)
	}
	for _, in := range c.Closed {
		list := s.intents[in.OrderID]
		if in.Seq < 1 || in.Seq > int64(len(list)) || list[in.Seq-1].settlement != nil {
			fail("intent %d of %s is closed but was not open", in.Seq, in.OrderID)
			continue
		}
		end := in.Settlement
		end.Problem = stored(end.Problem)
		list[in.Seq-1].settlement = &end
	}
	for _, in := range c.Opened {
		list := s.intents[in.OrderID]
		if in.Seq != int64(len(list))+1 {
			fail("intent %d of %s follows seq %d", in.Seq, in.OrderID, len(list))
		}
		if n := len(list); n > 0 && list[n-1].settlement == nil {
			fail("intent %d of %s opens before intent %d is closed", in.Seq, in.OrderID, n)
		}
		s.intents[in.OrderID] = append(list, storedIntent{Intent: *copied(Order{Intent: &in.Intent}).Intent})
	}
	for _, o := range c.Orders {
		old, ok := s.orders[o.ID]
		if ok == c.Created[o.ID] {
			fail("order %s: created is %v, and it existed before: %v", o.ID, c.Created[o.ID], ok)
		}
		if o.Version != old.Version+1 {
			fail("version %d of %s follows version %d", o.Version, o.ID, old.Version)
		}
		if ok {
			// A repair may skip states: the reservation may have passed through
			// several.
			if !slices.Contains(next[old.State], o.State) && !(isRepair && old.State == Pending) {
				fail("order %s goes from %s to %s", o.ID, old.State, o.State)
			}
			if o.Fingerprint != old.Fingerprint || o.Customer != old.Customer || o.Currency != old.Currency ||
				o.HoldSeconds != old.HoldSeconds || !o.CreatedAt.Equal(old.CreatedAt) {
				fail("order %s changed a field that must not change: %+v, was %+v", o.ID, o, old)
			}
		}
		if !o.UpdatedAt.Equal(now) {
			fail("order %s was updated now and has the time %s", o.ID, o.UpdatedAt)
		}
		if sum, ok := total(o.Lines); !ok || sum != o.Total {
			fail("order %s has the total %d, its lines add up to %d", o.ID, o.Total, sum)
		}
		if o.HoldExpiresAt.IsZero() == (o.State == Placed || o.State == Expired) {
			fail("order %s is %s and has a hold until %s", o.ID, o.State, o.HoldExpiresAt)
		}
		if o.State == Pending && o.Intent == nil || o.Intent != nil && len(next[o.State]) == 1 {
			fail("order %s is %s with the intent %+v", o.ID, o.State, o.Intent)
		}
		if isRepair {
			s.rememberRepair(o)
		}
		s.checkIntents(o, fail)
		s.orders[o.ID] = copied(o)
		s.history[o.ID] = append(s.history[o.ID], copied(o))
	}
	return errors.Join(errs...)
}

// rememberRepair stores the order as repaired, and fills the seqs that no operation
// of the order had.
func (s *fakeStore) rememberRepair(o Order) {
	s.repaired[o.ID] = copied(o)
	for int64(len(s.intents[o.ID])) < o.Seq {
		s.intents[o.ID] = append(s.intents[o.ID], storedIntent{settlement: &Settlement{Outcome: OutcomeSuperseded}})
	}
}

// checkIntents compares an order's intent and last operation with the recorded
// intents.
func (s *fakeStore) checkIntents(o Order, fail func(string, ...any)) {
	var open *Intent
	repaired := s.repaired[o.ID]
	last := repaired.Last
	for _, in := range s.intents[o.ID] {
		switch {
		case in.settlement == nil:
			open = &in.Intent
		case in.settlement.Outcome != OutcomeSuperseded && in.Seq > repaired.Seq:
			last = in.settlement
		}
	}
	if !reflect.DeepEqual(open, o.Intent) {
		fail("order %s has the intent %+v, the recorded one is %+v", o.ID, o.Intent, open)
	}
	if !reflect.DeepEqual(last, copied(o).Last) {
		fail("order %s has the last operation %+v, the recorded one is %+v", o.ID, o.Last, last)
	}
	if o.Seq != int64(len(s.intents[o.ID])) {
		fail("order %s has seq %d and %d intents", o.ID, o.Seq, len(s.intents[o.ID]))
	}
}

func (s *fakeStore) Order(ctx context.Context, id string) (Order, error) {
	if err := s.mayRead(ctx); err != nil {
		return Order{}, err
	}
	if o, ok := s.find(id); ok {
		return o, nil
	}
	return Order{}, problem.New(problem.NotFound, "There is no order %s.", id)
}

func (s *fakeStore) mayRead(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if f := s.read.get(); f != nil {
		return f(ctx)
	}
	return nil
}

// find returns the stored order.
func (s *fakeStore) find(id string) (Order, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.orders[id]
	return copied(o), ok
}

func (s *fakeStore) Settlement(ctx context.Context, id string, seq int64) (Settlement, error) {
	if err := s.mayRead(ctx); err != nil {
		return Settlement{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if list := s.intents[id]; seq >= 1 && seq <= int64(len(list)) && list[seq-1].settlement != nil {
		return *list[seq-1].settlement, nil
	}
	return Settlement{}, problem.New(problem.NotFound, "Operation %d of %s is not settled.", seq, id)
}

func (s *fakeStore) LeaseUnsettled(ctx context.Context, before time.Time, lease time.Duration, limit int) ([]Order, error) {
	return s.leaseDue(ctx, lease, limit, func(o Order) (time.Time, bool) {
		if o.Intent == nil {
			return time.Time{}, false
		}
		return o.Intent.Since, o.Intent.Since.Before(before)
	})
}

func (s *fakeStore) LeaseExpiredHolds(ctx context.Context, before time.Time, lease time.Duration, limit int) ([]Order, error) {
	return s.leaseDue(ctx, lease, limit, func(o Order) (time.Time, bool) {
		return o.HoldExpiresAt, o.State == Placed && o.Intent == nil && o.HoldExpiresAt.Before(before)
	})
}

// leaseDue leases the orders that are due, oldest first.
func (s *fakeStore) leaseDue(ctx context.Context, lease time.Duration, limit int, due func(Order) (since time.Time, ok bool)) ([]Order, error) {
	if err := s.mayRead(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Order
	for id, o := range s.orders {
		if _, ok := due(o); ok && !s.leased[id].After(s.now()) {
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
		s.leased[o.ID] = s.now().Add(lease)
	}
	return list, nil
}

func (s *fakeStore) Orders(ctx context.Context, state State, customer string, page Page) ([]Order, string, error) {
	return nil, "", errors.New("no test lists orders")
}

func (s *fakeStore) CountUnsettled(context.Context) (int64, time.Time, error) {
	return 0, time.Time{}, errors.New("no test counts intents")
}

func (s *fakeStore) Close() error { return nil }

// snapshot copies the whole store.
func (s *fakeStore) snapshot() *fakeStore {
	b := newFakeStore(s.now)
	for id, o := range s.orders {
		b.orders[id] = copied(o)
	}
	for id, list := range s.intents {
		b.intents[id] = slices.Clone(list)
	}
	for id, list := range s.history {
		b.history[id] = slices.Clone(list)
	}
	maps.Copy(b.leased, s.leased)
	return b
}

// copied is the order as a database would return it.
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

// stored is the problem as a database would return it.
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
