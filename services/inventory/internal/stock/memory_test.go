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

// start is when every test begins.
var start = time.Date(2026, time.November, 24, 13, 0, 0, 0, time.UTC)

// memory is the smallest store: it loads, lets a book decide, looks for holds
// that are due where a demand fell short, and writes, with the constraints of a
// real schema. What goes in and out is copied, so a book that keeps its hands
// on what was stored is found out.
type memory struct {
	reservations map[string]stock.Reservation
	levels       map[stock.Key]stock.Level
	adjustments  map[string]stock.Adjustment
	outcomes     map[string]stock.Outcome // by "id seq"
	ledger       []stock.Entry
	// writes is what each transaction wrote.
	writes []stock.Changes
}

func newMemory() *memory {
	return &memory{
		reservations: map[string]stock.Reservation{},
		levels:       map[stock.Key]stock.Level{},
		adjustments:  map[string]stock.Adjustment{},
		outcomes:     map[string]stock.Outcome{},
	}
}

// do decides commands in one transaction.
func (m *memory) do(now time.Time, commands ...stock.Command) ([]stock.Result, error) {
	book, results, err := m.decide(now, commands)
	if err != nil {
		return nil, err
	}
	return results, m.write(book.Changes())
}

// decide does all of a transaction but the writing: dropping the book rolls back.
func (m *memory) decide(now time.Time, commands []stock.Command) (*stock.UnitOfWork, []stock.Result, error) {
	for i, c := range commands {
		if err := c.Validate(); err != nil {
			return nil, nil, fmt.Errorf("command %d: %w", i, err)
		}
	}
	needs := stock.NeedsOf(commands)
	for {
		book := m.open(now, needs)
		results := make([]stock.Result, len(commands))
		for i, c := range commands {
			results[i] = book.Decide(c)
		}
		due := m.due(now, book.Short())
		due = slices.DeleteFunc(due, func(id string) bool { return slices.Contains(needs.Reservations, id) })
		if len(due) == 0 {
			return book, results, nil
		}
		needs.Reservations = slices.Sorted(slices.Values(append(needs.Reservations, due...)))
	}
}

func (m *memory) open(now time.Time, needs stock.Needs) *stock.UnitOfWork {
	var reservations []stock.Reservation
	for _, id := range needs.Reservations {
		if r, ok := m.reservations[id]; ok {
			reservations = append(reservations, copied(r))
		}
	}
	var levels []stock.Level
	for _, k := range needs.With(reservations).Levels {
		if l, ok := m.levels[k]; ok {
			levels = append(levels, l)
		}
	}
	var adjustments []stock.Adjustment
	for _, id := range needs.Adjustments {
		if a, ok := m.adjustments[id]; ok {
			adjustments = append(adjustments, a)
		}
	}
	return stock.NewUnitOfWork(now, reservations, levels, adjustments)
}

// due finds the holds on these levels that have run out.
func (m *memory) due(now time.Time, keys []stock.Key) []string {
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(m.reservations)) {
		r := m.reservations[id]
		touched := slices.ContainsFunc(r.Lines, func(l stock.Line) bool { return slices.Contains(keys, l.Key()) })
		if r.State == stock.Held && !r.ExpiresAt.After(now) && touched {
			ids = append(ids, id)
		}
	}
	return ids
}

func (m *memory) write(c stock.Changes) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Empty() && len(c.Outcomes)+len(c.Entries) > 0 {
		fail("changes say that they are empty: %+v", c)
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
		if l.Version <= m.levels[l.Key()].Version {
			fail("level %v is written with version %d after %d", l.Key(), l.Version, m.levels[l.Key()].Version)
		}
		m.levels[l.Key()] = l
	}
	for _, r := range c.Reservations {
		m.reservations[r.ID] = copied(r)
	}
	for _, o := range c.Outcomes {
		at := fmt.Sprint(o.ReservationID, " ", o.Seq)
		if _, twice := m.outcomes[at]; twice {
			fail("a second outcome for %s", at)
		}
		o.Problem = stored(o.Problem)
		m.outcomes[at] = o
	}
	for _, r := range c.Reservations {
		if o, ok := m.outcomes[fmt.Sprint(r.ID, " ", r.Seq)]; !ok || o.Fingerprint != r.Last.Fingerprint {
			fail("reservation %s has no outcome stored for its seq %d", r.ID, r.Seq)
		}
	}
	for _, a := range c.Adjustments {
		if _, twice := m.adjustments[a.ID]; twice {
			fail("adjustment %s a second time", a.ID)
		}
		a.Problem = stored(a.Problem)
		m.adjustments[a.ID] = a
	}
	for _, e := range c.Entries {
		if slices.ContainsFunc(m.ledger, func(old stock.Entry) bool {
			return old.Ref == e.Ref && old.Seq == e.Seq && old.Reason == e.Reason && old.SKU == e.SKU && old.Location == e.Location
		}) {
			fail("a second ledger entry like %+v", e)
		}
		e.ID = int64(len(m.ledger) + 1)
		m.ledger = append(m.ledger, e)
	}
	m.writes = append(m.writes, c)
	return errors.Join(errs...)
}

