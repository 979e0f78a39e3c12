package caller

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"roundtrip/test/support/wait"
)

// OrderState is the part of an order that its caller compares. The zero value means
// that there is no order.
type OrderState struct {
	State    string
	Quantity int64
}

// Callers and Pace are the defaults of a load. They are small, so that all orders
// can be compared after each fault.
const (
	Callers = 4
	Pace    = 100 * time.Millisecond
)

// Load places, amends, confirms and cancels orders from several callers, and
// remembers the responses that the callers got. An order belongs to one caller,
// which sends one request at a time and retries each until it gets a final response.
type Load struct {
	Services
	// Seed determines what callers do. Name is the prefix of their orders' ids.
	Seed uint64
	Name string
	// Callers is the number of callers, and Pace how long each waits after an order.
	Callers int
	Pace    time.Duration
	// Reads makes callers also get the reservation and the availability of their
	// orders.
	Reads bool
	// Observe is called with every response. It may be nil.
	Observe func(operation, id string, start time.Time, r Response)

	// Acknowledged counts final responses, Unknown counts 202s, and Unavailable
	// counts refusals.
	Acknowledged, Unknown, Unavailable atomic.Int64

	t      testing.TB
	mu     sync.Mutex
	placed int
	// allowed has, for each order, the states that agree with its caller's responses.
	allowed map[string][]OrderState
}

const scarce = "scarce"

var plenty = []string{"A", "B", "C"}

// NewLoad makes a load with four SKUs. One of them has too little stock.
func NewLoad(t testing.TB, s Services, seed uint64) *Load {
	t.Helper()
	for _, sku := range append(slices.Clone(plenty), scarce) {
		onHand := int64(1_000_000)
		if sku == scarce {
			onHand = 30
		}
		wait.Until(t, limit, "there is stock of "+sku, nil, func() bool { return s.Count(t.Context(), sku, onHand).Done() })
	}
	return &Load{Services: s, Seed: seed, Name: "order", Callers: Callers, Pace: Pace, t: t, allowed: map[string][]OrderState{}}
}

