package order

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"roundtrip/internal/exchange"
)

const (
	// settleAfter is how old an intent is before the settler takes it: by then
	// the caller who wrote it down has stopped trying.
	settleAfter = exchange.MaxTimeout + time.Second
	// lease keeps an order from the other replicas' settlers. It only saves work:
	// two that settle the same intent are kept right by the fence and by compare
	// and set.
	lease = 10 * time.Second
	// settleBatch is how many orders are leased at once, and settleWorkers how
	// many of them are asked about at the same time.
	settlerBatch   = 64
	settlerWorkers = 8
)

// Settler settles the intents that were left over, and marks the placed orders
// whose hold has run out. Every replica has one.
type Settler struct {
	protocol    *Protocol
	interval    time.Duration
	giveUpAfter time.Duration
	log         *slog.Logger
}

// NewSettler makes a Settler that looks for work every interval and gives up
// places older than giveUpAfter. Its exchanges are no caller's retries, so the
// protocol should be given an Inventory that sends once.
func NewSettler(p *Protocol, interval, giveUpAfter time.Duration, log *slog.Logger) *Settler {
	return &Settler{p, interval, giveUpAfter, log}
}

// Run settles until ctx is done, and returns once what it began has ended.
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

// probe looks for an inventory that is away: until it is found, places are refused
// before they could find it, and there may be nothing else to ask it.
func (s *Settler) probe(ctx context.Context) {
	if !s.protocol.unreachable() {
		return
	}
	ctx, cancel := context.WithTimeout(exchange.WithRequestID(ctx, exchange.NewRequestID()), exchange.DefaultTimeout)
	defer cancel()
	_, _ = s.protocol.inventory.Reservation(ctx, "settler-looks") // any answer is one
}

type take func(ctx context.Context, before time.Time, lease time.Duration, limit int) ([]Order, error)

// drain takes what is due, batch by batch, until nothing is left. While
// inventory is away it takes one order, as a probe, and goes on only if that
// brought inventory back.
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

// settle re-sends an intent under its seq. A place that is too old is given up
// first; the others never are.
func (s *Settler) resend(ctx context.Context, o Order) {
	if o.Intent == nil {
		return // somebody settled it while it was chosen
	}
	if o.Intent.Operation == PlaceOperation && time.Since(o.Intent.Since) > s.giveUpAfter {
		result := s.protocol.do(ctx, GiveUp{ID: o.ID, Seq: o.Intent.Seq})
		if result.Err != nil || result.Order.Intent == nil {
			return
		}
		o = result.Order
		s.log.Warn("gave a place up", "order", o.ID, "request_id", exchange.RequestID(ctx))
	}
	// An exchange has an id of its own: here is whose it is.
	s.log.Info("asks again", "order", o.ID, "operation", o.Intent.Operation, "seq", o.Intent.Seq, "request_id", exchange.RequestID(ctx))
	s.protocol.settle(ctx, o)
}

// expire asks inventory about an order whose hold has run out by our clock, and
// marks it only if inventory says so. A seq of inventory's that is above the
// order's is not explained by the order; one below it is all that a repair leaves.
func (s *Settler) markExpired(ctx context.Context, o Order) {
	r, err := s.protocol.inventory.Reservation(ctx, o.ID)
	if err != nil || r.ID != o.ID || r.Seq > o.Seq || r.State != ReservationExpired {
		return
	}
	s.protocol.do(ctx, Expire{ID: o.ID, Seq: o.Seq})
}