// copied is the reservation as a database would give it back.
func copied(r stock.Reservation) stock.Reservation {
	r.Lines = slices.Clone(r.Lines)
	r.Last.Problem = stored(r.Last.Problem)
	return r
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
	var read problem.Problem
	if err := json.Unmarshal(text, &read); err != nil {
		panic(err)
	}
	return &read
}

// audit holds levels, ledger and reservations against each other (invariants 1,
// 2 and 4 of the protocol).
func (m *memory) audit() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	type sums struct{ onHand, reserved int64 }
	explained := map[stock.Key]sums{}
	did := map[string]stock.Reason{}
	for _, e := range m.ledger {
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
		// An expiry is nobody's request; it carries the seq of the hold's last one.
		if at := fmt.Sprint(e.Ref, " ", e.Seq); e.Reason != stock.ReasonExpired {
			if other, ok := did[at]; ok && other != e.Reason {
				fail("%s had two effects, %s and %s", at, other, e.Reason)
			}
			did[at] = e.Reason
		}
	}
	held := map[stock.Key]int64{}
	for _, r := range m.reservations {
		if r.State != stock.Held {
			continue
		}
		for _, l := range r.Lines {
			held[l.Key()] += l.Quantity
		}
	}
	for k := range explained {
		if _, ok := m.levels[k]; !ok {
			fail("level %v has ledger entries and does not exist", k)
		}
	}
	for k, l := range m.levels {
		if s := explained[k]; l.OnHand != s.onHand || l.Reserved != s.reserved {
			fail("level %v is %d on hand, %d reserved; its ledger adds up to %+v", k, l.OnHand, l.Reserved, s)
		}
		if l.Reserved != held[k] {
			fail("level %v has %d reserved, held are %d", k, l.Reserved, held[k])
		}
	}
	return errors.Join(errs...)
}

// shelf is a memory that fails its test instead of returning errors.
type shelf struct {
	t *testing.T
	*memory
	now time.Time
}

// newShelf has these quantities on hand at main.
func newShelf(t *testing.T, onHand map[string]int64) *shelf {
	t.Helper()
	s := &shelf{t, newMemory(), start}
	for _, sku := range slices.Sorted(maps.Keys(onHand)) {
		s.must(stock.ImportRow{ImportID: "stocked-" + sku, Row: 1, SKU: sku, Location: stock.MainLocation, OnHand: onHand[sku]})
	}
	return s
}

// send decides one command and holds what is stored against itself.
func (s *shelf) send(c stock.Command) stock.Result {
	s.t.Helper()
	return s.batch(c)[0]
}

func (s *shelf) batch(commands ...stock.Command) []stock.Result {
	s.t.Helper()
	results, err := s.do(s.now, commands...)
	if err == nil {
		err = s.audit()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return results
}

// must is send for what has to succeed.
func (s *shelf) must(c stock.Command) stock.Result {
	s.t.Helper()
	result := s.send(c)
	if result.Err != nil {
		s.t.Fatalf("%+v: %v", c, result.Err)
	}
	return result
}

// lastWrite is what the last transaction wrote.
func (s *shelf) lastWrite() stock.Changes { return s.writes[len(s.writes)-1] }

// wantLevels compares the levels at main, each written "on hand/reserved".
func (s *shelf) wantLevels(want map[string]string) {
	s.t.Helper()
	got := map[string]string{}
	for k, l := range s.levels {
		got[k.SKU] = fmt.Sprintf("%d/%d", l.OnHand, l.Reserved)
	}
	if !maps.Equal(got, want) {
		s.t.Errorf("levels are %v, want %v", got, want)
	}
}

// wantCode compares an answer's code; "" is success.
func wantCode(t *testing.T, err error, want problem.Code) {
	t.Helper()
	if got := problem.CodeOf(err); got != want {
		t.Errorf("the answer is %q (%v), want %q", got, err, want)
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
