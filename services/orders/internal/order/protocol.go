package order

import (
	"context"
	"fmt"
	"slices"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

// outcomeReserve is the part of a caller's deadline that the exchange may not
// use: it is for writing the outcome down.
const outcomeReserve = 150 * time.Millisecond

// Protocol runs an operation's three steps for a caller.
type Protocol struct {
	store     Store
	inventory Inventory
	// unreachable reports that inventory can't be connected to at the moment.
	unreachable func() bool
	alarm       func(reason string)
}

// NewProtocol makes a Protocol. It asks unreachable whether inventory can be
// connected to, and calls alarm for an answer that leaves an intent unsettled and
// that repeating the request will not change.
func NewProtocol(store Store, inventory Inventory, unreachable func() bool, alarm func(reason string)) *Protocol {
	return &Protocol{store, inventory, unreachable, alarm}
}

// Response is what a caller is told of an operation that is not refused.
type Response struct {
	Order Order
	// Settlement is false where the operation is recorded and its outcome is not
	// known yet: neither a success nor an error.
	Settled bool
	// Created says that this very call created the order.
	Created bool
}

// Place places an order, or answers for the one that was placed under its id
// with the same content: as it is now, or why it was rejected.
func (p *Protocol) Place(ctx context.Context, c Place) (Response, error) {
	c.InventoryUnreachable = p.unreachable()
	result, err := p.operate(ctx, c)
	if err != nil {
		return Response{}, err
	}
	o := result.Order
	if o.State == Rejected && o.Last != nil && o.Last.Problem != nil {
		return Response{}, o.Last.Problem
	}
	return Response{Order: o, Settled: o.State != Pending, Created: result.Created}, nil
}

// Amend replaces the lines of a placed order.
func (p *Protocol) Amend(ctx context.Context, c Amend) (Response, error) {
	return p.change(ctx, c, AmendOperation)
}

// Confirm takes what a placed order holds out of stock.
func (p *Protocol) Confirm(ctx context.Context, c Confirm) (Response, error) {
	return p.change(ctx, c, ConfirmOperation)
}

// Cancel gives back what an order holds or has taken.
func (p *Protocol) Cancel(ctx context.Context, c Cancel) (Response, error) {
	return p.change(ctx, c, CancelOperation)
}

// change runs an operation on an order that exists and answers by how the
// operation itself ended, also if the order has changed since.
func (p *Protocol) change(ctx context.Context, c Command, op Operation) (Response, error) {
	result, err := p.operate(ctx, c)
	if err != nil {
		return Response{}, err
	}
	o, seq := result.Order, result.Seq
	if seq == 0 {
		return Response{Order: o, Settled: true}, nil
	}
	if o.Intent != nil && o.Intent.Seq == seq {
		return Response{Order: o}, nil
	}
	var end Settlement
	// A repair may have given an order the seq, and with it another operation.
	if o.Last != nil && o.Last.Seq == seq && o.Last.Operation == op {
		end = *o.Last
	} else if end, err = p.store.Settlement(context.WithoutCancel(ctx), o.ID, seq); err != nil {
		return Response{}, err
	}
	switch end.Outcome {
	case OutcomeDone:
		return Response{Order: o, Settled: true}, nil
	case OutcomeRejected:
		return Response{}, end.Problem
	}
	if o.Intent != nil { // superseded by a cancel that is not settled either
		return Response{Order: o}, nil
	}
	return Response{}, wrongState(&o, op).Err
}

// operate takes the three steps, and first settles what is in the way.
func (p *Protocol) operate(ctx context.Context, c Command) (Result, error) {
	if err := c.Validate(); err != nil {
		return Result{}, err
	}
	result := p.begin(ctx, c)
	if problem.CodeOf(result.Err) == problem.OperationPending {
		inTheWay := result.Order.Intent.Seq
		if o := p.settle(ctx, result.Order); o.Intent != nil && o.Intent.Seq == inTheWay {
			return Result{}, result.Err
		}
		result = p.begin(ctx, c)
	}
	if result.Err != nil {
		return Result{}, result.Err
	}
	if in := result.Order.Intent; in != nil && in.Seq == result.Seq {
		result.Order = p.settle(ctx, result.Order)
	}
	return result, nil
}

// begin takes the first step, while there is time for the second.
func (p *Protocol) begin(ctx context.Context, c Command) Result {
	if left, ok := exchange.Remaining(ctx); ok && left-outcomeReserve < exchange.MinTimeout {
		return refuse(problem.DeadlineExceeded, "Too little time was left to ask inventory; nothing was recorded.")
	}
	return p.do(ctx, c)
}

func (p *Protocol) do(ctx context.Context, c Command) Result {
	return p.store.Do(ctx, []Command{c})[0]
}

// settle takes the second and the third step for an order's pending intent and
// returns the order as it is afterwards: still with that intent where its
// outcome is not known. From here a caller's hang-up cancels nothing.
func (p *Protocol) settle(ctx context.Context, o Order) Order {
	ctx, cancel := detach(ctx)
	defer cancel()

	asked := request(o)
	r, err := p.ask(ctx, asked)
	outcome, alarm := classify(asked, r, err)
	if outcome == nil {
		return p.unsettled(ctx, o, alarm)
	}
	result := p.do(ctx, RecordOutcome{ID: o.ID, Seq: asked.Seq, Operation: o.Intent.Operation, Outcome: *outcome})
	if result.Err != nil {
		return o
	}
	return result.Order
}

func (p *Protocol) ask(ctx context.Context, r Request) (Reservation, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-outcomeReserve))
		defer cancel()
	}
	return p.inventory.PutReservation(ctx, r)
}

