package stock

import (
	"maps"
	"slices"
	"time"

	"roundtrip/internal/problem"
)

// Command is one request to change stock: [Put], [Adjust], [ImportRow] or [Expire].
type Command interface {
	// Validate reports what is wrong with the command itself, as an invalid problem.
	Validate() error
	// Needs names what has to be loaded and locked before it can be decided.
	Needs() Needs

	decide(*UnitOfWork) Result
}

// Needs names what a decision reads and may change.
type Needs struct {
	Reservations []string
	Levels       []Key
	Adjustments  []string
	// NewLevels are those of Levels that the decision makes where they are missing.
	NewLevels []Key
}

// NeedsOf adds up what a batch of commands needs, each part without repeats and
// in the order in which it has to be locked.
func NeedsOf(commands []Command) Needs {
	var all Needs
	for _, c := range commands {
		n := c.Needs()
		all.Reservations = append(all.Reservations, n.Reservations...)
		all.Levels = append(all.Levels, n.Levels...)
		all.Adjustments = append(all.Adjustments, n.Adjustments...)
		all.NewLevels = append(all.NewLevels, n.NewLevels...)
	}
	return all.sorted()
}

// With adds the levels that the loaded reservations hold or will give back.
func (n Needs) With(loaded []Reservation) Needs {
	n.Levels = slices.Clone(n.Levels)
	for _, r := range loaded {
		for _, l := range r.Lines {
			n.Levels = append(n.Levels, l.Key())
		}
	}
	return n.sorted()
}

func (n Needs) sorted() Needs {
	slices.Sort(n.Reservations)
	slices.Sort(n.Adjustments)
	slices.SortFunc(n.Levels, Key.Compare)
	slices.SortFunc(n.NewLevels, Key.Compare)
	return Needs{slices.Compact(n.Reservations), slices.Compact(n.Levels), slices.Compact(n.Adjustments), slices.Compact(n.NewLevels)}
}

// Result is the answer to a command. Err is a *problem.Problem: a rejection, or
// why nothing was decided. When its caller has left, it is the
// context's error.
type Result struct {
	// Reservation is what it is now, for Expire and for a Put that was decided.
	Reservation Reservation
	// Adjustment is what was stored, for Adjust.
	Adjustment Adjustment
	// Level is what it is now, for Adjust and ImportRow.
	Level Level
	// Changed says that an ImportRow was not already true.
	Changed bool
	Err     error
}

// UnitOfWork holds what a batch of commands needs while they are decided, one after
// the other, in memory. It belongs to one transaction: when that is rolled
// back, it and every result it gave are worth nothing.
type UnitOfWork struct {
	now          time.Time
	reservations map[string]*Reservation
	levels       map[Key]*Level
	adjustments  map[string]*Adjustment

	short   map[Key]bool
	changed struct {
		reservations map[string]bool
		levels       map[Key]bool
	}
	outcomes       []Outcome
	newAdjustments []*Adjustment
	entries        []Entry
}

// NewUnitOfWork starts with what was loaded and locked, and first of all expires
// every hold among it that is due: computing expiry without writing it oversells.
func NewUnitOfWork(now time.Time, reservations []Reservation, levels []Level, adjustments []Adjustment) *UnitOfWork {
	b := &UnitOfWork{
		now:          now,
		reservations: make(map[string]*Reservation, len(reservations)),
		levels:       make(map[Key]*Level, len(levels)),
		adjustments:  make(map[string]*Adjustment, len(adjustments)),
		short:        map[Key]bool{},
	}
	b.changed.reservations = map[string]bool{}
	b.changed.levels = map[Key]bool{}
	for _, l := range levels {
		b.levels[l.Key()] = &l
	}
	for _, a := range adjustments {
		b.adjustments[a.ID] = &a
	}
	for _, r := range reservations {
		b.reservations[r.ID] = &r
		if r.due(now) {
			b.expire(&r)
		}
	}
	return b
}

func (b *UnitOfWork) expire(r *Reservation) {
	for _, l := range r.Lines {
		b.move(l.Key(), 0, -l.Quantity, ReasonExpired, r.ID, r.Seq)
	}
	r.State = Expired
	b.changed.reservations[r.ID] = true
}

