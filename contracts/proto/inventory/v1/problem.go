// Package inventoryv1 is inventory on gRPC: the code that is generated from
// inventory.proto, and how a problem and a state cross this wire.
package inventoryv1

import (
	"strings"

	"google.golang.org/protobuf/protoadapt"

	"roundtrip/internal/problem"
)

// This file is written by hand. It says how the contract's own messages stand for
// what a problem and a REST body have.

// ProblemDetails maps the parts of a problem that this contract has messages for.
// It is given to both ends of a connection.
type ProblemDetails struct{}

// Encode makes the details that a problem calls for.
func (ProblemDetails) Encode(p *problem.Problem) []protoadapt.MessageV1 {
	var details []protoadapt.MessageV1
	if len(p.Shortages) > 0 {
		short := &Shortages{}
		for _, s := range p.Shortages {
			short.Shortages = append(short.Shortages, &Shortage{
				Sku: s.SKU, Location: s.Location, Requested: s.Requested, Available: s.Available,
			})
		}
		details = append(details, short)
	}
	if c := p.Current; c != nil {
		details = append(details, &Current{Id: c.ID, Seq: c.Seq, State: StateOf(c.State)})
	}
	return details
}

// Decode reads one detail into a problem. It ignores messages of others.
func (ProblemDetails) Decode(detail any, p *problem.Problem) {
	switch d := detail.(type) {
	case *Shortages:
		for _, x := range d.GetShortages() {
			p.Shortages = append(p.Shortages, problem.Shortage{
				SKU: x.GetSku(), Location: x.GetLocation(), Requested: x.GetRequested(), Available: x.GetAvailable(),
			})
		}
	case *Current:
		p.Current = &problem.Current{ID: d.GetId(), Seq: d.GetSeq(), State: StateName(d.GetState())}
	}
}

const statePrefix = "RESERVATION_STATE_"

// StateOf is the enum's value of a state's name; unspecified for a name that has none.
func StateOf(name string) ReservationState {
	return ReservationState(ReservationState_value[statePrefix+strings.ToUpper(name)])
}

// StateName is a state's name as REST has it; "" for unspecified. A value that
// this build does not know has a name that no state has.
func StateName(s ReservationState) string {
	if s == ReservationState_RESERVATION_STATE_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(s.String(), statePrefix))
}
