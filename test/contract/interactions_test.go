package contract

import (
	"fmt"

	"roundtrip/internal/problem"
	"roundtrip/services/orders/orderstest"
)

// The pact's parties.
const (
	Consumer = "orders"
	Provider = "inventory"
)

// Wires are the wires that inventory serves.
var Wires = []string{"http", "grpc", "nats"}

// RequestID is the request id of every request of the pact.
const RequestID = "pact"

// Interaction is one exchange: the request, and what orders relies on in the
// response.
type Interaction struct {
	Operation, Name string
	// States are the provider states before the request.
	States   []State
	Request  Request
	Response Response
	// HTTPOnly says that orders sends this only over HTTP.
	HTTPOnly bool
}

// State is a provider state and its parameters.
type State struct {
	Name       string
	Parameters map[string]any
}

// Request is a request. Each interaction has its own ID and SKUs on each wire.
type Request struct {
	// ID is the reservation's id. Put is the body of a PutReservation.
	ID  string
	Put *orderstest.Request
	// SKUs are the SKUs of a GetStock.
	SKUs []string
}

// Response is what orders relies on. One field is set.
type Response struct {
	Reservation  *Reservation
	Levels       []Level
	Reservations *Reservation // one reservation of a list
	Problem      *Problem
}

// Reservation is what orders relies on in a reservation.
type Reservation struct {
	ID    string
	Seq   int64
	State string
	// Lines are set if a customer sees them.
	Lines []orderstest.Demand
	// Expires says that the reservation has an expires_at.
	Expires bool
}

// Level is what orders relies on in a level.
type Level struct {
	SKU, Location string
	Available     int64
}

// Problem is what orders relies on in a problem: the parts that orders acts on or
// passes on.
type Problem struct {
	Code problem.Code
	// Current is the reservation's id, seq and state. Outcomes have it.
	Current *Reservation
	// Shortages are all shortages, in any order.
	Shortages []problem.Shortage
	// Fields are the pointers of the field errors.
	Fields []string
	// RetryAfter says that the problem has a time to wait.
	RetryAfter bool
}

// Description names the interaction in the pact.
func (i Interaction) Description(wire string) string {
	return fmt.Sprintf("%s over %s: %s", i.Operation, wire, i.Name)
}

// Interactions is the table on one wire. Ids and SKUs differ on each wire, so that
// interactions do not share stock.
func Interactions(wire string) []Interaction {
	b := builder{wire: wire}
	for _, add := range []func(){b.puts, b.gets, b.stock, b.list} {
		add()
	}
	return b.all
}

type builder struct {
	wire string
	all  []Interaction
}

func (b *builder) add(i Interaction) {
	if !i.HTTPOnly || b.wire == "http" {
		b.all = append(b.all, i)
	}
}

// id is the reservation id of the next interaction.
func (b *builder) id() string { return fmt.Sprintf("pact-%s-%d", b.wire, len(b.all)) }

// sku is the next interaction's SKU with a letter.
func (b *builder) sku(letter string) string { return b.id() + "-" + letter }

// line is a demand for that SKU.
func (b *builder) line(letter string, quantity int64) orderstest.Demand {
	return orderstest.Demand{SKU: b.sku(letter), Location: "main", Quantity: quantity}
}

// The provider states. Each has a handler in provider_states_test.go.
const (
	levelsState      = "there are levels"
	reservationState = "there is a reservation"
	noneState        = "there is no reservation"
	awayState        = "the database is away"
	fullState        = "every place is taken"
	slowState        = "the answer takes too long"
)

func (b *builder) levels(onHand ...any) State {
	levels := map[string]any{}
	for i := 0; i < len(onHand); i += 2 {
		levels[b.sku(onHand[i].(string))] = onHand[i+1]
	}
	return State{levelsState, levels}
}

// reservation is the provider state with the interaction's reservation: its last seq,
// its state, and 6 units of SKU a.
func (b *builder) reservation(seq int, state string) State {
	return State{reservationState, map[string]any{"id": b.id(), "seq": seq, "is": state, "sku": b.sku("a"), "quantity": 6}}
}

func (b *builder) none() State { return State{noneState, map[string]any{"id": b.id()}} }

func (b *builder) asks(seq int64, state string, lines ...orderstest.Demand) Request {
	r := orderstest.Request{ID: b.id(), Seq: seq, State: orderstest.ReservationState(state), Lines: lines}
	if state == "held" {
		r.HoldSeconds = 900
	}
	return Request{ID: r.ID, Put: &r}
}

func (b *builder) is(seq int64, state string) *Reservation {
	return &Reservation{ID: b.id(), Seq: seq, State: state, Expires: state == "held" || state == "expired"}
}

func (b *builder) done(seq int64, state string) Response {
	return Response{Reservation: b.is(seq, state)}
}

func (b *builder) rejected(code problem.Code, current *Reservation, shortages ...problem.Shortage) Response {
	return Response{Problem: &Problem{Code: code, Current: current, Shortages: shortages}}
}

func (b *builder) short(letter string, requested, available int64) problem.Shortage {
	return problem.Shortage{SKU: b.sku(letter), Location: "main", Requested: requested, Available: available}
}

func (b *builder) put(name string, state State, ask Request, answer Response) {
	b.add(Interaction{Operation: "PutReservation", Name: name, States: []State{state}, Request: ask, Response: answer})
}