// unsettled looks the order up again: somebody else may have settled or
// superseded the intent meanwhile, which also explains a stale seq.
func (p *Protocol) unsettled(ctx context.Context, o Order, alarm string) Order {
	now, err := p.store.Order(ctx, o.ID)
	if err != nil {
		return o
	}
	if alarm != "" && now.Intent != nil && now.Intent.Seq == o.Intent.Seq {
		p.alarm(alarm)
	}
	return now
}

// detach keeps a context's values and deadline and forgets its cancellation.
func detach(ctx context.Context) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok {
		return context.WithDeadline(context.WithoutCancel(ctx), deadline)
	}
	return context.WithCancel(context.WithoutCancel(ctx))
}

// Order returns not-found if there is none with that id. It asks orders' own
// database alone.
func (p *Protocol) Order(ctx context.Context, id string) (Order, error) {
	if err := validateID(id); err != nil {
		return Order{}, err
	}
	return p.store.Order(ctx, id)
}

// Orders lists the newest first; a filter that is nil matches everything.
func (p *Protocol) Orders(ctx context.Context, state, customer *string, page Page) ([]Order, string, error) {
	var f problem.Fields
	var wantedState State
	var wantedCustomer string
	if state != nil {
		if wantedState = State(*state); !slices.Contains(States(), wantedState) {
			f.Add("/state", "must be one of %v", States())
		}
	}
	if customer != nil {
		wantedCustomer = *customer
		validateCustomer(&f, wantedCustomer)
	}
	if err := f.Err(); err != nil {
		return nil, "", err
	}
	return p.store.Orders(ctx, wantedState, wantedCustomer, page)
}

// Reservation asks inventory for its side of an order; not-found if there is no
// such order, or inventory has never heard of it.
func (p *Protocol) Reservation(ctx context.Context, id string) (Reservation, error) {
	if _, err := p.Order(ctx, id); err != nil {
		return Reservation{}, err
	}
	r, err := p.inventory.Reservation(ctx, id)
	if err == nil && r.ID != id {
		err = ErrUnexplained
	}
	if problem.CodeOf(err) == problem.NotFound {
		return Reservation{}, err
	}
	return r, asUnavailable(err)
}

// Availability asks inventory what can be promised of 1 to [MaxSKUs] SKUs.
func (p *Protocol) Availability(ctx context.Context, skus []string) ([]Level, error) {
	var f problem.Fields
	if n := len(skus); n < 1 || n > MaxSKUs {
		f.Add("/skus", "must have 1 to %d SKUs; this has %d", MaxSKUs, n)
	}
	for i, sku := range skus {
		f.Name(fmt.Sprintf("/skus/%d", i), sku)
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	levels, err := p.inventory.Stock(ctx, skus)
	if slices.ContainsFunc(levels, func(l Level) bool { return !slices.Contains(skus, l.SKU) }) {
		err = ErrUnexplained // it answers another request
	}
	if err != nil {
		return nil, asUnavailable(err)
	}
	return levels, nil
}

// asUnavailable turns an answer of inventory's that means nothing to our own caller
// into one that does: inventory could not tell.
func asUnavailable(err error) error {
	switch problem.CodeOf(err) {
	case "", problem.Overloaded, problem.Unavailable, problem.DeadlineExceeded:
		return err
	}
	return problem.Wrap(err, problem.Unavailable, "Inventory gave no usable answer.")
}
