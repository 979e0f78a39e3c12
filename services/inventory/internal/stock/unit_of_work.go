package stock

import (
	"maps"
	"slices"
	"time"

	"roundtrip/internal/problem"
)

// Command is one request to change stock: [Put], [Adjust], [ImportRow] or [Expire].
type Command interface {
	// Validate reports what is wrong in the command itself, as an invalid problem.
	Validate() error
	// Needs names what must be loaded and locked before the command can be decided.
	Needs() Needs

	decide(*UnitOfWork) Result
}

// Needs names what a decision reads and can change.
type Needs struct {
	Reservations []string
	Levels       []Key
	Adjustments  []string
	// NewLevels are the levels among Levels that the decision creates if missing.
	NewLevels []Key
}

// NeedsOf returns everything that a batch of commands needs. Each part has no repeats
// and is in the order in which it must be locked.
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

// Result is the answer to a command. Err is a *problem.Problem: a rejection, or why
// nothing was decided. If the caller has left, Err is the context's error.
type Result struct {
	// Reservation is the current reservation, for Expire and for a Put that was decided.
	Reservation Reservation
	// Adjustment is the stored adjustment, for Adjust.
	Adjustment Adjustment
	// Level is the level after the decision, for Adjust and ImportRow.
	Level Level
	// Changed is true if an ImportRow changed its level.
	Changed bool
	Err     error
}

// UnitOfWork has the rows that a batch of commands needs. The commands are decided on
// them in memory, one after the other. A UnitOfWork belongs to one transaction. If the
// transaction rolls back, the UnitOfWork and all its results must be dropped.
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

// NewUnitOfWork takes the rows that were loaded and locked, and expires every due hold
// among them. The expiry has to be written: computing it without writing it oversells.
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

// Decide decides one command. The commands of a batch are decided in the order of their
// arrival, and each sees the changes of the commands before it.
func (b *UnitOfWork) Decide(c Command) Result { return c.decide(b) }

// Short lists the levels that had too little stock for a command, sorted. Due holds that
// were not loaded may still be reserved on these levels. If there are any, load them
// too, drop the decisions, and decide again.
func (b *UnitOfWork) Short() []Key { return sortedKeys(b.short) }

// Changes are the rows to write, all or none.
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

// Changes returns everything that the decisions so far have changed.
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

// reservation returns a reservation. One that does not exist yet is in state none, and
// no seq of it is decided.
func (b *UnitOfWork) reservation(id string) *Reservation {
	r, ok := b.reservations[id]
	if !ok {
		r = &Reservation{ID: id, State: None, CreatedAt: b.now}
		b.reservations[id] = r
	}
	return r
}

// level returns a level. A level that does not exist yet has zero quantities.
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

// move changes a level's quantities and adds the ledger entry that explains the change.
// It does nothing if both changes are zero.
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

// setOnHand sets a level's quantity on hand, which must cover the reserved quantity. A
// level that did not exist is created, even with nothing on hand.
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
