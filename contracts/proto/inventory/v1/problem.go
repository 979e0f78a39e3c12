// Package inventoryv1 is inventory's contract on gRPC: the code generated from
// inventory.proto, and the conversion of problems and states for this wire.
package inventoryv1

import (
	"strings"

	"google.golang.org/protobuf/protoadapt"

	"roundtrip/internal/problem"
)

// This file is written by hand. It converts between the contract's own messages and
// the parts of a problem and of a REST body.

// ProblemDetails converts the parts of a problem that this contract has messages
// for. Both ends of a connection use it.
type ProblemDetails struct{}

// Encode returns the details of a problem, as messages.
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

// Decode reads one detail into a problem. It ignores messages that are not of this
// contract.
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

// StateOf returns the enum value of a state's name, or unspecified if the name is
// unknown.
func StateOf(name string) ReservationState {
	return ReservationState(ReservationState_value[statePrefix+strings.ToUpper(name)])
}

// StateName returns a state's name as on REST, or "" for unspecified. For a value
// that this build does not know, it returns a name that is not any state's.
func StateName(s ReservationState) string {
	if s == ReservationState_RESERVATION_STATE_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(s.String(), statePrefix))
}