// Decide decides one command. Commands of a batch are decided in the order in
// which they arrived, and each sees what the ones before it did.
func (b *UnitOfWork) Decide(c Command) Result { return c.decide(b) }

// Short lists the levels on which a command fell short, sorted. Due holds that
// it was not given may still be reserved there: if there are any, the
// decisions must be thrown away and made again with them.
func (b *UnitOfWork) Short() []Key { return sortedKeys(b.short) }

// Changes is what has to be written, all or nothing.
type Changes struct {
	// Reservations are new or changed, sorted by id.
	Reservations []Reservation
	// Levels are new or changed, sorted by location and SKU.
	Levels []Level
	// Outcomes, Adjustments and Entries are new.
	Outcomes    []Outcome
	Adjustments []Adjustment
	Entries     []Entry
}

// Empty reports whether there is nothing to write.
func (c Changes) Empty() bool {
	return len(c.Reservations)+len(c.Levels)+len(c.Adjustments) == 0
}

// Changes lists all that the decisions so far have changed.
func (b *UnitOfWork) Changes() Changes {
	c := Changes{Outcomes: b.outcomes, Entries: b.entries}
	for _, id := range slices.Sorted(maps.Keys(b.changed.reservations)) {
		c.Reservations = append(c.Reservations, *b.reservations[id])
	}
	for _, k := range sortedKeys(b.changed.levels) {
		c.Levels = append(c.Levels, *b.levels[k])
	}
	for _, a := range b.newAdjustments {
		c.Adjustments = append(c.Adjustments, *a)
	}
	return c
}

// reservation finds a reservation; one that does not exist yet is none, with no
// seq decided.
func (b *UnitOfWork) reservation(id string) *Reservation {
	r, ok := b.reservations[id]
	if !ok {
		r = &Reservation{ID: id, State: None, CreatedAt: b.now}
		b.reservations[id] = r
	}
	return r
}

// level finds a level; an unknown SKU has nothing.
func (b *UnitOfWork) level(k Key) *Level {
	l, ok := b.levels[k]
	if !ok {
		l = &Level{SKU: k.SKU, Location: k.Location}
		b.levels[k] = l
	}
	return l
}

func (b *UnitOfWork) decided(r *Reservation) {
	b.changed.reservations[r.ID] = true
	b.outcomes = append(b.outcomes, r.Last)
}

func (b *UnitOfWork) adjusted(a *Adjustment) {
	b.adjustments[a.ID] = a
	b.newAdjustments = append(b.newAdjustments, a)
}

// touch counts one change of a level.
func (b *UnitOfWork) touch(l *Level) {
	l.Version++
	b.changed.levels[l.Key()] = true
}

// move changes a level's quantities and writes the entry that explains it. A
// change by nothing is none.
func (b *UnitOfWork) move(k Key, onHand, reserved int64, reason Reason, ref string, seq int64) {
	if onHand == 0 && reserved == 0 {
		return
	}
	l := b.level(k)
	l.OnHand += onHand
	l.Reserved += reserved
	b.touch(l)
	b.entries = append(b.entries, Entry{
		At: b.now, SKU: k.SKU, Location: k.Location,
		OnHandDelta: onHand, ReservedDelta: reserved, OnHand: l.OnHand, Reserved: l.Reserved,
		Reason: reason, Ref: ref, Seq: seq,
	})
}

// setOnHand brings a level to a quantity on hand, which must cover what is
// reserved. A level that did not exist does afterwards, even with nothing on hand.
func (b *UnitOfWork) setOnHand(k Key, onHand int64, reason Reason, ref string, seq int64) *problem.Problem {
	l := b.level(k)
	if onHand < l.Reserved {
		b.short[k] = true
		return problem.New(problem.BelowReserved, "%d are reserved, so there can't be %d on hand.", l.Reserved, onHand)
	}
	if l.Version == 0 && onHand == 0 {
		b.touch(l)
		return nil
	}
	b.move(k, onHand-l.OnHand, 0, reason, ref, seq)
	return nil
}

func sortedKeys[V any](m map[Key]V) []Key {
	return slices.SortedFunc(maps.Keys(m), Key.Compare)
}
