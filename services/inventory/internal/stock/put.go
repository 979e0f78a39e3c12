package stock

import (
	"fmt"
	"time"

	"roundtrip/internal/fingerprint"
	"roundtrip/internal/problem"
)

// Put asks for a reservation to be in a state. It is the only request with which orders
// changes stock.
type Put struct {
	ID  string
	Seq int64
	// State is Held, Committed or Released.
	State State
	// Lines are the lines to hold. They are empty unless State is Held.
	Lines []Line
	// HoldSeconds is the length of the hold, in seconds. It is zero unless State is Held.
	HoldSeconds int64
}

// onlyWithHeld is the error of a field that a request for another state may not have.
const onlyWithHeld = "may only be given with state %q"

// Outcome is the decision for one seq of a reservation. It is stored with the
// reservation, and a repeat of the request gets it again.
type Outcome struct {
	ReservationID string
	Seq           int64
	Asked         State
	Fingerprint   string
	// Problem is why the request was rejected. It is nil if it was done.
	Problem *problem.Problem
	At      time.Time
}

// Validate reports all invalid fields as one invalid problem.
func (p Put) Validate() error {
	var f problem.Fields
	f.Name("/id", p.ID)
	f.Between("/seq", p.Seq, 1, 1<<53)
	switch p.State {
	case Held:
		f.Between("/hold_seconds", p.HoldSeconds, 1, MaxHold)
		if n := len(p.Lines); n < 1 || n > MaxLines {
			f.Add("/lines", "must have 1 to %d lines; this has %d", MaxLines, n)
			break
		}
		for i, l := range p.Lines {
			f.Name(fmt.Sprintf("/lines/%d/sku", i), l.SKU)
			f.Name(fmt.Sprintf("/lines/%d/location", i), l.Location)
			f.Between(fmt.Sprintf("/lines/%d/quantity", i), l.Quantity, 1, MaxQuantity)
		}
	case Committed, Released:
		if len(p.Lines) > 0 {
			f.Add("/lines", onlyWithHeld, Held)
		}
		if p.HoldSeconds != 0 {
			f.Add("/hold_seconds", onlyWithHeld, Held)
		}
	default:
		f.Add("/state", "must be %q, %q or %q", Held, Committed, Released)
	}
	return f.Err()
}

// Needs names the reservation and the levels of the request's lines.
func (p Put) Needs() Needs {
	n := Needs{Reservations: []string{p.ID}}
	for _, l := range p.Lines {
		n.Levels = append(n.Levels, l.Key())
	}
	return n
}

func (p Put) fingerprint() string {
	parts := []any{p.State, p.HoldSeconds}
	for _, l := range merge(p.Lines) {
		parts = append(parts, l.Location, l.SKU, l.Quantity)
	}
	return fingerprint.Of(parts...)
}

// decide compares the request's seq with the last one, and decides a new seq.
func (p Put) decide(b *UnitOfWork) Result {
	r := b.reservation(p.ID)
	switch {
	case p.Seq < r.Seq:
		return Result{Err: withCurrent(problem.New(problem.StaleSeq,
			"Seq %d has been decided since; the last one is %d.", p.Seq, r.Seq), *r)}
	case p.Seq == r.Seq && p.fingerprint() != r.Last.Fingerprint:
		return Result{Err: withCurrent(problem.New(problem.SeqReused,
			"Seq %d was used for another request.", p.Seq), *r)}
	case p.Seq > r.Seq:
		rejection := p.apply(b, r)
		r.Seq = p.Seq
		r.Last = Outcome{
			ReservationID: p.ID, Seq: p.Seq, Asked: p.State,
			Fingerprint: p.fingerprint(), Problem: rejection, At: b.now,
		}
		b.decided(r)
	}
	if r.Last.Problem != nil {
		return Result{Reservation: *r, Err: withCurrent(r.Last.Problem, *r)}
	}
	return Result{Reservation: *r}
}

