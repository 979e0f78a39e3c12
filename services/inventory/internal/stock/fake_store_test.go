package stock_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
)

// start is the time at which every test starts.
var start = time.Date(2026, time.November, 24, 13, 0, 0, 0, time.UTC)

// fakeStore is a store in memory. It loads, decides, loads the due holds if stock
// is short, and writes. It checks the constraints of the real schema. Reservations
// are copied on the way in and out, so a unit of work that keeps a reference to a
// stored one is detected.
type fakeStore struct {
	reservations map[string]stock.Reservation
	levels       map[stock.Key]stock.Level
	adjustments  map[string]stock.Adjustment
	outcomes     map[string]stock.Outcome // by "id seq"
	ledger       []stock.Entry
	// writes are the changes of each transaction.
	writes []stock.Changes
}

func newFakeStore() *fakeStore {
	return &fakeStore{
		reservations: map[string]stock.Reservation{},
		levels:       map[stock.Key]stock.Level{},
		adjustments:  map[string]stock.Adjustment{},
		outcomes:     map[string]stock.Outcome{},
	}
}

// do decides commands in one transaction and writes the changes.
func (s *fakeStore) do(now time.Time, commands ...stock.Command) ([]stock.Result, error) {
	unit, results, err := s.decide(now, commands)
	if err != nil {
		return nil, err
	}
	return results, s.write(unit.Changes())
}

// decide decides commands without writing. Dropping its unit of work is a rollback.
func (s *fakeStore) decide(now time.Time, commands []stock.Command) (*stock.UnitOfWork, []stock.Result, error) {
	for i, c := range commands {
		if err := c.Validate(); err != nil {
			return nil, nil, fmt.Errorf("command %d: %w", i, err)
		}
	}
	needs := stock.NeedsOf(commands)
	for {
		unit := s.load(now, needs)
		results := make([]stock.Result, len(commands))
		for i, c := range commands {
			results[i] = unit.Decide(c)
		}
		due := s.due(now, unit.Short())
		due = slices.DeleteFunc(due, func(id string) bool { return slices.Contains(needs.Reservations, id) })
		if len(due) == 0 {
			return unit, results, nil
		}
		needs.Reservations = slices.Sorted(slices.Values(append(needs.Reservations, due...)))
	}
}

func (s *fakeStore) load(now time.Time, needs stock.Needs) *stock.UnitOfWork {
	var reservations []stock.Reservation
	for _, id := range needs.Reservations {
		if r, ok := s.reservations[id]; ok {
			reservations = append(reservations, copied(r))
		}
	}
	var levels []stock.Level
	for _, k := range needs.With(reservations).Levels {
		if l, ok := s.levels[k]; ok {
			levels = append(levels, l)
		}
	}
	var adjustments []stock.Adjustment
	for _, id := range needs.Adjustments {
		if a, ok := s.adjustments[id]; ok {
			adjustments = append(adjustments, a)
		}
	}
	return stock.NewUnitOfWork(now, reservations, levels, adjustments)
}

// due returns the holds on these levels whose time has passed.
func (s *fakeStore) due(now time.Time, keys []stock.Key) []string {
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(s.reservations)) {
		r := s.reservations[id]
		touched := slices.ContainsFunc(r.Lines, func(l stock.Line) bool { return slices.Contains(keys, l.Key()) })
		if r.State == stock.Held && !r.ExpiresAt.After(now) && touched {
			ids = append(ids, id)
		}
	}
	return ids
}

func (s *fakeStore) write(c stock.Changes) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Empty() && len(c.Outcomes)+len(c.Entries) > 0 {
		fail("changes with outcomes or entries say that they are empty: %+v", c)
	}
	if !slices.IsSortedFunc(c.Levels, func(a, b stock.Level) int { return a.Key().Compare(b.Key()) }) {
		fail("changed levels are not sorted: %v", c.Levels)
	}
	if !slices.IsSortedFunc(c.Reservations, func(a, b stock.Reservation) int {
		return slices.Compare([]string{a.ID}, []string{b.ID})
	}) {
		fail("changed reservations are not sorted: %v", c.Reservations)
	}
	for _, l := range c.Levels {
		if l.Reserved < 0 || l.Reserved > l.OnHand {
			fail("level %v has %d reserved of %d on hand", l.Key(), l.Reserved, l.OnHand)
		}
		if l.Version <= s.levels[l.Key()].Version {
			fail("level %v is written with version %d after %d", l.Key(), l.Version, s.levels[l.Key()].Version)
		}
		s.levels[l.Key()] = l
	}
	for _, r := range c.Reservations {
		s.reservations[r.ID] = copied(r)
	}
	for _, o := range c.Outcomes {
		at := fmt.Sprint(o.ReservationID, " ", o.Seq)
		if _, twice := s.outcomes[at]; twice {
			fail("a second outcome for %s", at)
		}
		o.Problem = stored(o.Problem)
		s.outcomes[at] = o
	}
	for _, r := range c.Reservations {
		if o, ok := s.outcomes[fmt.Sprint(r.ID, " ", r.Seq)]; !ok || o.Fingerprint != r.Last.Fingerprint {
			fail("reservation %s has no outcome stored for its seq %d", r.ID, r.Seq)
		}
	}
	for _, a := range c.Adjustments {
		if _, twice := s.adjustments[a.ID]; twice {
			fail("adjustment %s is written twice", a.ID)
		}
		a.Problem = stored(a.Problem)
		s.adjustments[a.ID] = a
	}
	for _, e := range c.Entries {
		if slices.ContainsFunc(s.ledger, func(old stock.Entry) bool {
			return old.Ref == e.Ref && old.Seq == e.Seq && old.Reason == e.Reason && old.SKU == e.SKU && old.Location == e.Location
		}) {
			fail("a second ledger entry like %+v", e)
		}
		e.ID = int64(len(s.ledger) + 1)
		s.ledger = append(s.ledger, e)
	}
	s.writes = append(s.writes, c)
	return errors.Join(errs...)
}

