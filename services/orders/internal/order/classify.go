package order

import (
	"errors"
	"time"

	"roundtrip/internal/problem"
)

// Outcome is inventory's outcome for one seq.
type Outcome struct {
	// Rejection is the reason why the operation was rejected; nil if it was done.
	Rejection *problem.Problem
	// Reservation and ExpiresAt are the reservation's state and expiry now.
	Reservation ReservationState
	ExpiresAt   time.Time
}

// classify tells whether inventory's answer is an outcome, that is, an answer that
// inventory stored for exactly this request. For any other answer it returns the reason
// for an alarm, or "" if sending the request again may still settle the intent.
func classify(asked Request, r Reservation, err error) (v *Outcome, alarm string) {
	if err == nil {
		explained := r.ID == asked.ID && r.Seq == asked.Seq &&
			(r.State == asked.State || asked.State == ReservationHeld && r.State == ReservationExpired)
		if !explained {
			return nil, "unexplained"
		}
		return &Outcome{Reservation: r.State, ExpiresAt: r.ExpiresAt}, ""
	}
	if errors.Is(err, ErrUnexplained) {
		return nil, "unexplained"
	}
	p := problem.From(err)
	switch p.Code {
	case problem.InsufficientStock, problem.ReservationExpired, problem.WrongState:
		c := p.Current
		if c == nil || c.ID != asked.ID || c.Seq != asked.Seq || !ReservationState(c.State).known() {
			return nil, "unexplained"
		}
		rejection := *p
		rejection.Current = nil
		return &Outcome{Rejection: &rejection, Reservation: ReservationState(c.State)}, ""
	}
	switch {
	case !p.Code.Known():
		return nil, "unexplained"
	case p.Code.Retry() == problem.Never:
		return nil, string(p.Code)
	}
	return nil, ""
}