// apply makes the transition to the state that the request asks for. It changes the
// levels of all lines, or changes nothing and returns the rejection.
func (p Put) apply(b *UnitOfWork, r *Reservation) *problem.Problem {
	switch p.State {
	case Held:
		switch r.State {
		case None:
			return p.hold(b, r, ReasonHeld)
		case Held:
			return p.hold(b, r, ReasonAmended)
		case Expired:
			return expiredProblem(*r)
		}
	case Committed:
		switch r.State {
		case Held:
			for _, l := range r.Lines {
				b.move(l.Key(), -l.Quantity, -l.Quantity, ReasonCommitted, p.ID, p.Seq)
			}
			r.State, r.ExpiresAt = Committed, time.Time{}
			return nil
		case Expired:
			return expiredProblem(*r)
		case Committed:
			return nil
		}
	case Released:
		switch r.State {
		case Held:
			for _, l := range r.Lines {
				b.move(l.Key(), 0, -l.Quantity, ReasonReleased, p.ID, p.Seq)
			}
		case Committed:
			for _, l := range r.Lines {
				b.move(l.Key(), l.Quantity, 0, ReasonReturned, p.ID, p.Seq)
			}
		}
		r.State, r.ExpiresAt = Released, time.Time{}
		return nil
	}
	return problem.New(problem.WrongState, "A reservation that is %s can't become %s.", r.State, p.State)
}

// hold replaces the lines that the reservation holds, if any, by the request's lines.
// The stock that it already holds counts as available to it.
func (p Put) hold(b *UnitOfWork, r *Reservation, reason Reason) *problem.Problem {
	wanted := merge(p.Lines)
	delta := make(map[Key]int64, len(wanted))
	if r.State == Held {
		for _, l := range r.Lines {
			delta[l.Key()] = -l.Quantity
		}
	}
	var short []problem.Shortage
	for _, l := range wanted {
		available := b.level(l.Key()).Available() - delta[l.Key()]
		if l.Quantity > available {
			b.short[l.Key()] = true
			short = append(short, problem.Shortage{
				SKU: l.SKU, Location: l.Location, Requested: l.Quantity, Available: available,
			})
		}
		delta[l.Key()] += l.Quantity
	}
	if len(short) > 0 {
		return &problem.Problem{
			Code: problem.InsufficientStock, Detail: "There is not enough stock for every line; nothing was changed.", Shortages: short,
		}
	}
	for _, k := range sortedKeys(delta) {
		b.move(k, 0, delta[k], reason, p.ID, p.Seq)
	}
	r.State, r.Lines = Held, wanted
	r.ExpiresAt = b.now.Add(time.Duration(p.HoldSeconds) * time.Second)
	return nil
}

func expiredProblem(r Reservation) *problem.Problem {
	return problem.New(problem.ReservationExpired, "The hold ended at %s and its stock was given back.",
		r.ExpiresAt.UTC().Format(time.RFC3339))
}

// withCurrent returns a copy of a problem that also has the current state of the
// reservation. The problem itself may be stored, so it is not changed.
func withCurrent(p *problem.Problem, r Reservation) *problem.Problem {
	answer := *p
	answer.Current = &problem.Current{ID: r.ID, Seq: r.Seq, State: string(r.State)}
	return &answer
}

// Expire writes the expiry of a due hold. It does nothing if the reservation is not a
// due hold.
type Expire struct {
	ID string
}

// Validate accepts every id, because the ids come from the store.
func (e Expire) Validate() error { return nil }

// Needs names the reservation. The store adds the levels of its lines.
func (e Expire) Needs() Needs { return Needs{Reservations: []string{e.ID}} }

// decide only returns the reservation: a [UnitOfWork] expires due holds when it is made.
func (e Expire) decide(b *UnitOfWork) Result { return Result{Reservation: *b.reservation(e.ID)} }
