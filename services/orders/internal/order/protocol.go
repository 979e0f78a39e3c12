package order

import (
	"context"
	"fmt"
	"slices"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

// outcomeReserve is the part of a caller's deadline that is reserved for recording the
// outcome. The exchange may not use it.
const outcomeReserve = 150 * time.Millisecond

// Protocol runs the three steps of an operation for a caller.
type Protocol struct {
	store     Store
	inventory Inventory
	// unreachable reports whether orders can't connect to inventory at the moment.
	unreachable func() bool
	alarm       func(reason string)
}

// NewProtocol makes a Protocol. unreachable reports whether orders can't connect to
// inventory. The Protocol calls alarm for an answer that leaves an intent unsettled, if
// repeating the request will not change the answer.
func NewProtocol(store Store, inventory Inventory, unreachable func() bool, alarm func(reason string)) *Protocol {
	return &Protocol{store, inventory, unreachable, alarm}
}

// Response is the answer to a caller whose operation was not refused.
type Response struct {
	Order Order
	// Settled is false if the operation is recorded and its outcome is not known yet.
	// This is neither a success nor an error.
	Settled bool
	// Created reports that this call created the order.
	Created bool
}

// Place places an order. If an order was placed before with the same id and content,
// it returns that order as it is now, or the reason why it was rejected.
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

// Cancel returns what an order holds or has taken to stock.
func (p *Protocol) Cancel(ctx context.Context, c Cancel) (Response, error) {
	return p.change(ctx, c, CancelOperation)
}

// change runs an operation on an existing order. Its answer says how this operation
// ended, even if the order has changed since.
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
	// A repair may have recorded another operation under this seq.
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

// operate runs the three steps. If another operation is pending, it settles that first.
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

// begin runs the first step if there is enough time left for the second.
func (p *Protocol) begin(ctx context.Context, c Command) Result {
	if left, ok := exchange.Remaining(ctx); ok && left-outcomeReserve < exchange.MinTimeout {
		return refuse(problem.DeadlineExceeded, "Too little time was left to ask inventory; nothing was recorded.")
	}
	return p.do(ctx, c)
}

func (p *Protocol) do(ctx context.Context, c Command) Result {
	return p.store.Do(ctx, []Command{c})[0]
}

// settle runs the second and the third step for an order's pending intent and returns
// the order as it is afterwards. If the outcome is not known, the order still has that
// intent. From here on, a caller who disconnects cancels nothing.
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

// unsettled reads the order again: another caller or the settler may have settled or
// superseded the intent meanwhile. That also explains a stale seq.
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

// detach returns a context with the same values and deadline, but without the
// cancellation.
func detach(ctx context.Context) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok {
		return context.WithDeadline(context.WithoutCancel(ctx), deadline)
	}
	return context.WithCancel(context.WithoutCancel(ctx))
}

// Order returns not-found if there is none with that id. It asks only orders' own
// database.
func (p *Protocol) Order(ctx context.Context, id string) (Order, error) {
	if err := validateID(id); err != nil {
		return Order{}, err
	}
	return p.store.Order(ctx, id)
}

// Orders lists orders, the newest first. A nil filter matches everything.
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

// Reservation asks inventory for the reservation of an order. It returns not-found if
// there is no such order, or if inventory does not know it.
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

// Availability asks inventory for the available quantities of 1 to [MaxSKUs] SKUs.
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

// asUnavailable returns unavailable in place of an inventory error that the caller of
// orders can't use.
func asUnavailable(err error) error {
	switch problem.CodeOf(err) {
	case "", problem.Overloaded, problem.Unavailable, problem.DeadlineExceeded:
		return err
	}
	return problem.Wrap(err, problem.Unavailable, "Inventory gave no usable answer.")
}
