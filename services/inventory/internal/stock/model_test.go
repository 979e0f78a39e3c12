package stock_test

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
)

// model is the reference. It keeps the requests and decisions in order, and no
// quantities: it derives every answer from the beginning. A hold whose time has
// passed counts as no hold, so no expiry is needed.
type model struct {
	puts          []decidedPut
	stockChanges  []stockChange
	adjustments   map[string]decidedAdjust
	names         map[stock.Key]string // of every level that exists
	levelVersions map[stock.Key]int64  // changes of a level by adjustments and imports
}

type decidedPut struct {
	stock.Put
	at        time.Time
	code      problem.Code // "" is success
	shortages []problem.Shortage
}

type stockChange struct {
	key   stock.Key
	delta int64
}

type decidedAdjust struct {
	asked  stock.Adjust
	code   problem.Code
	onHand int64
}

// modelReservation is a reservation as the model derives it.
type modelReservation struct {
	seq     int64
	state   stock.State
	lines   map[stock.Key]int64
	expires time.Time
	last    decidedPut
}

func newModel() *model {
	return &model{
		adjustments: map[string]decidedAdjust{}, names: map[stock.Key]string{}, levelVersions: map[stock.Key]int64{},
	}
}

func (m *model) reservation(id string, now time.Time) modelReservation {
	r := modelReservation{state: stock.None}
	for _, p := range m.puts {
		if p.ID != id {
			continue
		}
		r.seq, r.last = p.Seq, p
		if p.code != "" {
			continue
		}
		switch {
		case p.State == stock.Held:
			r.lines, r.expires = demand(p.Put), p.at.Add(time.Duration(p.HoldSeconds)*time.Second)
		case p.State != r.state:
			r.expires = time.Time{}
		}
		r.state = p.State
	}
	if r.state == stock.Held && !now.Before(r.expires) {
		r.state = stock.Expired
	}
	return r
}

func (m *model) ids() []string {
	ids := map[string]bool{}
	for _, p := range m.puts {
		ids[p.ID] = true
	}
	return slices.Sorted(maps.Keys(ids))
}

// level derives a level: on hand is the counted quantity minus the committed one, and
// reserved is the held quantity.
func (m *model) level(k stock.Key, now time.Time) (onHand, reserved int64) {
	for _, c := range m.stockChanges {
		if c.key == k {
			onHand += c.delta
		}
	}
	for _, id := range m.ids() {
		switch r := m.reservation(id, now); r.state {
		case stock.Committed:
			onHand -= r.lines[k]
		case stock.Held:
			reserved += r.lines[k]
		}
	}
	return onHand, reserved
}

func demand(p stock.Put) map[stock.Key]int64 {
	lines := map[stock.Key]int64{}
	for _, l := range p.Lines {
		lines[stock.Key{Location: l.Location, SKU: l.SKU}] += l.Quantity
	}
	return lines
}

// sameRequest reports whether b repeats a.
func sameRequest(a, b stock.Put) bool {
	return a.State == b.State && a.HoldSeconds == b.HoldSeconds && maps.Equal(demand(a), demand(b))
}

// tableRejections are the cells of docs/protocol.md, "What inventory does", that
// reject without looking at quantities: by the state and the state asked.
var tableRejections = map[[2]stock.State]problem.Code{
	{stock.None, stock.Committed}:     problem.WrongState,
	{stock.Expired, stock.Held}:       problem.ReservationExpired,
	{stock.Expired, stock.Committed}:  problem.ReservationExpired,
	{stock.Committed, stock.Held}:     problem.WrongState,
	{stock.Released, stock.Held}:      problem.WrongState,
	{stock.Released, stock.Committed}: problem.WrongState,
}

// put decides a request and returns the code of its answer and every shortage.
func (m *model) put(p stock.Put, now time.Time) (problem.Code, []problem.Shortage) {
	r := m.reservation(p.ID, now)
	if p.Seq < r.seq {
		return problem.StaleSeq, nil
	}
	if p.Seq == r.seq {
		if !sameRequest(p, r.last.Put) {
			return problem.SeqReused, nil
		}
		return r.last.code, r.last.shortages
	}
	d := decidedPut{Put: p, at: now, code: tableRejections[[2]stock.State{r.state, p.State}]}
	if p.State == stock.Held && d.code == "" {
		for k, quantity := range demand(p) {
			onHand, reserved := m.level(k, now)
			available := onHand - reserved
			if r.state == stock.Held {
				available += r.lines[k]
			}
			if quantity > available {
				d.code = problem.InsufficientStock
				d.shortages = append(d.shortages, problem.Shortage{
					SKU: k.SKU, Location: k.Location, Requested: quantity, Available: available,
				})
			}
		}
		slices.SortFunc(d.shortages, func(a, b problem.Shortage) int {
			return slices.Compare([]string{a.Location, a.SKU}, []string{b.Location, b.SKU})
		})
	}
	m.puts = append(m.puts, d)
	return d.code, d.shortages
}

func (m *model) adjust(a stock.Adjust, now time.Time) (problem.Code, int64) {
	if before, ok := m.adjustments[a.ID]; ok {
		if !sameAdjustment(a, before.asked) {
			return problem.KeyReused, 0
		}
		return before.code, before.onHand
	}
	k := stock.Key{Location: a.Location, SKU: a.SKU}
	onHand, reserved := m.level(k, now)
	var target int64
	if a.Delta != nil {
		target = onHand + *a.Delta
	} else {
		target = *a.OnHand
	}
	decision := decidedAdjust{asked: a, onHand: onHand}
	switch {
	case a.ExpectedOnHand != nil && *a.ExpectedOnHand != onHand:
		decision.code = problem.PreconditionFailed
	case target < reserved:
		decision.code = problem.BelowReserved
	default:
		decision.onHand = target
		m.count(k, target-onHand, m.names[k])
	}
	m.adjustments[a.ID] = decision
	return decision.code, decision.onHand
}

func sameAdjustment(a, b stock.Adjust) bool {
	same := func(x, y *int64) bool { return (x == nil) == (y == nil) && (x == nil || *x == *y) }
	return a.SKU == b.SKU && a.Location == b.Location && a.Reason == b.Reason && a.Note == b.Note &&
		same(a.Delta, b.Delta) && same(a.OnHand, b.OnHand) && same(a.ExpectedOnHand, b.ExpectedOnHand)
}

func (m *model) importRow(r stock.ImportRow, now time.Time) (code problem.Code, changed bool) {
	k := stock.Key{Location: r.Location, SKU: r.SKU}
	onHand, reserved := m.level(k, now)
	if r.OnHand < reserved {
		return problem.BelowReserved, false
	}
	return "", m.count(k, r.OnHand-onHand, cmp.Or(r.Name, m.names[k]))
}

// count changes a level, or creates it, and reports whether that was needed.
func (m *model) count(k stock.Key, delta int64, name string) bool {
	was, exists := m.names[k]
	if exists && delta == 0 && was == name {
		return false
	}
	m.stockChanges = append(m.stockChanges, stockChange{k, delta})
	m.names[k] = name
	m.levelVersions[k]++
	return true
}