func (b *builder) puts() {
	b.put("a hold", b.levels("a", 10, "b", 1), b.asks(1, "held", b.line("a", 4), b.line("b", 1), b.line("a", 2)), b.done(1, "held"))
	b.put("a hold that is asked for again", b.reservation(1, "held"), b.asks(1, "held", b.line("a", 6)), b.done(1, "held"))
	again := b.asks(1, "held", b.line("a", 6))
	again.Put.HoldSeconds = 1 // reservationState makes the hold with this value
	b.put("a hold that is asked for again after it ran out", b.reservation(1, "expired"), again, b.done(1, "expired"))
	b.put("another quantity", b.reservation(1, "held"), b.asks(2, "held", b.line("a", 9)), b.done(2, "held"))
	b.put("a commit", b.reservation(1, "held"), b.asks(2, "committed"), b.done(2, "committed"))
	b.put("a release", b.reservation(1, "held"), b.asks(2, "released"), b.done(2, "released"))
	b.put("a release of what was committed", b.reservation(2, "committed"), b.asks(3, "released"), b.done(3, "released"))
	b.put("a release of what was never held", b.none(), b.asks(2, "released"), b.done(2, "released"))

	b.put("too little of two", b.levels("a", 5, "b", 1, "c", 0), b.asks(1, "held", b.line("a", 6), b.line("b", 1), b.line("c", 2)),
		b.rejected(problem.InsufficientStock, b.is(1, "none"), b.short("a", 6, 5), b.short("c", 2, 0)))
	b.put("too little for another quantity", b.reservation(1, "held"), b.asks(2, "held", b.line("a", 11)),
		b.rejected(problem.InsufficientStock, b.is(2, "held"), b.short("a", 11, 10)))
	b.put("a commit after it ran out", b.reservation(1, "expired"), b.asks(2, "committed"), b.rejected(problem.ReservationExpired, b.is(2, "expired")))
	b.put("a commit of what was released", b.reservation(2, "released"), b.asks(3, "committed"), b.rejected(problem.WrongState, b.is(3, "released")))
	b.put("a commit of what was never held", b.none(), b.asks(1, "committed"), b.rejected(problem.WrongState, b.is(1, "none")))
	b.put("a seq that was overtaken", b.reservation(2, "released"), b.asks(1, "held", b.line("a", 6)), b.rejected(problem.StaleSeq, nil))
	b.put("a seq that was used for something else", b.reservation(1, "held"), b.asks(1, "held", b.line("a", 5)), b.rejected(problem.SeqReused, nil))
	b.put("a quantity of nothing", b.none(), b.asks(1, "held", b.line("a", 0)),
		Response{Problem: &Problem{Code: problem.Invalid, Fields: []string{"/lines/0/quantity"}}})
	b.transient("PutReservation", func() Request { return b.asks(1, "held", b.line("a", 6)) })
}

// transient adds the transient problems of an operation.
func (b *builder) transient(operation string, ask func() Request) {
	for _, p := range []struct {
		state string
		code  problem.Code
	}{{awayState, problem.Unavailable}, {fullState, problem.Overloaded}, {slowState, problem.DeadlineExceeded}} {
		b.add(Interaction{Operation: operation, Name: p.state, States: []State{{Name: p.state}}, Request: ask(),
			Response: Response{Problem: &Problem{Code: p.code, RetryAfter: p.code.Retry() == problem.After}}})
	}
}

func (b *builder) gets() {
	for _, of := range []struct {
		seq   int
		state string
	}{{1, "held"}, {2, "committed"}, {2, "released"}, {1, "expired"}, {1, "none"}} {
		r := b.is(int64(of.seq), of.state)
		if of.state == "held" || of.state == "committed" {
			r.Lines = []orderstest.Demand{b.line("a", 6)}
		}
		b.add(Interaction{Operation: "GetReservation", Name: of.state, States: []State{b.reservation(of.seq, of.state)},
			Request: Request{ID: b.id()}, Response: Response{Reservation: r}})
	}
	b.add(Interaction{Operation: "GetReservation", Name: "none with that id", States: []State{b.none()}, Request: Request{ID: b.id()},
		Response: Response{Problem: &Problem{Code: problem.NotFound}}})
	b.transient("GetReservation", func() Request { return Request{ID: b.id()} })
}

func (b *builder) stock() {
	level := func(letter string, available int64) Level { return Level{b.sku(letter), "main", available} }
	b.add(Interaction{Operation: "GetStock", Name: "levels", States: []State{b.levels("a", 10, "b", 0)},
		Request: Request{SKUs: []string{b.sku("a"), b.sku("b"), b.sku("unknown")}}, Response: Response{Levels: []Level{level("a", 10), level("b", 0)}}})
	b.add(Interaction{Operation: "GetStock", Name: "a SKU of which some is held", States: []State{b.reservation(1, "held")},
		Request: Request{SKUs: []string{b.sku("a")}}, Response: Response{Levels: []Level{level("a", 4)}}})
	b.add(Interaction{Operation: "GetStock", Name: "no SKU that is known", States: []State{b.none()}, Request: Request{SKUs: []string{b.sku("a")}},
		Response: Response{Levels: []Level{}}})
	b.transient("GetStock", func() Request { return Request{SKUs: []string{b.sku("a")}} })
}

// list adds the request of orders audit.
func (b *builder) list() {
	b.add(Interaction{Operation: "ListReservations", Name: "the audit", HTTPOnly: true, States: []State{b.reservation(1, "held")},
		Response: Response{Reservations: b.is(1, "held")}})
}