// copied is the reservation as a database would return it.
func copied(r stock.Reservation) stock.Reservation {
	r.Lines = slices.Clone(r.Lines)
	r.Last.Problem = stored(r.Last.Problem)
	return r
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
	var read problem.Problem
	if err := json.Unmarshal(text, &read); err != nil {
		panic(err)
	}
	return &read
}

// checkInvariants compares levels, ledger and reservations (invariants 1, 2 and 4).
func (s *fakeStore) checkInvariants() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	type sums struct{ onHand, reserved int64 }
	explained := map[stock.Key]sums{}
	did := map[string]stock.Reason{}
	for _, e := range s.ledger {
		k := stock.Key{Location: e.Location, SKU: e.SKU}
		s := explained[k]
		s.onHand += e.OnHandDelta
		s.reserved += e.ReservedDelta
		explained[k] = s
		if e.OnHand != s.onHand || e.Reserved != s.reserved {
			fail("entry %d says %d on hand and %d reserved, its ledger adds up to %+v", e.ID, e.OnHand, e.Reserved, s)
		}
		if e.Reserved < 0 || e.Reserved > e.OnHand {
			fail("entry %d leaves %d reserved of %d on hand", e.ID, e.Reserved, e.OnHand)
		}
		if e.OnHandDelta == 0 && e.ReservedDelta == 0 {
			fail("entry %d changes nothing", e.ID)
		}
		// An expiry is not a request. It has the seq of the hold's last request.
		if at := fmt.Sprint(e.Ref, " ", e.Seq); e.Reason != stock.ReasonExpired {
			if other, ok := did[at]; ok && other != e.Reason {
				fail("%s had two effects, %s and %s", at, other, e.Reason)
			}
			did[at] = e.Reason
		}
	}
	held := map[stock.Key]int64{}
	for _, r := range s.reservations {
		if r.State != stock.Held {
			continue
		}
		for _, l := range r.Lines {
			held[l.Key()] += l.Quantity
		}
	}
	for k := range explained {
		if _, ok := s.levels[k]; !ok {
			fail("level %v has ledger entries and does not exist", k)
		}
	}
	for k, l := range s.levels {
		if s := explained[k]; l.OnHand != s.onHand || l.Reserved != s.reserved {
			fail("level %v is %d on hand, %d reserved; its ledger adds up to %+v", k, l.OnHand, l.Reserved, s)
		}
		if l.Reserved != held[k] {
			fail("level %v has %d reserved, and its holds add up to %d", k, l.Reserved, held[k])
		}
	}
	return errors.Join(errs...)
}

// harness is a fake store that fails its test on every error.
type harness struct {
	t *testing.T
	*fakeStore
	now time.Time
}

// newHarness has these quantities on hand at main.
func newHarness(t *testing.T, onHand map[string]int64) *harness {
	t.Helper()
	h := &harness{t, newFakeStore(), start}
	for _, sku := range slices.Sorted(maps.Keys(onHand)) {
		h.must(stock.ImportRow{ImportID: "stocked-" + sku, Row: 1, SKU: sku, Location: stock.MainLocation, OnHand: onHand[sku]})
	}
	return h
}

// send decides one command and checks the invariants.
func (h *harness) send(c stock.Command) stock.Result {
	h.t.Helper()
	return h.batch(c)[0]
}

func (h *harness) batch(commands ...stock.Command) []stock.Result {
	h.t.Helper()
	results, err := h.do(h.now, commands...)
	if err == nil {
		err = h.checkInvariants()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return results
}

// must is send for a command that has to succeed.
func (h *harness) must(c stock.Command) stock.Result {
	h.t.Helper()
	result := h.send(c)
	if result.Err != nil {
		h.t.Fatalf("%+v: %v", c, result.Err)
	}
	return result
}

// lastWrite returns the changes of the last transaction.
func (h *harness) lastWrite() stock.Changes { return h.writes[len(h.writes)-1] }

// wantLevels compares the levels, each written "on hand/reserved".
func (h *harness) wantLevels(want map[string]string) {
	h.t.Helper()
	got := map[string]string{}
	for k, l := range h.levels {
		got[k.SKU] = fmt.Sprintf("%d/%d", l.OnHand, l.Reserved)
	}
	if !maps.Equal(got, want) {
		h.t.Errorf("the levels are %v, want %v", got, want)
	}
}

// wantCode compares an answer's code; "" is success.
func wantCode(t *testing.T, err error, want problem.Code) {
	t.Helper()
	if got := problem.CodeOf(err); got != want {
		t.Errorf("the code is %q (%v), want %q", got, err, want)
	}
}

func hold(id string, seq int64, lines ...stock.Line) stock.Put {
	return stock.Put{ID: id, Seq: seq, State: stock.Held, Lines: lines, HoldSeconds: stock.DefaultHold}
}

func commit(id string, seq int64) stock.Put {
	return stock.Put{ID: id, Seq: seq, State: stock.Committed}
}

func release(id string, seq int64) stock.Put {
	return stock.Put{ID: id, Seq: seq, State: stock.Released}
}

func line(sku string, quantity int64) stock.Line {
	return stock.Line{SKU: sku, Location: stock.MainLocation, Quantity: quantity}
}
