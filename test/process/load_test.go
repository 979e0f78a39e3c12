package process

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// callers is how many make requests at the same time.
const callers = 4

// outcome is what an order is, as far as its caller cares; the zero value is an
// order that is not there.
type outcome struct {
	state    string
	quantity int64
}

// load places orders, amends, confirms and cancels them from several callers, and
// remembers what it was told. An order belongs to one caller, who makes one
// request after the other and repeats each until it is answered for good.
type load struct {
	*harness
	seed uint64
	// acknowledged counts the answers that were for good, unknown those that were
	// not, and unavailable the refusals.
	acknowledged, unknown, unavailable atomic.Int64

	mu     sync.Mutex
	placed int
	// may is, for each order, what it may be by what its caller was told.
	may map[string][]outcome
}

var plenty = []string{"A", "B", "C"}

// pace is how long a caller waits after an order.
const pace = 100 * time.Millisecond

// newLoad makes stock of four SKUs, of one of them too little.
func newLoad(h *harness, seed uint64) *load {
	h.stock("scarce", 30)
	for _, sku := range plenty {
		h.stock(sku, 1_000_000)
	}
	return &load{harness: h, seed: seed, may: map[string][]outcome{}}
}

// run makes requests until stop is called. What is not answered by then is left
// as it is.
func (l *load) run() (stop func()) {
	ctx, cancel := context.WithCancel(l.Context())
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for ctx.Err() == nil {
				l.order(ctx)
				// All that was ever ordered is compared after each fault: not too much of it.
				select {
				case <-ctx.Done():
				case <-time.After(pace):
				}
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// order takes an order through its life.
func (l *load) order(ctx context.Context) {
	l.mu.Lock()
	l.placed++
	n := l.placed
	l.mu.Unlock()
	id, random := fmt.Sprint("order-", n), rand.New(rand.NewPCG(l.seed, uint64(n)))
	sku, quantity := plenty[random.IntN(len(plenty))], 1+random.Int64N(3)
	if random.IntN(8) == 0 {
		sku = "scarce"
	}
	now, ok := l.until(ctx, id, outcome{}, func() reply { return l.place(id, sku, int(quantity)) },
		outcome{"placed", quantity}, outcome{"rejected", quantity})
	if ok && now.state == "placed" && random.IntN(2) == 0 {
		quantity++
		now, ok = l.until(ctx, id, now, func() reply { return l.amend(id, sku, int(quantity)) }, outcome{"placed", quantity})
	}
	if ok && now.state == "placed" && random.IntN(2) == 0 {
		now, ok = l.until(ctx, id, now, func() reply { return l.post(id, "confirm") }, outcome{"confirmed", now.quantity})
	}
	if ok && (now.state == "placed" || now.state == "confirmed") && random.IntN(3) == 0 {
		l.until(ctx, id, now, func() reply { return l.post(id, "cancel") }, outcome{"cancelled", now.quantity})
	}
}

// until repeats a request until it is answered for good, and returns what the
// order is then; false where ctx was done before. The request makes of the order
// the first that it may become, or else is refused for want of stock.
func (l *load) until(ctx context.Context, id string, before outcome, request func() reply, becomes ...outcome) (now outcome, ok bool) {
	l.set(id, append([]outcome{before}, becomes...)...)
	for {
		r := request()
		switch {
		case r.err != nil: // nobody knows
		case done(r):
			now := outcome{r.State, r.Lines[0].Quantity}
			if r.ID != id || now != becomes[0] {
				l.Errorf("%s was to become %v, and the answer was %s", id, becomes[0], r.text)
			}
			return l.answered(id, now), true
		case r.status == http.StatusAccepted:
			l.unknown.Add(1)
			if r.ID != id {
				l.Errorf("asked for %s, and the answer was %s", id, r.text)
			}
			if before == (outcome{}) { // it is recorded, and will not vanish
				l.set(id, becomes...)
			}
		case r.Code == "insufficient-stock" || r.Code == "given-up":
			if len(becomes) > 1 {
				before = becomes[1]
			}
			return l.answered(id, before), true
		// What the caller gave up waiting for may still be on its way somewhere.
		case r.Code == "operation-pending":
		case r.Code == "unavailable" || r.Code == "overloaded":
			l.unavailable.Add(1)
		case r.Code == "deadline-exceeded":
		default:
			l.Errorf("%s was to become %v, and the answer was %d %s", id, becomes[0], r.status, r.text)
			return before, false
		}
		select {
		case <-ctx.Done():
			return before, false
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (l *load) answered(id string, now outcome) outcome {
	l.acknowledged.Add(1)
	l.set(id, now)
	return now
}

func (l *load) set(id string, may ...outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.may[id] = may
}

// flows waits for n answers from now on.
func (l *load) flows(n int64) {
	l.Helper()
	enough := l.acknowledged.Load() + n
	l.wait("requests are answered", func() bool { return l.acknowledged.Load() >= enough })
}

// settleWithin is how long after a fault's end everything is settled.
const settleWithin = 30 * time.Second

// check holds what is there against what callers were told, once all is settled:
// without their help, and in time. Both audits find nothing.
func (l *load) check() {
	l.Helper()
	l.within(settleWithin, "everything is settled", func() bool {
		unsettled, ok := l.metric(l.orders.replicas[0], "orders_intents_unsettled")
		return ok && unsettled == 0
	})
	l.audit()
	found := map[string]outcome{}
	for path := "/v1/orders?limit=200"; path != ""; {
		var r reply
		l.wait("orders are listed", func() bool { r = l.call(l.orders, "GET", path, ""); return r.status == http.StatusOK && r.err == nil })
		for _, o := range r.Orders {
			found[o.ID] = outcome{o.State, o.Lines[0].Quantity}
		}
		if path = ""; r.NextCursor != "" {
			path = "/v1/orders?limit=200&cursor=" + r.NextCursor
		}
	}
	for id, may := range l.may {
		if !slices.Contains(may, found[id]) {
			l.Errorf("%s is %v, and its caller knows that it is one of %v", id, found[id], may)
		}
		l.may[id] = []outcome{found[id]}
		delete(found, id)
	}
	if len(found) > 0 {
		l.Errorf("nobody placed %v", found)
	}
}
