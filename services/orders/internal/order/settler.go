package order

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"roundtrip/internal/exchange"
)

const (
	// settleAfter is the age at which the settler takes an intent. By then the caller
	// who recorded the intent has stopped trying.
	settleAfter = exchange.MaxTimeout + time.Second
	// lease is how long the settlers of other replicas leave a leased order alone. It
	// only saves work: if two settle the same intent, the fence and compare and set
	// keep the result right.
	lease = 10 * time.Second
	// settlerBatch is how many orders are leased at once. settlerWorkers is how many of
	// them inventory is asked about at the same time.
	settlerBatch   = 64
	settlerWorkers = 8
)

// Settler settles the intents that were left over, and marks placed orders whose hold
// has expired. Every replica has one.
type Settler struct {
	protocol    *Protocol
	interval    time.Duration
	giveUpAfter time.Duration
	log         *slog.Logger
}

// NewSettler makes a Settler that looks for work every interval and gives up places
// older than giveUpAfter. The protocol should have an Inventory that sends once, without
// retries, because the settler itself sends again later.
func NewSettler(p *Protocol, interval, giveUpAfter time.Duration, log *slog.Logger) *Settler {
	return &Settler{p, interval, giveUpAfter, log}
}

// Run settles until ctx is done. It returns when the work that it started has ended.
func (s *Settler) Run(ctx context.Context) {
	tick := time.NewTicker(s.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.drain(ctx, "unsettled intents", s.protocol.store.LeaseUnsettled, settleAfter, s.resend)
			s.drain(ctx, "holds that ran out", s.protocol.store.LeaseExpiredHolds, 0, s.markExpired)
			s.probe(ctx)
		}
	}
}

// probe asks inventory for something if inventory can't be reached, to find out when it
// can be reached again. Without a probe, orders might never notice: until then it
// refuses places before the exchange, and there may be no other requests to inventory.
func (s *Settler) probe(ctx context.Context) {
	if !s.protocol.unreachable() {
		return
	}
	ctx, cancel := context.WithTimeout(exchange.WithRequestID(ctx, exchange.NewRequestID()), exchange.DefaultTimeout)
	defer cancel()
	_, _ = s.protocol.inventory.Reservation(ctx, "settler-looks") // any answer shows that it can be reached
}

type take func(ctx context.Context, before time.Time, lease time.Duration, limit int) ([]Order, error)

// drain takes the orders that are due, batch by batch, until none is left. While
// inventory can't be reached, it takes one order as a probe, and continues only if
// inventory could be reached again.
func (s *Settler) drain(ctx context.Context, what string, take take, age time.Duration, each func(context.Context, Order)) {
	for ctx.Err() == nil {
		limit := settlerBatch
		if s.protocol.unreachable() {
			limit = 1
		}
		orders, err := take(ctx, time.Now().Add(-age), lease, limit)
		if err != nil {
			if ctx.Err() == nil {
				s.log.Error("can't look for "+what, "error", err)
			}
			return
		}
		var workers errgroup.Group
		workers.SetLimit(settlerWorkers)
		for _, o := range orders {
			workers.Go(func() error {
				ctx, cancel := context.WithTimeout(exchange.WithRequestID(ctx, exchange.NewRequestID()), exchange.DefaultTimeout)
				defer cancel()
				each(ctx, o)
				return nil
			})
		}
		_ = workers.Wait() // the workers return no error
		if len(orders) < limit || s.protocol.unreachable() {
			return
		}
	}
}

// resend sends an intent's request again under its seq. It first gives up a place that
// is too old. It never gives up any other operation.
func (s *Settler) resend(ctx context.Context, o Order) {
	if o.Intent == nil {
		return // settled while it was being leased
	}
	if o.Intent.Operation == PlaceOperation && time.Since(o.Intent.Since) > s.giveUpAfter {
		result := s.protocol.do(ctx, GiveUp{ID: o.ID, Seq: o.Intent.Seq})
		if result.Err != nil || result.Order.Intent == nil {
			return
		}
		o = result.Order
		s.log.Warn("gave up a place", "order", o.ID, "request_id", exchange.RequestID(ctx))
	}
	// The exchange has its own request id. This line tells which order it belongs to.
	s.log.Info("asks again", "order", o.ID, "operation", o.Intent.Operation, "seq", o.Intent.Seq, "request_id", exchange.RequestID(ctx))
	s.protocol.settle(ctx, o)
}

// markExpired asks inventory about an order whose hold has expired by the clock of
// orders, and marks the order only if inventory says that the hold has expired. It
// ignores a reservation whose seq is above the order's, because the order does not
// explain it. A seq below the order's is normal after a repair.
func (s *Settler) markExpired(ctx context.Context, o Order) {
	r, err := s.protocol.inventory.Reservation(ctx, o.ID)
	if err != nil || r.ID != o.ID || r.Seq > o.Seq || r.State != ReservationExpired {
		return
	}
	s.protocol.do(ctx, Expire{ID: o.ID, Seq: o.Seq})
}