// Run sends requests until stop is called. After that, a request without a final
// response is not retried.
func (l *Load) Run() (stop func()) {
	ctx, cancel := context.WithCancel(l.t.Context())
	var all sync.WaitGroup
	for range l.Callers {
		all.Go(func() {
			for ctx.Err() == nil {
				l.order(ctx)
				select {
				case <-ctx.Done():
				case <-time.After(l.Pace):
				}
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// order sends all operations of one order.
func (l *Load) order(ctx context.Context) {
	l.mu.Lock()
	l.placed++
	n := l.placed
	l.mu.Unlock()
	id, random := fmt.Sprint(l.Name, "-", n), rand.New(rand.NewPCG(l.Seed, uint64(n)))
	sku, quantity := plenty[random.IntN(len(plenty))], 1+random.Int64N(3)
	if random.IntN(8) == 0 {
		sku = scarce
	}
	requestContext := l.t.Context() // a started request completes, even after stop
	now, ok := l.retry(ctx, "place", id, OrderState{}, func() Response { return l.Place(requestContext, id, sku, quantity) },
		OrderState{"placed", quantity}, OrderState{"rejected", quantity})
	if l.Reads && ok {
		l.read("reservation", id, "/v1/orders/"+id+"/reservation")
		l.read("availability", id, "/v1/availability?sku="+sku)
	}
	if ok && now.State == "placed" && random.IntN(2) == 0 {
		quantity++
		now, ok = l.retry(ctx, "amend", id, now, func() Response { return l.Amend(requestContext, id, sku, quantity) }, OrderState{"placed", quantity})
	}
	if ok && now.State == "placed" && random.IntN(2) == 0 {
		now, ok = l.retry(ctx, "confirm", id, now, func() Response { return l.Confirm(requestContext, id) }, OrderState{"confirmed", now.Quantity})
	}
	if ok && (now.State == "placed" || now.State == "confirmed") && random.IntN(3) == 0 {
		l.retry(ctx, "cancel", id, now, func() Response { return l.Cancel(requestContext, id) }, OrderState{"cancelled", now.Quantity})
	}
}

// read sends a request that changes nothing. It may fail during a fault.
func (l *Load) read(operation, id, path string) {
	start := time.Now()
	l.observe(operation, id, start, l.Orders.Call(l.t.Context(), "GET", path, ""))
}

func (l *Load) observe(operation, id string, start time.Time, r Response) {
	if l.Observe != nil {
		l.Observe(operation, id, start, r)
	}
}

// retry repeats a request until it gets a final response, and returns the order's
// state after it. ok is false if ctx ended first. The request leads to the first state
// of becomes, or inventory rejects it.
func (l *Load) retry(ctx context.Context, operation, id string, before OrderState, request func() Response, becomes ...OrderState) (now OrderState, ok bool) {
	l.set(id, append([]OrderState{before}, becomes...)...)
	for {
		start := time.Now()
		r := request()
		l.observe(operation, id, start, r)
		switch {
		case r.Err != nil: // the outcome is unknown
		case r.Done():
			now := OrderState{r.State, r.Lines[0].Quantity}
			if r.ID != id || now != becomes[0] {
				l.t.Errorf("%s: want %v, got the response %s", id, becomes[0], r.Text)
			}
			return l.acknowledge(id, now), true
		case r.Status == 202:
			l.Unknown.Add(1)
			if r.ID != id {
				l.t.Errorf("%s: got the response %s", id, r.Text)
			}
			if before == (OrderState{}) { // the intent is recorded and stays
				l.set(id, becomes...)
			}
		case r.Code == "insufficient-stock" || r.Code == "given-up":
			if len(becomes) > 1 {
				before = becomes[1]
			}
			return l.acknowledge(id, before), true
		// An earlier request, whose caller timed out, may still be on its way.
		case r.Code == "operation-pending":
		case r.Code == "unavailable" || r.Code == "overloaded":
			l.Unavailable.Add(1)
		case r.Code == "deadline-exceeded":
		default:
			l.t.Errorf("%s: want %v, got %d %s", id, becomes[0], r.Status, r.Text)
			return before, false
		}
		select {
		case <-ctx.Done():
			return before, false
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (l *Load) acknowledge(id string, now OrderState) OrderState {
	l.Acknowledged.Add(1)
	l.set(id, now)
	return now
}

func (l *Load) set(id string, allowed ...OrderState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allowed[id] = allowed
}

// WaitFor waits for n more final responses.
func (l *Load) WaitFor(n int64, logs func() string) {
	l.t.Helper()
	enough := l.Acknowledged.Load() + n
	wait.Until(l.t, limit, "requests get final responses", logs, func() bool { return l.Acknowledged.Load() >= enough })
}

// Check compares the orders with the responses that their callers got. Call it when
// all intents are settled.
func (l *Load) Check(logs func() string) {
	l.t.Helper()
	found := map[string]OrderState{}
	for path := "/v1/orders?limit=200"; path != ""; {
		var r Response
		wait.Until(l.t, limit, "orders are listed", logs, func() bool {
			r = l.Orders.Call(l.t.Context(), "GET", path, "")
			return r.Done() && r.Err == nil
		})
		for _, o := range r.Orders {
			if strings.HasPrefix(o.ID, l.Name+"-") {
				found[o.ID] = OrderState{o.State, o.Lines[0].Quantity}
			}
		}
		if path = ""; r.NextCursor != "" {
			path = "/v1/orders?limit=200&cursor=" + r.NextCursor
		}
	}
	for id, allowed := range l.allowed {
		if !slices.Contains(allowed, found[id]) {
			l.t.Errorf("%s is %v; according to its caller's responses it may be %v", id, found[id], allowed)
		}
		l.allowed[id] = []OrderState{found[id]}
		delete(found, id)
	}
	if len(found) > 0 {
		l.t.Errorf("orders that no caller placed: %v", found)
	}
}

// limit is how long a test waits for a condition on a busy machine.
const limit = 3 * time.Minute
